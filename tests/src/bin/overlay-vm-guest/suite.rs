//! Test programs of the workspace, in this kernel.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use overlay_tests::exec;

use crate::report::Report;

const MODULES: [&str; 8] =
    ["veth", "bridge", "vxlan", "nf_tables", "nf_tables_set", "nft_counter", "nft_limit", "nft_objref"];

/// Runs test programs, each with the names of its tests behind commas.
pub fn run(tests: &[PathBuf], report: &Report) -> Result<()> {
    exec::output(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    // What a daemon would else wait for while somebody waits for it: from another machine's disk, emulated, a
    // module takes seconds. Not every kernel has each of them.
    exec::run(Command::new("modprobe").args(["-aq"]).args(MODULES))?;
    for test in tests {
        let words = test.to_string_lossy();
        let mut words = words.split(',');
        let program = Path::new(words.next().unwrap_or_default());
        let filters: Vec<&str> = words.collect();
        let name = name(program);
        report.progress(&format!("test {name}"));
        let begin = Instant::now();
        let result = one(program, &filters, report);
        let seconds = begin.elapsed().as_secs();
        report
            .result(&format!("test {name}"), result.map(|passed| format!("{passed} passed in {seconds} s")));
    }
    Ok(())
}

/// The name of a test by that of its program, which ends with a hash.
fn name(program: &Path) -> String {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    name.rsplit_once('-').map_or_else(|| name.to_string(), |(name, _)| name.to_owned())
}

fn one(program: &Path, filters: &[&str], report: &Report) -> Result<String> {
    let mut command = Command::new(program);
    command.args(["--test-threads", "1", "--show-output"]).args(filters).env("RUST_BACKTRACE", "0");
    let output = exec::run(&mut command)?;
    let text = String::from_utf8_lossy(&output.stdout);
    // The console has it all.
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    for line in text.lines() {
        if let ["verified", program, count] = line.split(' ').collect::<Vec<_>>()[..] {
            report.verified(program, count);
        }
    }
    let passed = text.lines().find_map(|line| {
        line.strip_prefix("test result: ")?
            .split_once(". ")?
            .1
            .split_once(" passed")
            .map(|(n, _)| n.to_owned())
    });
    if !output.status.success() {
        let failed: Vec<_> =
            text.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED")).collect();
        bail!("{}: {}", output.status, failed.join(", "));
    }
    passed.context("the tests do not tell how many passed")
}
