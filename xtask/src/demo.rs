//! Builds and runs the demo.

use std::{os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{
    build::{self, Profile},
    workspace,
};

/// Builds all and becomes the demo, so that Ctrl-C and the exit status are the demo's.
///
/// # Errors
/// If not root, or something does not build.
pub fn demo() -> Result<()> {
    if !workspace::is_root() {
        bail!("the demo makes network namespaces and loads BPF programs: run it as root");
    }
    build::build(Profile::Release)?;
    let program = Profile::Release.dir().join("overlay-demo");
    let error = Command::new(&program).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}
