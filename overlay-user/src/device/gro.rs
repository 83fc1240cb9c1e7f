//! GRO on the container's end: what makes a veth take frames that XDP redirects to it. Without it, and
//! without an XDP program in the container, the kernel drops them (`veth_xdp_xmit`).

use std::io;

use crate::netlink::ethtool;

/// `ETHTOOL_GGRO` and `ETHTOOL_SGRO` (include/uapi/linux/ethtool.h).
const GET: u32 = 0x2b;
const SET: u32 = 0x2c;

/// Gives the veth called `name`, just made in the namespace of the calling thread, a queue for
/// redirected frames.
///
/// A kernel before Linux 5.13 has no such queue. It is told by GRO being on from the start: since
/// there is the queue, a veth begins with GRO off (commit d3256efd8e8b).
///
/// # Errors
/// If the kernel has no queue, or refuses.
pub fn queue_redirects(name: &str) -> io::Result<()> {
    let refused = |what: &str, error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"));
    let on = gro(name, GET, 0);
    if on.map_err(|e| refused(&format!("look at {name}'s GRO"), e))? != 0 {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this kernel's veth takes redirected frames only behind an XDP program (a queue for them came with \
             Linux 5.13): attach without --deliver xdp",
        ));
    }
    gro(name, SET, 1)
        .map_err(|e| refused(&format!("turn on {name}'s GRO, which redirected frames need"), e))?;
    Ok(())
}

/// Makes one request about an interface's GRO; returns what the kernel answered.
fn gro(name: &str, command: u32, value: u32) -> io::Result<u32> {
    // struct ethtool_value: command and data.
    let mut message = [command, value];
    // SAFETY: the structure's size is fixed, and this is it.
    unsafe { ethtool::request(name, &mut message) }?;
    Ok(message[1])
}
