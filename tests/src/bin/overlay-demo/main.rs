//! The demo: three nodes, one with each data path, forward for each other, and survive.
//!
//! `cargo xtask demo` builds and runs it.

mod checks;
mod look;
mod report;
mod stage;

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use overlay_tests::cleanup;
use report::Report;
use stage::Stage;

/// Exit code of a program that Ctrl-C ended, as shells have it.
const INTERRUPTED: i32 = 130;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every check passed.
fn run() -> Result<bool> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the demo makes network namespaces and loads BPF programs: be root"
    );
    ctrlc::set_handler(|| {
        report::interrupt();
        eprintln!("\ninterrupted: cleaning up");
        cleanup::undo_all_and_exit(INTERRUPTED)
    })
    .context("cannot listen for Ctrl-C")?;

    let mut report = Report::new();
    let mut stage = report.require("three nodes, two networks, twelve containers", Stage::set)?;
    report.check("every container reaches every other of its network", || checks::ping(&stage));
    report.check("100 MB by TCP between nodes arrive unchanged", || checks::transfers(&stage));
    report.check("networks with the same addresses do not meet", || checks::isolation(&stage));
    report.check("a packet on the wire is plain VXLAN", || look::packet(&stage));
    report.check("kill -9 of a daemon loses no packet", || checks::kill(&mut stage));
    report.check("overlayctl status", || look::status(&stage));
    report.check("bpftool map dump", || look::map(&stage));
    drop(stage);
    Ok(report.finish())
}
