//! Keeps the kernel's own IPv6 off the devices we make: they carry the containers' packets and must
//! not send router solicitations of the host's into an overlay.

use std::{io, path::Path};

use tracing::warn;

/// Turns IPv6 off on `device`, which must not be up yet. Best effort: without IPv6 in the kernel
/// there is nothing to do, and what else fails is logged.
///
/// Works in the network namespace of the calling thread: that is whose `/proc/sys/net` it sees.
pub fn disable(device: &str) {
    let path = Path::new("/proc/sys/net/ipv6/conf").join(device).join("disable_ipv6");
    match std::fs::write(&path, "1") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            warn!(device, %error, "cannot turn IPv6 off: the host may send router solicitations into the overlay");
        }
        _ => {}
    }
}
