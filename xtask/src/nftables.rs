//! nftables of other releases of Debian beside the one that is installed: unpacked, not installed.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{
    packages::{self, Release},
    workspace,
};

/// The oldest with a kernel that is supported, and the newest. What of a release goes by another name elsewhere
/// would not be found; the C library of an older one than this machine's is not needed.
const RELEASES: [(&str, Release<'_>, &[&str]); 2] = [
    ("oldest", Release { name: "bullseye", security: false }, &["nftables", "libnftables1", "libnftnl11"]),
    (
        "newest",
        Release { name: "trixie", security: false },
        &[
            "nftables",
            "libnftables1",
            "libnftnl11",
            "libxtables12",
            "libmnl0",
            "libjansson4",
            "libgmp10",
            "libedit2",
            "libtinfo6",
            "libbsd0",
            "libmd0",
            "libc6",
        ],
    ),
];

/// Fetches them, unless that was done before: `target/nftables/<age>/bin/nft`.
///
/// # Errors
/// If one cannot be fetched or unpacked.
pub fn ensure() -> Result<()> {
    for (age, release, packages) in RELEASES {
        let place = workspace::root().join("target/nftables").join(age);
        packages::ensure(&place, &place, release, packages, &["usr/sbin/nft"])?;
        let program = place.join("bin/nft");
        if !program.is_file() {
            write_script(&place, &program).with_context(|| format!("cannot write {}", program.display()))?;
        }
    }
    Ok(())
}

/// Writes a script that runs the program with its own libraries.
fn write_script(place: &Path, program: &Path) -> Result<()> {
    let libraries = libraries(place)?;
    let loader = libraries.join("ld-linux-x86-64.so.2");
    let (libraries, nft) = (libraries.display(), place.join("usr/sbin/nft"));
    let nft = nft.display();
    let run = if loader.exists() {
        format!("exec {} --library-path {libraries} {nft}", loader.display())
    } else {
        format!("LD_LIBRARY_PATH={libraries} exec {nft}")
    };
    fs::create_dir_all(place.join("bin"))?;
    fs::write(program, format!("#!/bin/sh\n{run} \"$@\"\n"))?;
    Ok(fs::set_permissions(program, fs::Permissions::from_mode(0o755))?)
}

/// The directory of a release's shared libraries.
fn libraries(place: &Path) -> Result<PathBuf> {
    let all = fs::read_dir(place.join("usr/lib"))?.filter_map(Result::ok).map(|entry| entry.path());
    let mut libraries = all.filter(|path| path.join("libnftables.so.1").exists());
    libraries.next().context("there is no libnftables.so.1 in the packages")
}
