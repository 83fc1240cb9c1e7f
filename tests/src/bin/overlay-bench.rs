//! `cargo xtask bench`: figures of our data paths beside what people use.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use overlay_tests::{bench, cleanup};

/// Measure container to container across two nodes (root)
#[derive(Parser)]
struct Arguments {
    /// Fewer and shorter rounds, for a first look
    #[arg(long)]
    quick: bool,
    /// Rounds of all contenders
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Folder for the results
    #[arg(long, default_value = "target/bench")]
    output: PathBuf,
}

fn main() -> ExitCode {
    let Arguments { quick, rounds, output } = Arguments::parse();
    if let Err(error) = ctrlc::set_handler(|| cleanup::undo_all_and_exit(130)) {
        eprintln!("error: cannot watch for Ctrl-C: {error}");
        return ExitCode::FAILURE;
    }
    let (default_rounds, seconds, round_trips) = if quick { (3, 2, 10_000) } else { (5, 6, 50_000) };
    let options =
        bench::Options { rounds: rounds.unwrap_or(default_rounds).max(1), seconds, round_trips, output };
    match bench::pods(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
