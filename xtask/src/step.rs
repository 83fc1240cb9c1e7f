//! Running commands visibly: a line for each, with its duration.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
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

/// Runs `cargo test` under a title and returns how many tests passed. Test programs of which none
/// was run are not mentioned.
///
/// # Errors
/// If it cannot be started, a test failed, or it did not build.
pub fn run_tests(title: &str, command: &mut Command) -> Result<usize> {
    eprintln!("==> {title}");
    let begin = Instant::now();
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
    let mut passed = 0;
    let mut empty = false;
    for line in BufReader::new(child.stdout.take().context("cargo has no output")?).lines() {
        let line = line.context("cannot read what the tests say")?;
        if line.starts_with("running ") {
            empty = line == "running 0 tests";
        }
        if let Some(rest) = line.strip_prefix("test result: ") {
            let count = rest.split_whitespace().nth(1).and_then(|count| count.parse::<usize>().ok());
            passed += count.unwrap_or(0);
        }
        if !empty && !line.is_empty() {
            println!("{line}");
        }
    }
    let status = child.wait().context("cannot wait for cargo")?;
    let took = begin.elapsed().as_secs_f32();
    if !status.success() {
        bail!("{title}: cargo test ended with {status} after {took:.1} s");
    }
    eprintln!("==> {title}: {passed} tests passed in {took:.1} s");
    Ok(passed)
}

/// Runs `command` silently and returns what it printed; `None` if it failed or is not there.
pub fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
