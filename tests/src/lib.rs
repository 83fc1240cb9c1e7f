//! The lab: clusters of nodes as network namespaces on a bridge, with the real daemon, the real
//! etcd and the real kernel. Used by the tests in `tests/` and by the demo.
//!
//! Everything here needs root. What a lab makes is undone when its parts are dropped, and by
//! [`cleanup::undo_all_and_exit`] when a signal ends the program; what a killed run left behind is removed by
//! the next one.

pub mod bench;
pub mod capture;
pub mod cleanup;
pub mod cluster;
pub mod consul;
pub mod container;
pub mod docker;
pub mod docker_plugin;
pub mod etcd;
pub mod etcd_members;
pub mod exec;
pub mod frame;
pub mod machine;
pub mod netns;
pub mod node;
pub mod open_vswitch;
pub mod package;
pub mod probe;
pub mod slow_link;
pub mod third_party;
pub mod traces;
pub mod wire;
