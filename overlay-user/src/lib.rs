//! The overlay's control plane on a node, in one direction of flow:
//!
//! [`store`] (etcd) → [`state`] (what should be: a pure snapshot) → [`plan`] (what this node must
//! forward: a pure function of the state) → [`datapath`] (a trait; `ebpf` and `kernel` implement
//! it) → the kernel.
//!
//! Front doors (`api`, `docker`) write intent to the store and never touch the data path. `dns` answers with
//! the names in the state.

pub mod api;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod datapath;
pub mod device;
pub mod dns;
pub mod docker;
pub mod netlink;
mod nft;
pub mod plan;
pub mod state;
pub mod store;
pub mod underlay;

/// MAC addresses and VNIs are those of the map layouts.
pub use overlay_ebpf::abi::{MacAddr, Vni};
