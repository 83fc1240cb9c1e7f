//! Builds what the benchmark needs, and runs it.

use std::ffi::OsString;

use anyhow::Result;

use crate::{
    docker,
    ebpf::{self, Object},
    lab,
    requirement::{DOCKER_REQUIREMENTS, REQUIREMENTS},
    setup, workspace,
};

/// Runs the benchmark, with the options of the command line.
///
/// # Errors
/// If something is missing, does not build or cannot be measured.
pub fn bench(quick: bool, sections: &[String], rounds: Option<usize>, render: bool) -> Result<()> {
    setup::ensure_all(&[REQUIREMENTS, DOCKER_REQUIREMENTS])?;
    docker::ensure()?;
    let object = ebpf::build_object(Object::Bench)?;
    let output = workspace::root().join("target/bench");
    let mut arguments: Vec<OsString> = vec!["--object".into(), object.into()];
    arguments.extend(["--output".into(), output.into()]);
    arguments.extend(quick.then(|| "--quick".into()));
    arguments.extend(render.then(|| "--render".into()));
    arguments.extend(sections.iter().flat_map(|section| ["--section".into(), section.into()]));
    arguments.extend(rounds.into_iter().flat_map(|rounds| ["--rounds".into(), rounds.to_string().into()]));
    lab::run("overlay-bench", arguments)
}
