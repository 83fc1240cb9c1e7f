//! What programs the kernel, against the real kernel, in network namespaces of its own. Needs root.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

mod cluster;
mod device;
mod dns;
mod ebpf_datapath;
mod filters;
mod kernel_datapath;
mod netns;
mod underlay;
mod vxlan_device;
