//! GRO on the container's end: what makes a veth take frames that XDP redirects to it. Without it, and
//! without an XDP program in the container, the kernel drops them (`veth_xdp_xmit`).

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

/// `ETHTOOL_GGRO` and `ETHTOOL_SGRO` (include/uapi/linux/ethtool.h).
const GET: u32 = 0x2b;
const SET: u32 = 0x2c;

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    cmd: u32,
    data: u32,
}

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
    let on = gro(name, EthtoolValue { cmd: GET, data: 0 });
    if on.map_err(|e| refused(&format!("look at {name}'s GRO"), e))? != 0 {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this kernel's veth takes redirected frames only behind an XDP program (a queue for them came with \
             Linux 5.13): attach without --deliver xdp",
        ));
    }
    gro(name, EthtoolValue { cmd: SET, data: 1 })
        .map_err(|e| refused(&format!("turn on {name}'s GRO, which redirected frames need"), e))?;
    Ok(())
}

/// Makes one request about an interface's GRO; returns what the kernel answered.
fn gro(name: &str, mut value: EthtoolValue) -> io::Result<u32> {
    // SAFETY: a plain system call.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just opened and is nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: made of integers, arrays and a pointer, for all of which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request and what it points to live through the call and are of the kernel's layout.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(value.data)
}
