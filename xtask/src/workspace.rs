//! Where things are in the workspace, and the cargo to build it with.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// The workspace's root directory.
pub fn root() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// Cargo's target directory, which `CARGO_TARGET_DIR` may move.
pub fn target() -> PathBuf {
    let dir = env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    root().join(dir)
}

/// The directory of tools built for this workspace.
pub fn tools() -> PathBuf {
    root().join("target/tools")
}

/// The cargo that runs this program.
pub fn cargo_path() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

/// A cargo command for the host in the workspace's root.
pub fn cargo() -> Command {
    let mut command = Command::new(cargo_path());
    // A daemon with another object than ours would be built otherwise.
    command.current_dir(root()).env_remove("OVERLAY_BPF_OBJECT");
    // What cargo tells this program of its package: build scripts (ring's) that look at their own would run again
    // whenever cargo is called here after it was called by hand, and all that depends on them be built again.
    for (name, _) in env::vars_os() {
        let about_us = ["CARGO_PKG_", "CARGO_MANIFEST_"];
        if about_us.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command
}

/// Whether this process runs as root.
pub fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&match std::fs::metadata("/proc/self") {
        Ok(metadata) => metadata,
        Err(_) => return false,
    }) == 0
}

/// Finds a program on `PATH` or where the administrator's programs are.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(name))
        .find(|program| program.is_file())
}
