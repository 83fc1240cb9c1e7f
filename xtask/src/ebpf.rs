//! Builds the BPF programs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{artifact, setup, step, toolchain, workspace};

/// Target triple of the programs: the byte order is the host's.
const TARGET: &str = if cfg!(target_endian = "little") { "bpfel-unknown-none" } else { "bpfeb-unknown-none" };

/// An object of programs, by the name of its binary in the package.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Object {
    /// The data path, which overlayd embeds.
    Overlay,
    /// What the benchmark measures with and beside.
    Bench,
}

impl Object {
    const fn name(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::Bench => "bench",
        }
    }
}

/// Builds the data path's programs and returns where the object is.
///
/// # Errors
/// If no toolchain can, the build fails, or the object lacks type information.
pub fn build() -> Result<PathBuf> {
    build_object(Object::Overlay)
}

/// [`build`] for any of the objects.
///
/// # Errors
/// As [`build`].
pub fn build_object(object: Object) -> Result<PathBuf> {
    let name = object.name();
    let toolchain = toolchain::find()?;
    let linker = setup::bpf_linker().context("bpf-linker is missing: run `cargo xtask setup`")?;
    let target_dir = workspace::target().join("ebpf");

    let mut command = Command::new(&toolchain.cargo);
    command
        .current_dir(workspace::root())
        .args(["build", "--package", "overlay-ebpf", "--bin", name, "--features", "programs", "--release"])
        .args(["--target", TARGET, "-Zbuild-std=core"])
        // Another compiler in the same directory would make cargo rebuild everything at each turn.
        .arg("--target-dir")
        .arg(&target_dir)
        .env("RUSTC", &toolchain.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("LD_LIBRARY_PATH", toolchain.llvm_dir()?)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(&linker))
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTUP_TOOLCHAIN");
    step::run(&format!("BPF programs ({name}) with {}", toolchain.name), &mut command)?;

    let built = target_dir.join(TARGET).join("release").join(name);
    artifact::check(&built)?;
    publish(&built, name)
}

/// Flags that aya's own build helper sets: the architecture whose registers probes read, and the
/// debug information that the linker makes BTF from.
fn rustflags(linker: &Path) -> String {
    [
        format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        "-Clink-arg=--cpu-features=+allows-misaligned-mem-access".to_owned(),
        format!("-Clinker={}", linker.display()),
    ]
    .join("\u{1f}")
}

/// Copies the object to where its users take it from; an unchanged one keeps its time, so that
/// nothing is rebuilt for it.
fn publish(built: &Path, name: &str) -> Result<PathBuf> {
    let dir = workspace::root().join("target/bpf");
    let object = dir.join(format!("{name}.bpf.o"));
    let new = fs::read(built).with_context(|| format!("cannot read {}", built.display()))?;
    if fs::read(&object).ok().as_ref() != Some(&new) {
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        fs::write(&object, &new).with_context(|| format!("cannot write {}", object.display()))?;
    }
    Ok(object)
}
