//! What programs the kernel, against the real kernel, in network namespaces of its own. Needs root.

mod netns;
mod vxlan_device;
