//! Raw frames on an interface: to see what passes, and to send what no honest sender makes.

use std::{
    io::IoSliceMut,
    mem,
    os::fd::{AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    errno::Errno,
    net::if_::if_nametoindex,
    sys::{
        socket::{
            AddressFamily, ControlMessageOwned, MsgFlags, RecvMsg, SockFlag, SockProtocol, SockType, recvmsg,
            send, setsockopt, socket, sockopt,
        },
        time::{TimeVal, TimeValLike as _},
    },
};

use crate::netns::Netns;

/// Larger than any frame, with segmentation offload too.
const FRAME_MAX: usize = 1 << 18;

/// Bytes of frames that wait to be received.
const QUEUE: usize = 1 << 24;

/// Size of `struct tpacket_auxdata` in bytes.
const AUXDATA: usize = size_of::<libc::tpacket_auxdata>();

/// Where a VLAN tag stands in a frame: behind the addresses (IEEE 802.1Q).
const TAG_AT: usize = 12;

/// A packet socket (packet(7)) on one interface. It sees frames that arrive there, but none that an
/// XDP program took.
pub struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// Opens one in a namespace; everything that passes from now on is kept until received.
    pub fn open(netns: &Netns, interface: &str) -> Result<Self> {
        let name = interface.to_owned();
        let opened = netns.run(move || {
            let fd =
                socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
            setsockopt(&fd, sockopt::RcvBufForce, &QUEUE)?;
            // What leaves by the interface is not seen (Linux 4.20).
            set_packet_option(&fd, libc::PACKET_IGNORE_OUTGOING, 1)
                .context("cannot ignore outgoing frames")?;
            set_packet_option(&fd, libc::PACKET_AUXDATA, 1).context("cannot ask for VLAN tags")?;
            bind(&fd, if_nametoindex(name.as_str())?)?;
            Ok(fd)
        });
        Ok(Self(opened.with_context(|| format!("cannot open a packet socket on {interface}"))?))
    }

    /// Sends a frame as it is.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        send(self.0.as_raw_fd(), frame, MsgFlags::empty())
            .with_context(|| format!("cannot send a frame of {} bytes", frame.len()))
            .map(|_| ())
    }

    /// Sends a frame whose checksum from byte `start` to the end is left to the card to put `offset` bytes
    /// behind `start`: `CHECKSUM_PARTIAL`.
    pub fn send_unsummed(&self, frame: &[u8], start: u16, offset: u16) -> Result<()> {
        // `struct virtio_net_hdr` (include/uapi/linux/virtio_net.h): NEEDS_CSUM, no segmentation.
        let mut packet = vec![1, 0, 0, 0, 0, 0];
        packet.extend(start.to_ne_bytes());
        packet.extend(offset.to_ne_bytes());
        packet.extend(frame);
        set_packet_option(&self.0, libc::PACKET_VNET_HDR, 1).context("no offloads for a packet socket")?;
        let sent = self.send(&packet);
        set_packet_option(&self.0, libc::PACKET_VNET_HDR, 0)?;
        sent
    }

    /// The next frame; `None` if there is none in time.
    pub fn receive(&self, limit: Duration) -> Result<Option<Vec<u8>>> {
        // A time-out of zero would be none at all.
        let timeout = TimeVal::microseconds(i64::try_from(limit.as_micros())?.max(1));
        setsockopt(&self.0, sockopt::ReceiveTimeout, &timeout)?;
        let (mut frame, mut beside) = (vec![0; FRAME_MAX], nix::cmsg_space!([u8; AUXDATA]));
        let mut buffers = [IoSliceMut::new(&mut frame)];
        match recvmsg::<()>(self.0.as_raw_fd(), &mut buffers, Some(&mut beside), MsgFlags::empty()) {
            Ok(message) => {
                let (length, tag) = (message.bytes, tag_beside(&message)?);
                frame.truncate(length);
                if let Some(tag) = tag {
                    frame.splice(TAG_AT..TAG_AT, tag);
                }
                Ok(Some(frame))
            }
            Err(Errno::EAGAIN) => Ok(None),
            // As of `exec::uninterrupted`, which cannot be used with borrowed buffers.
            Err(Errno::EINTR) => self.receive(limit),
            Err(error) => Err(error).context("cannot receive a frame"),
        }
    }

    /// The first frame that fits; `None` if there is none in time.
    pub fn find(&self, limit: Duration, fits: impl Fn(&[u8]) -> bool) -> Result<Option<Vec<u8>>> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.receive(left)? {
                Some(frame) if fits(&frame) => return Ok(Some(frame)),
                Some(_) if !left.is_zero() => {}
                _ => return Ok(None),
            }
        }
    }
}

/// The VLAN tag that the kernel took out of a frame.
fn tag_beside(message: &RecvMsg<'_, '_, ()>) -> Result<Option<[u8; 4]>> {
    for beside in message.cmsgs()? {
        let ControlMessageOwned::Unknown(beside) = beside else { continue };
        // `struct tpacket_auxdata` (include/uapi/linux/if_packet.h): status, tag and protocol.
        let data: &[u8; AUXDATA] = beside.data_bytes.first_chunk().context("short auxiliary data")?;
        let [a, b, c, d, .., tci0, tci1, protocol0, protocol1] = *data;
        if u32::from_ne_bytes([a, b, c, d]) & libc::TP_STATUS_VLAN_VALID != 0 {
            let [tci, protocol] = [[tci0, tci1], [protocol0, protocol1]].map(u16::from_ne_bytes);
            let tag = u32::from(protocol) << 16 | u32::from(tci);
            return Ok(Some(tag.to_be_bytes()));
        }
    }
    Ok(None)
}

fn set_packet_option(fd: &OwnedFd, option: libc::c_int, value: libc::c_int) -> Result<()> {
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>())?;
    let value = (&raw const value).cast();
    // SAFETY: the pointer is to an int that lives until the call returns, and `length` is its size.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_PACKET, option, value, length) };
    ensure!(result == 0, "{}", std::io::Error::last_os_error());
    Ok(())
}

/// Binds a packet socket to an interface and all protocols.
fn bind(fd: &OwnedFd, ifindex: libc::c_uint) -> Result<()> {
    // SAFETY: sockaddr_ll is plain data, for which all zeroes is a value.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::c_ushort::try_from(libc::AF_PACKET)?;
    address.sll_protocol = u16::try_from(libc::ETH_P_ALL)?.to_be();
    address.sll_ifindex = ifindex.cast_signed();
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>())?;
    // SAFETY: the pointer is to a sockaddr_ll that lives until the call returns, and `length` is its size.
    let result = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) };
    ensure!(result == 0, "cannot bind a packet socket: {}", std::io::Error::last_os_error());
    Ok(())
}
