//! Docker as Debian's newest release has it, beside the one that is installed: unpacked, not installed.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::{
    packages::{Packages, Release},
    workspace,
};

/// Where the newest is: sid has it before a release does.
const RELEASE: Release = Release { name: "sid", security: false };

/// What of it is needed. Its runc wants a newer C library than this machine has; the installed one does.
const PACKAGES: [&str; 2] = ["docker.io", "containerd"];

/// Fetches it, unless that was done before. To get a newer one, remove `target/docker`.
///
/// # Errors
/// If it cannot be fetched or unpacked.
pub fn ensure() -> Result<()> {
    let programs = directory().join("newest");
    if programs.join("usr/sbin/dockerd").is_file() && programs.join("usr/bin/containerd").is_file() {
        return Ok(());
    }
    eprintln!("Docker of Debian's {} is not there: fetching it into {}", RELEASE.name, programs.display());
    let packages = Packages::open(&directory(), &[RELEASE])?;
    packages
        .unpack(&PACKAGES.map(str::to_owned), &programs)
        .with_context(|| format!("cannot get Docker of Debian's {}", RELEASE.name))
}

/// The last release that has consul, and a Docker that was built with it: later ones of Debian's know etcd alone.
const OLD_RELEASE: Release = Release { name: "bullseye", security: false };
const OLD_PACKAGES: [&str; 2] = ["consul", "docker.io"];

/// Fetches consul, which was Docker's store for all nodes at some sites, and a Docker that takes it, unless that was
/// done before.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_old() -> Result<()> {
    let programs = directory().join("old");
    if programs.join("usr/bin/consul").is_file() && programs.join("usr/sbin/dockerd").is_file() {
        return Ok(());
    }
    eprintln!("consul and Docker of Debian's {} are not there: fetching them", OLD_RELEASE.name);
    let packages = Packages::open(&directory().join(OLD_RELEASE.name), &[OLD_RELEASE])?;
    packages
        .unpack(&OLD_PACKAGES.map(str::to_owned), &programs)
        .with_context(|| format!("cannot get consul and Docker of Debian's {}", OLD_RELEASE.name))
}

/// Everything of it that is kept.
fn directory() -> PathBuf {
    workspace::root().join("target/docker")
}
