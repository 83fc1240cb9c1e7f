//! What `ethtool` asks of a driver, by the ioctl that every kernel answers (include/uapi/linux/ethtool.h).

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

/// `ETHTOOL_GDRVINFO`, and the words of `struct ethtool_drvinfo`.
const DRIVER: u32 = 0x03;
const DRIVER_WORDS: usize = 49;

/// The words of its first string.
const DRIVER_NAME: std::ops::Range<usize> = 1..9;

/// Makes one request about an interface in the namespace of the calling thread. It is answered in place.
///
/// # Safety
/// The kernel writes as much as the command and the counts in `message` ask for: there must be room for it.
///
/// # Errors
/// If there is no such interface, or its driver cannot answer.
pub unsafe fn request(interface: &str, message: &mut [u32]) -> io::Result<()> {
    // SAFETY: a plain system call.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just opened and is nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: made of integers, arrays and a pointer, for all of which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = message.as_mut_ptr().cast();
    // SAFETY: the request and the message live through the call; the caller has made room for the answer.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The name of an interface's driver.
///
/// # Errors
/// If there is no such interface, or nothing that drives it.
pub fn driver(interface: &str) -> io::Result<String> {
    let mut information = [0; DRIVER_WORDS];
    information[0] = DRIVER;
    // SAFETY: the structure's size is fixed, and this is it.
    unsafe { request(interface, &mut information) }?;
    Ok(text(&information[DRIVER_NAME]))
}

/// A string, which fills words and ends with a zero.
#[must_use]
pub fn text(words: &[u32]) -> String {
    let bytes: Vec<u8> =
        words.iter().flat_map(|word| word.to_ne_bytes()).take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
