//! Boots Debian's kernels in QEMU and runs our programs in them.
//!
//! The guest's root file system is this machine's, read-only over 9p with a memory-backed layer on top: what
//! was built here runs there. QEMU's software emulation is enough, so this needs no KVM; its speed says
//! nothing about ours.

mod guest;
mod kernel;
mod machine;
mod report;
mod wire;

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};

use self::{
    guest::Guest,
    kernel::Kernel,
    machine::{Card, Machine},
    report::{Outcome, Report},
    wire::Wire,
};
use crate::{
    build::{self, Profile},
    nftables,
    packages::{Packages, Release},
    requirement::{REQUIREMENTS, VM_REQUIREMENTS},
    setup, workspace,
};

/// Kernels that are tested if none is named: the oldest that the programs load on, and one of each
/// release since.
const KERNELS: [&str; 4] = ["5.10", "6.1", "6.12", "7"];

/// Releases that have kernels of interest.
const RELEASES: [Release; 4] = [
    Release { name: "bullseye", security: true },
    Release { name: "bookworm", security: true },
    Release { name: "trixie", security: false },
    Release { name: "trixie-backports", security: false },
];

/// What of the tests runs in a guest: the test program, and which of its tests; none: all.
const SUITE: [(&str, &[&str]); 7] = [
    ("verifier", &[]),
    ("programs", &[]),
    ("lab", &["two_vteps"]),
    ("differential", &[]),
    ("clusters", &["containers_of_one_node"]),
    ("coexistence", &["where_bpf_is_refused"]),
    ("nftables", &[]),
];

/// What can be run by itself.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// How long the verifier takes for each program
    Verifier,
    /// That and the other tests
    Tests,
    /// Two nodes that forward for each other
    Nodes,
    /// A node's daemon that is replaced under load
    Upgrade,
}

/// How long one virtual machine may run. Emulation on a busy machine is slow.
const SUITE_LIMIT: Duration = Duration::from_mins(30);
const PAIR_LIMIT: Duration = Duration::from_mins(30);

/// Tests the kernels whose versions begin with these names, or the usual ones; one part, or all.
///
/// # Errors
/// If a kernel cannot be had, or anything failed in one.
pub fn test(names: &[String], part: Option<Part>) -> Result<()> {
    if !workspace::is_root() {
        bail!(
            "vm-test joins virtual machines by tap interfaces and reads all of this machine's files: be root"
        );
    }
    if std::env::consts::ARCH != "x86_64" {
        bail!("vm-test knows Debian's kernels for x86_64 only");
    }
    let names: Vec<&str> =
        if names.is_empty() { KERNELS.to_vec() } else { names.iter().map(String::as_str).collect() };
    setup::ensure_all(&[REQUIREMENTS, VM_REQUIREMENTS])?;
    build::build(Profile::Debug)?;
    nftables::ensure()?;
    let suite = match part {
        Some(Part::Verifier) => &SUITE[..1],
        Some(Part::Nodes | Part::Upgrade) => &[],
        Some(Part::Tests) | None => &SUITE[..],
    };
    let programs = guest::build_tests(suite)?;
    let packages = Packages::open(&directory(), &RELEASES)?;
    let mut report = Report::default();
    let mut kernels = Vec::new();
    for name in names {
        kernels.push(Kernel::find(&packages, name)?);
    }
    for kernel in &kernels {
        let guest = Guest::prepare(&packages, kernel, &directory())?;
        if !programs.is_empty() {
            report.add(guest.release(), run_tests(&guest, &programs)?);
        }
        if matches!(part, Some(Part::Nodes) | None) {
            eprintln!("==> {}: two nodes", guest.release());
            report.add(guest.release(), pair(&guest, "node")?);
        }
        if matches!(part, Some(Part::Upgrade) | None) {
            eprintln!("==> {}: a daemon is replaced under load", guest.release());
            report.add(guest.release(), pair(&guest, "upgrade")?);
        }
    }
    report.finish(&directory().join("report.txt"))
}

/// Everything of `vm-test`'s that is kept.
fn directory() -> PathBuf {
    workspace::root().join("target/vm")
}

/// One machine that runs tests.
fn run_tests(guest: &Guest, programs: &[String]) -> Result<Outcome> {
    eprintln!("==> {}: tests", guest.release());
    let mut arguments = vec!["suite".to_owned()];
    for program in programs {
        arguments.extend(["--test".to_owned(), program.clone()]);
    }
    let machine = Machine::start(guest, "suite", &arguments.join(" "), &[])?;
    Ok(Outcome::of(guest.release(), "tests", vec![machine.follow(SUITE_LIMIT)?]))
}

/// Two machines, each a node with a card of each kind, in what the guest program calls `role`.
fn pair(guest: &Guest, role: &str) -> Result<Outcome> {
    let wire = Wire::new()?;
    let start = |number: u8| {
        let cards =
            [Card::control(number), Card::virtio(number), Card::e1000(number)].map(|card| wire.plug(card));
        let cards = cards.into_iter().collect::<Result<Vec<_>>>()?;
        Machine::start(guest, &format!("{role}{number}"), &format!("{role} {number}"), &cards)
    };
    let (first, second) = (start(1)?, start(2)?);
    let first = first.follow(PAIR_LIMIT);
    // It ends by itself once the first has; what went wrong is there too.
    let second = second.follow(Duration::from_secs(30));
    Ok(Outcome::of(guest.release(), role, vec![first?, second?]))
}

/// Writes a file below `target/vm`.
fn write(path: &std::path::Path, content: impl AsRef<[u8]>) -> Result<()> {
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

/// Makes a directory.
fn create_dir(path: &std::path::Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))
}
