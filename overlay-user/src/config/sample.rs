//! A settings file to begin with: every setting with what it is for and its default, commented out.

use std::fmt::Write as _;

use clap::{Arg, Args as _, Command};

use super::Options;

const HEADING: &str = "\
# Settings of overlayd. What is commented out is what holds anyway, or an example where there is no default. Each
# is also a flag and a variable (overlayd --help), which go before this file. A change takes a restart, in
# which no packet is lost.
";

/// The text of that file, made from the flags.
#[must_use]
pub fn sample() -> String {
    let command = Options::augment_args(Command::new("overlayd"));
    command.get_arguments().fold(HEADING.to_owned(), |mut text, argument| {
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(
            text,
            "\n# {help}\n#{} = {}",
            argument.get_id().as_str().replace('_', "-"),
            value(argument, &help)
        );
        text
    })
}

/// The default that the help names, or what a value looks like.
fn value(argument: &Arg, help: &str) -> String {
    let default = help.rsplit_once("[default: ").and_then(|(_, rest)| rest.strip_suffix(']'));
    let names = argument.get_value_names().unwrap_or_default();
    let shape = names.first().map_or("", |name| name.as_str());
    match default {
        // What is more than a word describes a default that no file could hold.
        Some(default) if !default.contains(' ') && default.parse::<u64>().is_ok() => default.to_owned(),
        Some(default) if !default.contains(' ') => format!("{default:?}"),
        _ if shape == "BOOL" => "false".to_owned(),
        _ => format!("{shape:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_says_is_a_settings_file_and_holds_anyway() {
        let sample = sample();
        assert_eq!(toml::from_str::<Options>(&sample).unwrap(), Options::default(), "all is commented out");
        let lines =
            sample.lines().filter_map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')));
        let lines: Vec<_> = lines.collect();
        let settings: Options = toml::from_str(&lines.join("\n")).unwrap();
        let silent = Options::default();
        assert_eq!(lines.len(), Options::augment_args(Command::new("overlayd")).get_arguments().count());
        assert_ne!(settings, silent);
        assert_eq!((settings.port, settings.cluster.as_deref()), (Some(4789), Some("default")));
        assert_eq!(settings.bpffs.unwrap().to_str(), Some("/sys/fs/bpf/overlay"));
    }
}
