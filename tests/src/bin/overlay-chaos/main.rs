//! A seeded random run: things are done to a cluster, good ones and bad ones, and after each burst of them
//! it must be as if nothing bad had happened.
//!
//! `cargo xtask chaos` builds and runs it.

mod fault;
mod guest;
mod journal;
mod keys;
mod leaks;
mod oracle;
mod reach;
mod report;
mod script;
mod stage;
mod step;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use journal::Journal;
use overlay_tests::cleanup;
use report::Report;
use script::Script;
use stage::{DATAPATHS, Stage};

/// Exit code of a program that Ctrl-C ended, as shells have it.
const INTERRUPTED: i32 = 130;

/// Do random things to a cluster and see that it gets over them (root)
#[derive(Parser)]
struct Arguments {
    /// What all that is random comes from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many steps
    #[arg(long, value_name = "N", default_value_t = 2000)]
    steps: usize,
    /// Do nothing: print the steps
    #[arg(long)]
    list: bool,
    /// Folder for what is kept of a failure
    #[arg(long, default_value = "target/chaos")]
    output: PathBuf,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all went well.
fn run(arguments: &Arguments) -> Result<bool> {
    let mut script = Script::new(arguments.seed, DATAPATHS.len());
    if arguments.list {
        list(&mut script, arguments.steps);
        return Ok(true);
    }
    ensure!(
        nix::unistd::geteuid().is_root(),
        "this makes network namespaces and loads BPF programs: be root"
    );
    ctrlc::set_handler(|| {
        eprintln!("\ninterrupted: cleaning up");
        cleanup::undo_all_and_exit(INTERRUPTED)
    })
    .context("cannot listen for Ctrl-C")?;
    // Daemons die with the thread that starts them: all is done on this one.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(play(arguments, &mut script))
}

fn list(script: &mut Script, count: usize) {
    let mut number = 0;
    while number < count {
        for step in script.burst().into_iter().take(count - number) {
            number += 1;
            println!("{number:5}  {step}");
        }
        println!("       heal and check");
    }
}

async fn play(arguments: &Arguments, script: &mut Script) -> Result<bool> {
    let count = arguments.steps;
    let journal = Journal::new();
    let mut stage = Stage::set(journal.clone())?;
    let mut report = Report::new(arguments.seed, count);
    let (mut number, mut checked, mut round) = (0, 0, 0);
    while number < count {
        let mut outcome = Ok(());
        for step in script.burst().into_iter().take(count - number) {
            number += 1;
            journal.note(number, step.to_string());
            report.count(&step);
            outcome = stage.perform(number, &step).await;
            if outcome.is_err() {
                break;
            }
        }
        let settled = match outcome {
            Ok(()) => oracle::settle(&mut stage, script.networks(), &journal, number, &mut round).await,
            Err(error) => Err(error),
        };
        match settled {
            Ok(settled) => report.settled(settled),
            Err(error) => {
                report.fail(&error, &journal, checked, &stage, &arguments.output)?;
                return Ok(false);
            }
        }
        checked = number;
    }
    report.finish();
    journal.keep(&arguments.output)?;
    Ok(true)
}
