//! Mistakes on the command line, in one line.

use std::{io::Write as _, process::exit};

use clap::{Parser, error::ErrorKind};

/// Exit code for a command line that makes no sense.
const USAGE: i32 = 2;

/// Parses this process's command line and environment. What clap says in several lines becomes one.
#[must_use]
pub fn parse_or_exit<T: Parser>() -> T {
    T::try_parse().unwrap_or_else(|error| match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => error.exit(),
        _ => {
            let _ = writeln!(std::io::stderr(), "{}", one_line(&error.to_string()));
            exit(USAGE)
        }
    })
}

fn one_line(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut line = String::new();
    for part in lines {
        if !line.is_empty() {
            let goes_on = line.ends_with([':', ',']) || part.starts_with('[');
            line.push_str(if goes_on { " " } else { "; " });
        }
        line.push_str(part);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;

    #[test]
    fn a_mistake_is_one_line_that_names_it() {
        let error = Cli::try_parse_from(["overlayctl", "-o", "yaml", "status"]).unwrap_err();
        assert_eq!(
            one_line(&error.to_string()),
            "error: invalid value 'yaml' for '--output <FORMAT>' [possible values: table, json]; \
             For more information, try '--help'."
        );
        let error = Cli::try_parse_from(["overlayctl", "network", "rm"]).unwrap_err();
        assert_eq!(
            one_line(&error.to_string()),
            "error: the following required arguments were not provided: <NAME>...; \
             Usage: overlayctl network rm <NAME>...; For more information, try '--help'."
        );
    }
}
