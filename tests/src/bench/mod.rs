//! Benchmarks: our data paths beside what people use, on one machine in one run.
//!
//! The machine is shared and small, so what counts are ratios: all contenders are set up at once and
//! measured in turn (A B C, A B C, …), and medians are reported with their spread.

mod by_hand;
mod chart;
mod contender;
mod control;
mod core;
mod docker;
mod forward;
mod marks;
mod measure;
mod object;
mod pods;
mod programs;
mod report;

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, Result};
use clap::ValueEnum;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Section {
    /// Container to container across two nodes: TCP, UDP, latency.
    Pods,
    /// Frames through one node, on one core.
    Forward,
    /// Nanoseconds that each program takes for a packet.
    Programs,
    /// From a record in etcd to rows of maps, with up to a million endpoints.
    Control,
    /// The same containers in Docker, by its own overlay and by ours.
    Docker,
}

/// What to measure, and how long.
#[derive(Clone, Debug)]
pub struct Options {
    /// Rounds of all contenders in `pods`.
    pub rounds: usize,
    /// Seconds of each stream.
    pub seconds: u32,
    /// Round trips of each latency measurement.
    pub round_trips: usize,
    /// Rounds of all contenders in `forward` and `programs`.
    pub forward_rounds: usize,
    /// Bursts of frames in each round.
    pub bursts: usize,
    /// Frames in each burst.
    pub frames: u32,
    /// The most endpoints in `control`.
    pub endpoints: u32,
    /// Rounds of what is measured more than once there.
    pub control_rounds: usize,
    /// Changes that a node has to keep up with there.
    pub changes: u64,
    /// Where results go.
    pub output: PathBuf,
}

/// Says where the benchmark's own BPF object is. Needed before [`run`].
pub fn object(path: &Path) {
    object::set_path(path);
}

/// Runs sections, and ends with what all results in the output folder come to.
///
/// # Errors
/// If a contender cannot be set up or measured, or what was measured did not go by the fast path.
pub fn run(options: &Options, sections: &[Section]) -> Result<()> {
    eprintln!("{}", report::machine());
    let begin = Instant::now();
    for section in sections {
        let begin = Instant::now();
        match section {
            Section::Pods => pods::run(options).context("section pods"),
            Section::Forward => forward::run(options).context("section forward"),
            Section::Programs => programs::run(options).context("section programs"),
            Section::Control => control::run(options).context("section control"),
            Section::Docker => docker::run(options).context("section docker"),
        }?;
        eprintln!("section {section:?}: {:.0} s", begin.elapsed().as_secs_f32());
    }
    render(&options.output)?;
    eprintln!("all in {:.0} s", begin.elapsed().as_secs_f32());
    Ok(())
}

/// Judges what earlier runs left in a folder by the marks, and draws it.
///
/// # Errors
/// If a result cannot be read, or what it comes to cannot be written.
pub fn render(output: &Path) -> Result<()> {
    marks::judge(output)?;
    chart::draw(output)
}
