//! The Debian packages that `cargo xtask test` made of what it built.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};

use crate::node::target;

/// The package.
pub fn current() -> Result<PathBuf> {
    find(false)
}

/// The same programs as the version that it is upgraded to.
pub fn next() -> Result<PathBuf> {
    find(true)
}

fn find(next: bool) -> Result<PathBuf> {
    let dir = target()?.join("dist/debug");
    let files = fs::read_dir(&dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut packages = files.filter(|path| path.extension().is_some_and(|extension| extension == "deb"));
    let package = packages.find(|path| path.to_string_lossy().contains("+next") == next);
    package.with_context(|| format!("no package in {}: run cargo xtask dist --debug", dir.display()))
}
