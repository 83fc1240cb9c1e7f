//! Running commands visibly: a line for each, with its duration.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// Runs `command` under a title; its output goes to the terminal.
///
/// # Errors
/// If it cannot be started or does not end with 0.
pub fn run(title: &str, command: &mut Command) -> Result<Duration> {
    eprintln!("==> {title}");
    let begin = Instant::now();
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot run {program}"))?;
    let took = begin.elapsed();
    if !status.success() {
        bail!("{title}: {program} ended with {status} after {:.1} s", took.as_secs_f32());
    }
    eprintln!("==> {title}: done in {:.1} s", took.as_secs_f32());
    Ok(took)
}

/// Runs `command` silently and returns what it printed; `None` if it failed or is not there.
pub fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
