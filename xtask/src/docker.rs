//! Dockers of other releases of Debian beside the one that is installed: unpacked, not installed.

use std::path::PathBuf;

use anyhow::Result;

use crate::{
    packages::{self, Release},
    workspace,
};

/// Where the newest is: sid has it before a release does.
const RELEASE: Release = Release { name: "sid", security: false };

/// What of it is needed. Its runc wants a newer C library than this machine has; the installed one does.
const PACKAGES: [&str; 2] = ["docker.io", "containerd"];

/// The last release that has consul, and a Docker that was built with it: later ones of Debian's know etcd alone.
const OLD_RELEASE: Release = Release { name: "bullseye", security: false };
const OLD_PACKAGES: [&str; 2] = ["consul", "docker.io"];

/// Fetches it, unless that was done before. To get a newer one, remove `target/docker`.
///
/// # Errors
/// If it cannot be fetched or unpacked.
pub fn ensure() -> Result<()> {
    let lists = directory();
    packages::ensure(
        &lists.join("newest"),
        &lists,
        RELEASE,
        &PACKAGES,
        &["usr/sbin/dockerd", "usr/bin/containerd"],
    )
}

/// Fetches consul, which was Docker's store for all nodes at some sites, and a Docker that takes it, unless that was
/// done before.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_old() -> Result<()> {
    let (place, lists) = (directory().join("old"), directory().join(OLD_RELEASE.name));
    packages::ensure(&place, &lists, OLD_RELEASE, &OLD_PACKAGES, &["usr/sbin/dockerd", "usr/bin/consul"])
}

/// Everything of it that is kept.
fn directory() -> PathBuf {
    workspace::root().join("target/docker")
}
