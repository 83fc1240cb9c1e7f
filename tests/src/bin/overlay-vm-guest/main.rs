//! What runs in the virtual machines of `cargo xtask vm-test`: the tests, or one of two nodes. It
//! reports by the second serial port, a line for each thing, and ends with `end`.

mod card;
mod load;
mod meeting;
mod node;
mod report;
mod side;
mod store;
mod suite;
mod upgrade;

use std::{
    cell::RefCell,
    path::PathBuf,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::{Parser, Subcommand};
use overlay_tests::exec::{self, eventually};

use crate::{
    card::{Card, ip},
    meeting::Meeting,
    report::Report,
    side::Side,
};

/// How long a step may take: emulated, and beside another.
const PATIENCE: Duration = Duration::from_mins(2);

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
    /// Be one of two nodes: the second's daemon is replaced while the first one floods it
    Upgrade {
        /// 1 or 2
        number: u8,
    },
}

/// What a node brings to all rounds with the other.
struct Pair<'a> {
    /// 1 or 2.
    number: u8,
    meeting: RefCell<Meeting>,
    report: &'a Report,
}

impl Pair<'_> {
    /// Meets the other node, and goes through rounds with it.
    fn run(number: u8, report: &Report, rounds: impl FnOnce(&Pair<'_>)) -> Result<()> {
        exec::output(Command::new("modprobe").args(["-a", "virtio_net", "e1000", "8021q"]))?;
        ip("link set lo up")?;
        eventually(PATIENCE, || Card::Control.set_up(number))?;
        let _etcd = if number == 1 { Some(store::start()?) } else { None };
        let pair = Pair { number, meeting: RefCell::new(Meeting::open(number)?), report };
        rounds(&pair);
        pair.meeting.into_inner().gather("over")
    }

    /// This node's part in a round, and how long it took.
    fn round(
        &self,
        name: &'static str,
        card: Card,
        vlan: bool,
        part: impl FnOnce(&Side<'_>) -> Result<String>,
    ) -> Result<String> {
        self.report.progress(name);
        let begin = Instant::now();
        let side = Side {
            number: self.number,
            round: name,
            card,
            vlan,
            meeting: &self.meeting,
            report: self.report,
        };
        let text = side.run(part)?;
        Ok(format!("{text}; in {} s", begin.elapsed().as_secs()))
    }
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
        Role::Node { number } => Pair::run(number, &report, node::run),
        Role::Upgrade { number } => Pair::run(number, &report, upgrade::run),
    };
    if let Err(error) = result {
        report.result("guest", Err(error));
    }
    report.end();
    ExitCode::SUCCESS
}
