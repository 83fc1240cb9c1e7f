//! What an interface can do with XDP, as the kernel's `netdev` family tells (Linux 6.3). The messages
//! are small and of one shape: they are written and read here by hand.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

/// `GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY`, `CTRL_ATTR_FAMILY_ID`, `CTRL_ATTR_FAMILY_NAME`
/// (include/uapi/linux/genetlink.h).
const CONTROLLER: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// `NETDEV_CMD_DEV_GET`, `NETDEV_A_DEV_IFINDEX`, `NETDEV_A_DEV_XDP_FEATURES`
/// (include/uapi/linux/netdev.h).
const GET_DEVICE: u8 = 1;
const IFINDEX: u16 = 1;
const FEATURES: u16 = 3;

/// `NETDEV_XDP_ACT_NDO_XMIT`: frames can be redirected to it.
const TAKES_REDIRECTS: u64 = 1 << 2;

/// `struct nlmsghdr` and `struct genlmsghdr`.
const HEADERS: usize = 16 + 4;

/// Whether XDP can redirect frames to an interface of this namespace; `None` if the kernel does not tell.
#[must_use]
pub fn takes_redirects(ifindex: u32) -> Option<bool> {
    let socket = socket().ok()?;
    let family = ask(&socket, CONTROLLER, GET_FAMILY, (FAMILY_NAME, b"netdev\0")).ok()?;
    let family = u16::from_ne_bytes(attribute(&family, FAMILY_ID)?.first_chunk().copied()?);
    let device = ask(&socket, family, GET_DEVICE, (IFINDEX, &ifindex.to_ne_bytes())).ok()?;
    let features = u64::from_ne_bytes(attribute(&device, FEATURES)?.first_chunk().copied()?);
    Some(features & TAKES_REDIRECTS != 0)
}

fn socket() -> io::Result<OwnedFd> {
    // SAFETY: a plain system call.
    let fd =
        unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_GENERIC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just opened and is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends a request with one attribute and returns the attributes of the answer. The kernel answers
/// before the request returns.
fn ask(socket: &OwnedFd, family: u16, command: u8, (kind, value): (u16, &[u8])) -> io::Result<Vec<u8>> {
    let too_long = || io::Error::from(io::ErrorKind::InvalidInput);
    let attribute_len = u16::try_from(4 + value.len()).map_err(|_| too_long())?;
    let mut message = vec![0; HEADERS];
    message[4..6].copy_from_slice(&family.to_ne_bytes());
    message[6..8].copy_from_slice(&u16::try_from(libc::NLM_F_REQUEST).map_err(|_| too_long())?.to_ne_bytes());
    message[16..18].copy_from_slice(&[command, 1]);
    message.extend(attribute_len.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
    let length = u32::try_from(message.len()).map_err(|_| too_long())?;
    message[..4].copy_from_slice(&length.to_ne_bytes());

    // SAFETY: the buffers live through the calls and are as long as is said.
    let (sent, mut answer, got) = unsafe {
        let sent = libc::send(socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0);
        let mut answer = vec![0_u8; 8192];
        let flags = libc::MSG_DONTWAIT;
        let got = libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), flags);
        (sent, answer, got)
    };
    let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
    answer.truncate(got);
    // `NLMSG_ERROR` (include/uapi/linux/netlink.h).
    let is_error = answer.get(4..6).is_none_or(|kind| kind == 2_u16.to_ne_bytes());
    if sent < 0 || is_error || answer.len() < HEADERS {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(answer.split_off(HEADERS))
}

/// The value of the first attribute of a kind.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let [a, b, c, d] = *attributes.first_chunk()?;
        let (length, kind) = (usize::from(u16::from_ne_bytes([a, b])), u16::from_ne_bytes([c, d]));
        let value = attributes.get(4..length)?;
        if kind & 0x3fff == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_and_cut_ones_are_not_believed() {
        let list = [5, 0, 1, 0, 9, 0, 0, 0, 8, 0, 3, 0, 1, 2, 3, 4];
        assert_eq!(attribute(&list, 1), Some(&[9][..]));
        assert_eq!(attribute(&list, 3), Some(&[1, 2, 3, 4][..]));
        assert_eq!(attribute(&list, 2), None);
        assert_eq!(attribute(&list[..14], 3), None);
        assert_eq!(attribute(&[3, 0, 1, 0], 1), None);
    }

    #[test]
    fn the_loopback_takes_no_redirects() {
        assert_ne!(takes_redirects(1), Some(true));
        assert_eq!(takes_redirects(u32::MAX), None);
    }
}
