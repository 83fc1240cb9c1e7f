//! Builds what the random run needs, and runs it.

use std::ffi::OsString;

use anyhow::Result;

use crate::{lab, setup, workspace};

/// Does the first `steps` steps of a seed to a cluster, or lists them.
///
/// # Errors
/// If something is missing or does not build.
pub fn chaos(seed: u64, steps: usize, list: bool) -> Result<()> {
    setup::ensure()?;
    let output = workspace::root().join(format!("target/chaos/seed-{seed}"));
    let mut arguments: Vec<OsString> = vec!["--seed".into(), seed.to_string().into()];
    arguments.extend(["--steps".into(), steps.to_string().into()]);
    arguments.extend(["--output".into(), output.into()]);
    arguments.extend(list.then(|| "--list".into()));
    lab::run("overlay-chaos", arguments)
}
