//! Frames made by hand, by another library than the one in the data path.

use std::net::Ipv4Addr;

use etherparse::PacketBuilder;
use overlay_ebpf::abi::{MacAddr, VXLAN_PORT};

/// Offsets in a frame from [`Vxlan::frame`], in bytes.
pub mod offset {
    /// Type of service of the outer IPv4 header.
    pub const OUTER_TOS: usize = 15;
    /// Flags and fragment offset of the outer IPv4 header.
    pub const OUTER_FRAGMENT: usize = 20;
    /// The outer UDP header.
    pub const UDP: usize = 34;
    /// Length in the outer UDP header.
    pub const UDP_LENGTH: usize = 38;
    /// Checksum in the outer UDP header.
    pub const UDP_CHECKSUM: usize = 40;
    /// Flags of the VXLAN header.
    pub const VXLAN_FLAGS: usize = 42;
    /// The VXLAN header's last byte, which is reserved.
    pub const VXLAN_LAST: usize = 49;
    /// The inner frame.
    pub const INNER: usize = 50;
    /// The inner IPv4 header.
    pub const INNER_IP: usize = INNER + 14;
}

/// Somebody with a MAC and an IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Station {
    /// Its MAC address.
    pub mac: MacAddr,
    /// Its address.
    pub addr: Ipv4Addr,
}

/// An Ethernet frame with UDP over IPv4, all checksums right.
#[must_use]
pub fn udp(from: Station, to: Station, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(from.mac.0, to.mac.0)
        .ipv4(from.addr.octets(), to.addr.octets(), 64)
        .udp(ports.0, ports.1);
    let mut frame = Vec::with_capacity(builder.size(payload.len()));
    // Writing to memory fails only for payloads too long for IPv4, which then shows as no frame.
    if builder.write(&mut frame, payload).is_err() {
        frame.clear();
    }
    frame
}

/// An Ethernet frame with a TCP segment over IPv4, all checksums right. `ack` is what it acknowledges; a
/// segment without is the first of a connection.
#[must_use]
pub fn tcp(
    from: Station,
    to: Station,
    ports: (u16, u16),
    (seq, ack): (u32, Option<u32>),
    payload: &[u8],
) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(from.mac.0, to.mac.0)
        .ipv4(from.addr.octets(), to.addr.octets(), 64)
        .tcp(ports.0, ports.1, seq, u16::MAX);
    let builder = match ack {
        Some(ack) => builder.ack(ack),
        None => builder.syn(),
    };
    let mut frame = Vec::with_capacity(builder.size(payload.len()));
    // As in `udp`.
    if builder.write(&mut frame, payload).is_err() {
        frame.clear();
    }
    frame
}

/// A frame in a VLAN: the same with a tag (IEEE 802.1Q) behind its addresses.
#[must_use]
pub fn in_vlan(frame: &[u8], id: u16) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    [addresses, &[0x81, 0x00], &id.to_be_bytes(), rest].concat()
}

/// An Ethernet frame of a type kept for local experiments (IEEE 802): not IP.
#[must_use]
pub fn experimental(from: MacAddr, to: MacAddr, payload: &[u8]) -> Vec<u8> {
    [&to.0, &from.0, &[0x88, 0xb5][..], payload].concat()
}

/// An ARP packet (RFC 826) sent by `sender`.
#[must_use]
pub fn arp(
    sender: MacAddr,
    to: MacAddr,
    operation: ArpOperation,
    claimed: Station,
    asked: Station,
) -> Vec<u8> {
    let ipv4_over_ethernet = [0, 1, 8, 0, 6, 4];
    [
        &to.0[..],
        &sender.0,
        &[0x08, 0x06],
        &ipv4_over_ethernet,
        &[0, operation as u8],
        &claimed.mac.0,
        &claimed.addr.octets(),
        &asked.mac.0,
        &asked.addr.octets(),
    ]
    .concat()
}

/// What an ARP packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ArpOperation {
    /// It asks.
    Request = 1,
    /// It answers.
    Reply = 2,
}

/// A VXLAN packet.
#[derive(Clone, Copy, Debug)]
pub struct Vxlan<'a> {
    /// Who sends the outer packet.
    pub from: Station,
    /// The VTEP it is for.
    pub to: Station,
    /// The network.
    pub vni: u32,
    /// The inner frame.
    pub inner: &'a [u8],
}

impl Vxlan<'_> {
    /// The whole frame, as RFC 7348 section 5 has it: the outer UDP header has no checksum.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = self.summed();
        frame[offset::UDP_CHECKSUM..offset::VXLAN_FLAGS].fill(0);
        frame
    }

    /// The whole frame with a checksum in the outer UDP header.
    #[must_use]
    pub fn summed(&self) -> Vec<u8> {
        udp(self.from, self.to, (49_152, VXLAN_PORT), &self.payload())
    }

    /// The VXLAN header and the inner frame.
    #[must_use]
    pub fn payload(&self) -> Vec<u8> {
        let header = [0x0800_0000_u32.to_be_bytes(), (self.vni << 8).to_be_bytes()].concat();
        [header.as_slice(), self.inner].concat()
    }
}

/// Makes the checksum of the IPv4 header at `offset` right again (RFC 1071). Takes the header's
/// length from the header.
pub fn fix_ipv4_checksum(frame: &mut [u8], offset: usize) {
    let length = usize::from(frame[offset] & 0xf) * 4;
    let header = &mut frame[offset..offset + length];
    header[10..12].fill(0);
    let sum: u32 = header.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    // Two folds of a sum of at most thirty words leave sixteen bits.
    let [.., high, low] = (!folded).to_be_bytes();
    header[10..12].copy_from_slice(&[high, low]);
}
