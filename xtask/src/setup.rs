//! Installs what is missing. Running it again changes nothing.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{
    debian, docker, nftables,
    requirement::{DEBIAN_REQUIREMENTS, DOCKER_REQUIREMENTS, REQUIREMENTS, Requirement},
    step, toolchain,
    workspace::{self, find_program},
};

/// The linker of BPF programs. This version loads LLVM at run time, and reads what rustc 1.95 to
/// 1.97 write.
const BPF_LINKER_VERSION: &str = "0.10.3";

/// Debian's compiler of recent Rust and its source.
const BPF_TOOLCHAIN: [(&str, &str); 2] =
    [("rustc-web", "compile for BPF"), ("rust-web-src", "the source of Rust's core library")];

/// Installs what is missing and says each thing it does or finds.
///
/// # Errors
/// If something is missing and cannot be installed here; the text says what to do.
pub fn setup() -> Result<()> {
    let all = [REQUIREMENTS, DOCKER_REQUIREMENTS, DEBIAN_REQUIREMENTS];
    for requirement in all.into_iter().flatten().filter(|requirement| requirement.is_met()) {
        eprintln!("{:20} there", requirement.package);
    }
    ensure_all(&all)?;
    docker::ensure()?;
    nftables::ensure()?;
    debian::ensure()?;
    eprintln!("{:20} {}", "BPF toolchain", toolchain::find()?.name);
    if let Some(linker) = bpf_linker() {
        eprintln!("{:20} {}", "bpf-linker", linker.display());
    }
    eprintln!("everything is set up");
    Ok(())
}

/// As [`setup`], but silent about what is there already.
///
/// # Errors
/// As [`setup`].
pub fn ensure() -> Result<()> {
    ensure_all(&[REQUIREMENTS])
}

/// As [`ensure`], for these requirements.
///
/// # Errors
/// As [`setup`].
pub fn ensure_all(requirements: &[&[Requirement]]) -> Result<()> {
    let packages = missing_packages(requirements);
    if !packages.is_empty() {
        install(&packages)?;
        // A toolchain that is there after all that and unusable is worth its full message.
        toolchain::find()?;
        if let Some((package, _)) = missing_packages(requirements).first() {
            bail!("{package} was installed, but what it is for is still not there");
        }
    }
    if bpf_linker().is_none() {
        build_bpf_linker()?;
    }
    Ok(())
}

/// Debian packages to install, and what each is for.
fn missing_packages(requirements: &[&[Requirement]]) -> Vec<(&'static str, &'static str)> {
    let missing = requirements.iter().copied().flatten().filter(|requirement| !requirement.is_met());
    let toolchain = if toolchain::find().is_ok() { &[][..] } else { &BPF_TOOLCHAIN[..] };
    let mut packages: Vec<_> =
        missing.map(|r| (r.package, r.purpose)).chain(toolchain.iter().copied()).collect();
    packages.dedup();
    packages
}

fn install(packages: &[(&str, &str)]) -> Result<()> {
    let list = packages
        .iter()
        .fold(String::new(), |text, (package, purpose)| format!("{text}\n  {package:20} {purpose}"));
    let names: Vec<_> = packages.iter().map(|(package, _)| *package).collect();
    let distribution = distribution();
    if distribution != "debian" {
        bail!(
            "these are missing, and this program knows only Debian's packages, not those of {distribution:?}. \
             Install what corresponds to:{list}\n\
             Instead of rustc-web and rust-web-src, rustup can do: rustup component add rust-src"
        );
    }
    if !workspace::is_root() {
        bail!(
            "these are missing:{list}\nRun as root: apt-get install --no-install-recommends {}",
            names.join(" ")
        );
    }
    eprintln!("Installing what is missing:{list}");
    if step::run("install packages", &mut apt(&names)).is_err() {
        // The package lists may be old or not there at all.
        step::run("update package lists", Command::new("apt-get").args(["update", "-q"]))?;
        step::run("install packages", &mut apt(&names))?;
    }
    Ok(())
}

fn apt(packages: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["install", "-q", "--yes", "--no-install-recommends"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// `ID` of /etc/os-release.
fn distribution() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let id = text.lines().find_map(|line| line.strip_prefix("ID=")).unwrap_or("an unknown distribution");
    id.trim_matches('"').to_owned()
}

/// The linker of the wanted version: ours, or one on `PATH`.
pub fn bpf_linker() -> Option<PathBuf> {
    let ours = workspace::tools().join("bin/bpf-linker");
    [Some(ours), find_program("bpf-linker")].into_iter().flatten().find(|path| {
        step::output(Command::new(path).arg("--version"))
            .is_some_and(|version| version.split_whitespace().any(|word| word == BPF_LINKER_VERSION))
    })
}

fn build_bpf_linker() -> Result<()> {
    let mut command = Command::new(workspace::cargo_path());
    command
        .current_dir(workspace::root())
        .args(["install", "--locked", "--version", BPF_LINKER_VERSION, "bpf-linker", "--root"])
        .arg(workspace::tools());
    step::run(&format!("build bpf-linker {BPF_LINKER_VERSION} (about two minutes)"), &mut command)
        .context("bpf-linker could not be built")
        .map(|_| ())
}
