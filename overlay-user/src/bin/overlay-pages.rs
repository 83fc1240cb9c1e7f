//! Writes what is made from the programs' command lines: manual pages, completions for shells, and a settings
//! file to begin with. `cargo xtask dist` packs them.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use clap::{Command, CommandFactory as _, Parser};
use clap_complete::Shell;
use clap_mangen::Man;
use overlay_user::{
    cli::Cli,
    config::{self, CommandLine},
};

/// Programs of the administrator's (man-pages(7)).
const SECTION: &str = "8";

const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// Writes manual pages, completions for shells and a settings file
#[derive(Debug, Parser)]
struct Arguments {
    /// Directory to write them into; it gets `man`, `bash`, `zsh`, `fish` and `overlayd.toml`
    directory: std::path::PathBuf,
}

fn main() -> Result<()> {
    let Arguments { directory } = Arguments::parse();
    for command in [CommandLine::command(), Cli::command()] {
        complete(&command, &directory)?;
        let mut command = command.disable_help_subcommand(true);
        command.build();
        describe(&command, &directory.join("man"))?;
    }
    write(&directory.join("overlayd.toml"), config::sample().as_bytes())
}

fn complete(command: &Command, directory: &Path) -> Result<()> {
    for shell in SHELLS {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut command.clone(), command.get_name(), &mut script);
        let file = match shell {
            Shell::Zsh => format!("_{}", command.get_name()),
            Shell::Fish => format!("{}.fish", command.get_name()),
            _ => command.get_name().to_owned(),
        };
        write(&directory.join(shell.to_string()).join(file), &script)?;
    }
    Ok(())
}

/// A page for a command, and one for each of its own.
fn describe(command: &Command, directory: &Path) -> Result<()> {
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        describe(inner, directory)?;
    }
    let name = command.get_display_name().unwrap_or(command.get_name());
    let mut page = Vec::new();
    let man = Man::new(command.clone()).section(SECTION).manual("Overlay networks");
    man.render(&mut page)?;
    write(&directory.join(format!("{name}.{SECTION}")), &page)
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}
