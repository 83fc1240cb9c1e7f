//! IPv6 settings of the devices we make. They are files, and those of the network namespace of the
//! thread that opens them.
//!
//! Best effort: without IPv6 in the kernel there is nothing to set, and other failures are logged.

use std::{
    io,
    path::{Path, PathBuf},
};

use tracing::warn;

/// Turns IPv6 off on a device of the host's that carries containers' packets: the host must not send
/// its own router solicitations into an overlay. The device must not be up yet.
pub fn disable(device: &str) {
    set(device, "disable_ipv6", "1");
}

/// Has a bridge of ours keep IPv6 neighbour entries, from which it answers for endpoints, and nothing
/// else of IPv6: no address, so that it sends nothing, and no part in the host's forwarding. Returns
/// whether it does: not without IPv6 in the kernel, and not with an MTU below IPv6's least.
#[must_use]
pub fn keep_neighbours(device: &str) -> bool {
    if keeps_neighbours(device) {
        return true;
    }
    set(device, "addr_gen_mode", NONE);
    set(device, "accept_ra", "0");
    set(device, "forwarding", "0");
    set(device, "disable_ipv6", "0");
    get(device, "disable_ipv6").as_deref() == Some("0")
}

/// Whether a bridge is as [`keep_neighbours`] makes it.
#[must_use]
pub fn keeps_neighbours(device: &str) -> bool {
    get(device, "disable_ipv6").as_deref() == Some("0")
        && get(device, "addr_gen_mode").as_deref() == Some(NONE)
}

/// Has a container's interface ignore router advertisements, and not ask for them: its addresses
/// come from the store. Its link-local address is made of its MAC address, which is what the data path
/// takes it to be, and is as unique as that: nobody has to be asked for it.
pub fn addressed_by_store(device: &str) {
    set(device, "accept_ra", "0");
    set(device, "addr_gen_mode", EUI64);
    set(device, "accept_dad", "0");
}

/// `IN6_ADDR_GEN_MODE_EUI64` (`include/uapi/linux/if_link.h`).
const EUI64: &str = "0";
/// `IN6_ADDR_GEN_MODE_NONE`.
const NONE: &str = "1";

fn get(device: &str, name: &str) -> Option<String> {
    let value = std::fs::read_to_string(path(device, name)).ok()?;
    Some(value.trim().to_owned())
}

fn set(device: &str, name: &str, value: &str) {
    let path = path(device, name);
    match std::fs::write(&path, value) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            warn!(path = %path.display(), value, %error, "cannot change an IPv6 setting");
        }
        _ => {}
    }
}

fn path(device: &str, name: &str) -> PathBuf {
    Path::new("/proc/sys/net/ipv6/conf").join(device).join(name)
}
