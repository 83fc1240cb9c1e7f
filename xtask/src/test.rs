//! Format, lints, unit tests, and everything that needs root.

use std::{
    cell::Cell,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::{
    build::{self, Profile},
    debian, dist, docker, ebpf, nftables,
    requirement::{DEBIAN_REQUIREMENTS, DIST_REQUIREMENTS, DOCKER_REQUIREMENTS, REQUIREMENTS},
    setup, step, workspace,
};

/// What one step came to.
struct Outcome {
    title: &'static str,
    took: Duration,
    result: Result<()>,
}

/// Runs everything, goes on after a failure, and ends with a summary. `full` includes the tests that are
/// ignored otherwise, because they take long.
///
/// # Errors
/// If something is missing or any step failed.
pub fn test(filter: Option<&str>, full: bool) -> Result<()> {
    setup::ensure_all(&[REQUIREMENTS, DOCKER_REQUIREMENTS, DIST_REQUIREMENTS, DEBIAN_REQUIREMENTS])?;
    let mut outcomes = Vec::new();
    let tests = Cell::new(0);
    let cargo_test = |title: &str, packages: &[&str]| {
        tests.set(tests.get() + cargo_test(title, packages, filter, full)?);
        Ok(())
    };
    let mut step = |title: &'static str, action: &mut dyn FnMut() -> Result<()>| {
        let begin = Instant::now();
        let result = action();
        if let Err(error) = &result {
            eprintln!("FAILED {error:#}");
        }
        let passed = result.is_ok();
        outcomes.push(Outcome { title, took: begin.elapsed(), result });
        passed
    };

    if filter.is_none() {
        step("format", &mut || run("format", &["fmt", "--all", "--check"], &[]));
    }
    // Lints and tests of overlayd embed the object.
    let programs = step("BPF programs", &mut || ebpf::build().map(|_| ()));
    if programs {
        if filter.is_none() {
            step("lints, host", &mut || {
                let packages =
                    ["--package", "overlay-user", "--package", "overlay-tests", "--package", "xtask"];
                run("lints, host", &["clippy", "--all-targets"], &[&packages[..], DENY_WARNINGS].concat())
            });
            step("lints, BPF", &mut || {
                // For the host's target: Debian's compiler, which builds them for BPF, has no clippy.
                run(
                    "lints, shared",
                    &["clippy", "--package", "overlay-ebpf", "--all-targets"],
                    DENY_WARNINGS,
                )?;
                let programs = ["clippy", "--package", "overlay-ebpf", "--bins", "--features", "programs"];
                run("lints, BPF programs", &programs, DENY_WARNINGS)
            });
        }
        step("shared code", &mut || cargo_test("shared code", &["--package", "overlay-ebpf", "--lib"]));
        let user = ["--package", "overlay-user", "--lib", "--bins"];
        step("user space", &mut || cargo_test("user space", &user));
        step("privileged", &mut || {
            prepare_privileged(full)?;
            cargo_test("privileged", PRIVILEGED)
        });
    }
    if let Some(filter) = filter
        && tests.get() == 0
        && outcomes.iter().all(|outcome| outcome.result.is_ok())
    {
        bail!("no test has {filter:?} in its name");
    }
    summarise(&outcomes, tests.get())
}

const DENY_WARNINGS: &[&str] = &["--", "--deny", "warnings"];

/// Everything that makes network namespaces or loads programs.
const PRIVILEGED: &[&str] =
    &["--package", "overlay-user", "--package", "overlay-tests", "--test", "*", "--no-fail-fast"];

/// What the privileged tests need: root, and the programs they run.
fn prepare_privileged(full: bool) -> Result<()> {
    if !workspace::is_root() {
        bail!(
            "not run, and so not passed: these tests make network namespaces and load BPF programs. Be root"
        );
    }
    docker::ensure()?;
    nftables::ensure()?;
    if full {
        docker::ensure_old()?;
    }
    build::host(Profile::Debug)?;
    debian::ensure()?;
    dist::packages(Profile::Debug).map(drop)
}

/// Runs tests and returns how many passed.
fn cargo_test(title: &str, packages: &[&str], filter: Option<&str>, full: bool) -> Result<usize> {
    let mut command = workspace::cargo();
    command.arg("test").args(packages).arg("--").args(filter).args(full.then_some("--include-ignored"));
    step::run_tests(title, &mut command)
}

fn run(title: &str, arguments: &[&str], more: &[&str]) -> Result<()> {
    let mut command: Command = workspace::cargo();
    command.args(arguments).args(more);
    step::run(title, &mut command).map(|_| ())
}

fn summarise(outcomes: &[Outcome], tests: usize) -> Result<()> {
    eprintln!();
    for Outcome { title, took, result } in outcomes {
        let verdict = if result.is_ok() { "ok" } else { "FAILED" };
        eprintln!("{title:16} {verdict:8} {:7.1} s", took.as_secs_f32());
    }
    let total: Duration = outcomes.iter().map(|outcome| outcome.took).sum();
    let failed: Vec<_> = outcomes.iter().filter(|outcome| outcome.result.is_err()).map(|o| o.title).collect();
    if failed.is_empty() {
        eprintln!("all passed, {tests} tests in {:.0} s", total.as_secs_f32());
        Ok(())
    } else {
        bail!("failed: {}", failed.join(", "))
    }
}
