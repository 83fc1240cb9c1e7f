//! The outer headers of a packet we send: Ethernet, IPv4, UDP, VXLAN (RFC 7348, section 5).
//!
//! All that is the same for every packet to a node is a template in its `vteps` row; one packet
//! adds lengths, traffic class, source port and VNI.

use core::net::Ipv4Addr;

use super::{ETH_LEN, IPV4_LEN, UDP_LEN, VXLAN_LEN, checksum};
use crate::abi::{MacAddr, OUTER_LEN};

const IP: usize = ETH_LEN;
const UDP: usize = IP + IPV4_LEN;
const VXLAN: usize = UDP + UDP_LEN;

/// Time to live of outer packets.
pub const TTL: u8 = 64;
/// The I flag: the VNI is valid (RFC 7348, section 5).
pub const VXLAN_FLAGS: u8 = 0x08;
const DONT_FRAGMENT: u8 = 0x40;

/// What one packet adds to the template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields {
    /// Length of the inner frame in bytes, its Ethernet header included.
    pub inner_len: u16,
    /// Outer traffic class.
    pub tos: u8,
    /// UDP source port.
    pub source_port: u16,
    /// The network.
    pub vni: u32,
}

/// The constant part of the outer headers towards one VTEP. The IPv4 checksum in it is that of a
/// header with length and traffic class zero. DF is set, as a VTEP must not fragment (RFC 7348,
/// section 4.3), so the identification may be zero (RFC 6864, section 4.1).
#[must_use]
pub fn template(
    (from_mac, to_mac): (MacAddr, MacAddr),
    (from, to): (Ipv4Addr, Ipv4Addr),
    port: u16,
) -> [u8; OUTER_LEN] {
    let mut header = [0; OUTER_LEN];
    header[..6].copy_from_slice(&to_mac.0);
    header[6..12].copy_from_slice(&from_mac.0);
    header[12..IP].copy_from_slice(&super::ETHERTYPE_IPV4.to_be_bytes());

    let ip = &mut header[IP..UDP];
    ip[0] = 0x45;
    ip[6] = DONT_FRAGMENT;
    ip[8..10].copy_from_slice(&[TTL, super::PROTO_UDP]);
    ip[12..16].copy_from_slice(&from.octets());
    ip[16..].copy_from_slice(&to.octets());
    let check = checksum::ipv4(ip.first_chunk().unwrap_or(&[0; IPV4_LEN]));
    ip[10..12].copy_from_slice(&check.to_be_bytes());

    header[UDP + 2..UDP + 4].copy_from_slice(&port.to_be_bytes());
    header[VXLAN] = VXLAN_FLAGS;
    header
}

/// Writes one packet's fields into a copy of the template.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a VNI has 24 bits")]
pub const fn fill(header: &mut [u8; OUTER_LEN], fields: Fields) {
    let Fields { inner_len, tos, source_port, vni } = fields;
    let udp_len = inner_len.wrapping_add((UDP_LEN + VXLAN_LEN) as u16);
    let ip_len = udp_len.wrapping_add(IPV4_LEN as u16);
    let check = super::be16(header, IP + 10);

    header[IP + 1] = tos;
    put16(header, IP + 2, ip_len);
    put16(header, IP + 10, checksum::with_words(check, tos as u16, ip_len));
    put16(header, UDP, source_port);
    put16(header, UDP + 4, udp_len);
    header[VXLAN + 4] = (vni >> 16) as u8;
    header[VXLAN + 5] = (vni >> 8) as u8;
    header[VXLAN + 6] = vni as u8;
}

#[inline(always)]
const fn put16(header: &mut [u8; OUTER_LEN], offset: usize, value: u16) {
    let [high, low] = value.to_be_bytes();
    header[offset] = high;
    header[offset + 1] = low;
}

#[cfg(test)]
mod tests {
    use etherparse::{EtherType, IpNumber, LinkSlice, NetSlice, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_independent_parser_reads_back_what_was_written(
            macs: ([u8; 6], [u8; 6]), from: [u8; 4], to: [u8; 4], port: u16,
            inner_len in 14_u16..9000, tos: u8, source_port: u16, vni in 1_u32..1 << 24,
        ) {
            let mut header = template(
                (MacAddr(macs.0), MacAddr(macs.1)), (Ipv4Addr::from(from), Ipv4Addr::from(to)), port);
            fill(&mut header, Fields { inner_len, tos, source_port, vni });
            let mut frame = header.to_vec();
            frame.resize(OUTER_LEN + usize::from(inner_len), 0);

            let parsed = SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(LinkSlice::Ethernet2(eth)) = parsed.link else { panic!() };
            prop_assert_eq!((eth.source(), eth.destination()), (macs.0, macs.1));
            prop_assert_eq!(eth.ether_type(), EtherType::IPV4);
            let Some(NetSlice::Ipv4(ip)) = parsed.net else { panic!() };
            let ip = ip.header();
            prop_assert_eq!(ip.to_header().calc_header_checksum(), ip.header_checksum());
            prop_assert_eq!((ip.source(), ip.destination(), ip.protocol()), (from, to, IpNumber::UDP));
            prop_assert_eq!(usize::from(ip.total_len()), frame.len() - ETH_LEN);
            prop_assert_eq!((ip.dcp().value() << 2) | ip.ecn().value(), tos);
            prop_assert!(ip.dont_fragment() && !ip.more_fragments() && ip.ttl() == TTL);
            let Some(TransportSlice::Udp(udp)) = parsed.transport else { panic!() };
            prop_assert_eq!((udp.source_port(), udp.destination_port()), (source_port, port));
            prop_assert_eq!((udp.length(), udp.checksum()), (inner_len + 16, 0));
            let v = vni.to_be_bytes();
            prop_assert_eq!(&udp.payload()[..8], &[8, 0, 0, 0, v[1], v[2], v[3], 0]);
        }
    }
}
