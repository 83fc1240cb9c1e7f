//! What programs the kernel, against the real kernel, in network namespaces of its own. Needs root.

mod device;
mod netns;
mod underlay;
mod vxlan_device;
