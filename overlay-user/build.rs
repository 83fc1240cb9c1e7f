//! Finds the BPF object that `cargo xtask build-ebpf` made, to embed it.

use std::{env, path::PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=OVERLAY_BPF_OBJECT");
    let object = env::var_os("OVERLAY_BPF_OBJECT")
        .map_or_else(|| PathBuf::from("../target/bpf/overlay.bpf.o"), PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    match object.canonicalize() {
        Ok(object) => println!("cargo::rustc-env=OVERLAY_BPF_OBJECT={}", object.display()),
        Err(error) => println!(
            "cargo::error=the BPF object {} cannot be embedded ({error}): make it with `cargo xtask build-ebpf`",
            object.display()
        ),
    }
}
