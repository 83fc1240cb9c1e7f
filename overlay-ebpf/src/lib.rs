//! What the BPF programs and user space share, all of it `no_std` and free of kernel calls:
//!
//! - [`abi`]: every map key and value, the named outcomes of a packet, the constants.
//! - [`wire`]: header codecs as pure functions, compiled for both targets and tested on the host.
//!
//! - [`bench`]: what the benchmark's own programs share with it.
//!
//! The programs themselves are in `src/main.rs` and are built by `cargo xtask build-ebpf`.

#![cfg_attr(not(test), no_std)]

pub mod abi;
pub mod bench;
pub mod wire;
