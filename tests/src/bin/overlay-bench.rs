//! `cargo xtask bench`: figures of our data paths beside what people use.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use overlay_tests::{
    bench::{self, Options, Section},
    cleanup,
};

/// Measure our data paths beside what people use (root)
#[derive(Parser)]
struct Arguments {
    /// Fewer and shorter rounds, for a first look
    #[arg(long)]
    quick: bool,
    /// Only these sections
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["pods", "forward", "programs", "control"])]
    section: Vec<Section>,
    /// Rounds of all contenders
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// The most endpoints in `control`
    #[arg(long, value_name = "N")]
    endpoints: Option<u32>,
    /// Measure nothing: judge and draw what earlier runs left
    #[arg(long)]
    render: bool,
    /// The benchmark's own BPF programs
    #[arg(long, default_value = "target/bpf/bench.bpf.o")]
    object: PathBuf,
    /// Folder for the results
    #[arg(long, default_value = "target/bench")]
    output: PathBuf,
}

fn main() -> ExitCode {
    let Arguments { quick, section, rounds, endpoints, render, object, output } = Arguments::parse();
    if let Err(error) = ctrlc::set_handler(|| cleanup::undo_all_and_exit(130)) {
        eprintln!("error: cannot watch for Ctrl-C: {error}");
        return ExitCode::FAILURE;
    }
    bench::object(&object);
    let mut options = if quick {
        Options {
            rounds: 2,
            seconds: 1,
            round_trips: 5_000,
            forward_rounds: 2,
            bursts: 5,
            frames: 50_000,
            endpoints: 10_000,
            control_rounds: 1,
            changes: 10_000,
            output,
        }
    } else {
        Options {
            rounds: 5,
            seconds: 3,
            round_trips: 50_000,
            forward_rounds: 7,
            bursts: 11,
            frames: 100_000,
            endpoints: 1_000_000,
            control_rounds: 3,
            changes: 40_000,
            output,
        }
    };
    if let Some(rounds) = rounds {
        let rounds = rounds.max(1);
        (options.rounds, options.forward_rounds, options.control_rounds) = (rounds, rounds, rounds);
    }
    options.endpoints = endpoints.unwrap_or(options.endpoints);
    let result = if render { bench::render(&options.output) } else { bench::run(&options, &section) };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
