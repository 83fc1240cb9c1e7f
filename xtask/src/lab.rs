//! Builds and runs the programs of the tests package: the demo and the benchmark.

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{
    build::{self, Profile},
    workspace,
};

/// Builds all and becomes the program, so that Ctrl-C and the exit status are the program's.
///
/// # Errors
/// If not root, or something does not build.
pub fn run(program: &str, arguments: Vec<OsString>) -> Result<()> {
    if !workspace::is_root() {
        bail!("{program} makes network namespaces and loads BPF programs: run it as root");
    }
    build::build(Profile::Release)?;
    let path = Profile::Release.dir().join(program);
    let error = Command::new(&path).args(arguments).exec();
    Err(error).with_context(|| format!("cannot run {}", path.display()))
}
