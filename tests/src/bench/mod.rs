//! Benchmarks: our data paths beside what people use, on one machine in one run.
//!
//! The machine is shared and small, so what counts are ratios: all peers are set up at once and
//! measured in turn (A B C, A B C, …), and medians are reported with their spread.

mod measure;
mod peer;
mod pods;
mod report;

use std::path::PathBuf;

use anyhow::Result;

/// What to measure, and how long.
#[derive(Clone, Debug)]
pub struct Options {
    /// Rounds of all peers.
    pub rounds: usize,
    /// Seconds of each stream.
    pub seconds: u32,
    /// Round trips of each latency measurement.
    pub round_trips: usize,
    /// Where results go.
    pub output: PathBuf,
}

/// Runs the section `pods`: container to container across two nodes, on both wires.
///
/// # Errors
/// If a peer cannot be set up or measured, or what was measured did not go by the fast path.
pub fn pods(options: &Options) -> Result<()> {
    pods::run(options)
}
