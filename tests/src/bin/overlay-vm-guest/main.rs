//! What runs in the virtual machines of `cargo xtask vm-test`: the tests, or one of two nodes. It
//! reports by the second serial port, a line for each thing, and ends with `end`.

mod card;
mod node;
mod report;
mod suite;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::report::Report;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Run tests
    Suite {
        /// A test program, and behind commas which of its tests
        #[arg(long, value_delimiter = None)]
        test: Vec<PathBuf>,
    },
    /// Be one of two nodes: the first tries everything out on both
    Node {
        /// 1 or 2
        number: u8,
    },
}

fn main() -> ExitCode {
    let role = Arguments::parse().role;
    let report = match Report::open() {
        Ok(report) => report,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    let result = match role {
        Role::Suite { test } => suite::run(&test, &report),
        Role::Node { number } => node::run(number, &report),
    };
    if let Err(error) = result {
        report.result("guest", Err(error));
    }
    report.end();
    ExitCode::SUCCESS
}
