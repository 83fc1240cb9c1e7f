//! The command line of `overlayd`.

use std::path::PathBuf;

use clap::Parser;

use super::Options;

/// Forwards the overlay networks of this node
#[derive(Debug, Parser)]
#[command(name = "overlayd", version)]
pub struct CommandLine {
    /// TOML file with the same settings, named like the flags; flags and variables go before it
    #[arg(long, env = "OVERLAY_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Take everything of ours out of the kernel (programs, pins, devices) and exit
    #[arg(long)]
    pub purge: bool,

    /// Everything that the file may say too.
    #[command(flatten)]
    pub options: Options,
}
