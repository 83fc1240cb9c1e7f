//! Finds a Rust toolchain that can build for BPF: one that has the source of `core`.
//!
//! A toolchain of rustup that has `rust-src` comes first, nightlies before others, then the
//! distribution's own compiler with its source package. `RUSTC_BOOTSTRAP` lets each of them build
//! `core`, so none has to be a nightly.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{step, workspace};

/// Newest LLVM whose bitcode the pinned bpf-linker reads.
const LLVM_MAJOR_MAX: u32 = 22;

/// A compiler that can build for BPF.
pub struct Toolchain {
    /// For the progress line.
    pub name: String,
    /// Its compiler.
    pub rustc: PathBuf,
    /// The cargo to drive it with: its own or the one in use.
    pub cargo: PathBuf,
    /// Directory of its shared libraries.
    sysroot: PathBuf,
    /// Major version of its LLVM.
    llvm_major: u32,
}

/// Finds the toolchain to use.
///
/// # Errors
/// If there is none; the text says what to install.
pub fn find() -> Result<Toolchain> {
    let mut unusable = Vec::new();
    for (name, root) in candidates() {
        match usable(name, &root) {
            Ok(toolchain) => return Ok(toolchain),
            Err(why) => unusable.push(format!("\n  {why:#}")),
        }
    }
    bail!(
        "no Rust toolchain here can build for BPF. It takes rustc {} or newer with the source of `core`; either of\n  \
         rustup component add rust-src\n  \
         apt-get install rustc-web rust-web-src     (Debian){}{}",
        env!("CARGO_PKG_RUST_VERSION"),
        if unusable.is_empty() { "" } else { "\nLooked at:" },
        unusable.concat()
    )
}

/// Toolchains that have the source of `core`, best first: name and root directory.
fn candidates() -> Vec<(String, PathBuf)> {
    let listed = step::output(Command::new("rustup").args(["toolchain", "list", "-v"])).unwrap_or_default();
    let mut found: Vec<_> = listed
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.split_once(char::is_whitespace)?;
            let path = rest.rsplit_once(") ").map_or(rest, |(_, path)| path);
            Some((format!("rustup's {name}"), PathBuf::from(path.trim())))
        })
        .collect();
    found.sort_by_key(|(name, _)| !name.contains("nightly"));
    found.push(("the system's rustc".to_owned(), PathBuf::from("/usr")));
    found.retain(|(_, root)| root.join("lib/rustlib/src/rust/library/core/Cargo.toml").exists());
    found
}

fn usable(name: String, root: &Path) -> Result<Toolchain> {
    let rustc = root.join("bin/rustc");
    let version = step::output(Command::new(&rustc).arg("-vV"))
        .with_context(|| format!("{name}: {} does not run", rustc.display()))?;
    let field =
        |key: &str| version.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().trim();

    let release = field("release:");
    if minor(release) < minor(env!("CARGO_PKG_RUST_VERSION")) {
        bail!("{name}: {release} is too old");
    }
    let llvm_major = field("LLVM version:").split('.').next().and_then(|major| major.parse().ok());
    let llvm_major: u32 = llvm_major.with_context(|| format!("{name}: does not tell its LLVM version"))?;
    if llvm_major > LLVM_MAJOR_MAX {
        bail!("{name}: LLVM {llvm_major} is newer than bpf-linker's {LLVM_MAJOR_MAX}");
    }
    let own_cargo = root.join("bin/cargo");
    let cargo =
        if own_cargo.exists() && root != Path::new("/usr") { own_cargo } else { workspace::cargo_path() };
    Ok(Toolchain { name, rustc, cargo, sysroot: root.to_owned(), llvm_major })
}

/// The number that tells Rust 1.x releases apart.
fn minor(release: &str) -> u32 {
    release.split('.').nth(1).and_then(|minor| minor.parse().ok()).unwrap_or(0)
}

impl Toolchain {
    /// A directory with one LLVM library, for bpf-linker to load at run time. It takes the first it
    /// finds in `LD_LIBRARY_PATH`, whatever its version, so that directory must hold no other.
    ///
    /// # Errors
    /// If there is no library of the compiler's version.
    pub fn llvm_dir(&self) -> Result<PathBuf> {
        let library = self.llvm_library().with_context(|| {
            format!(
                "no shared library of LLVM {} belongs to {}: bpf-linker needs it",
                self.llvm_major, self.name
            )
        })?;
        let dir = workspace::tools().join("llvm");
        if dir.exists() {
            std::fs::remove_dir_all(&dir).with_context(|| format!("cannot empty {}", dir.display()))?;
        }
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let link = dir.join(library.file_name().unwrap_or_default());
        std::os::unix::fs::symlink(&library, &link)
            .with_context(|| format!("cannot create {}", link.display()))?;
        Ok(dir)
    }

    /// The compiler's own LLVM, else that of the toolchain in use.
    fn llvm_library(&self) -> Option<PathBuf> {
        let own = self.sysroot.join("lib");
        let multiarch = own.join(format!("{}-linux-gnu", std::env::consts::ARCH));
        let in_use = step::output(Command::new("rustc").args(["--print", "sysroot"]))
            .map(|sysroot| Path::new(sysroot.trim()).join("lib"));
        [own, multiarch].into_iter().chain(in_use).find_map(|dir| self.llvm_in(&dir))
    }

    fn llvm_in(&self, dir: &Path) -> Option<PathBuf> {
        let names = [format!("libLLVM.so.{}", self.llvm_major), format!("libLLVM-{}", self.llvm_major)];
        let mut libraries: Vec<_> = dir
            .read_dir()
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                names.iter().any(|prefix| name.starts_with(prefix))
            })
            .collect();
        libraries.sort();
        libraries.into_iter().next()
    }
}
