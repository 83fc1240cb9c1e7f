//! The outer headers of a packet we send: Ethernet, IPv4 or IPv6, UDP, VXLAN (RFC 7348, section 5).
//!
//! All that is the same for every packet to a node is a template in its `vteps` row; one packet
//! adds lengths, traffic class, source port and VNI. What works on both families' headers has their
//! length as its parameter: [`OUTER_LEN`] or [`OUTER_LEN_V6`].

use core::net::{Ipv4Addr, Ipv6Addr};

use super::{ETH_LEN, IPV4_LEN, IPV6_LEN, UDP_LEN, VXLAN_LEN, be16, checksum};
use crate::abi::{MacAddr, OUTER_LEN, OUTER_LEN_V6};

const IP: usize = ETH_LEN;

/// Time to live and hop limit of outer packets.
pub const TTL: u8 = 64;
/// The I flag: the VNI is valid (RFC 7348, section 5).
pub const VXLAN_FLAGS: u8 = 0x08;
const DONT_FRAGMENT: u8 = 0x40;

/// Offset of the UDP header in outer headers of `N` bytes.
const fn udp<const N: usize>() -> usize {
    N - VXLAN_LEN - UDP_LEN
}

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
    /// Sum of the inner frame's words for a UDP checksum over IPv6; without, that is zero. Over IPv4
    /// it always is (RFC 7348, section 5).
    pub inner_sum: Option<u16>,
}

/// The constant part of the outer headers towards one VTEP over IPv4. The IPv4 checksum in it is that
/// of a header with length and traffic class zero. DF is set, as a VTEP must not fragment (RFC 7348,
/// section 4.3), so the identification may be zero (RFC 6864, section 4.1).
#[must_use]
pub fn template(macs: (MacAddr, MacAddr), (from, to): (Ipv4Addr, Ipv4Addr), port: u16) -> [u8; OUTER_LEN] {
    const UDP: usize = udp::<OUTER_LEN>();
    let mut header = around_ip(macs, super::ETHERTYPE_IPV4, port);
    let ip = &mut header[IP..UDP];
    ip[0] = 0x45;
    ip[6] = DONT_FRAGMENT;
    ip[8..10].copy_from_slice(&[TTL, super::PROTO_UDP]);
    ip[12..16].copy_from_slice(&from.octets());
    ip[16..].copy_from_slice(&to.octets());
    let check = checksum::ipv4(ip.first_chunk().unwrap_or(&[0; IPV4_LEN]));
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    header
}

/// The constant part of the outer headers towards one VTEP over IPv6, with flow label 0: the source
/// port has the entropy. In the UDP checksum's place stands the sum of everything constant that the
/// checksum covers.
#[must_use]
pub fn template_v6(
    macs: (MacAddr, MacAddr),
    (from, to): (Ipv6Addr, Ipv6Addr),
    port: u16,
) -> [u8; OUTER_LEN_V6] {
    const UDP: usize = udp::<OUTER_LEN_V6>();
    let mut header = around_ip(macs, super::ETHERTYPE_IPV6, port);
    let ip = &mut header[IP..UDP];
    ip[0] = 0x60;
    ip[6..8].copy_from_slice(&[super::PROTO_UDP, TTL]);
    ip[8..24].copy_from_slice(&from.octets());
    ip[24..].copy_from_slice(&to.octets());
    let sum = checksum::words(&from.octets())
        + checksum::words(&to.octets())
        + u32::from(super::PROTO_UDP)
        + u32::from(port)
        + (u32::from(VXLAN_FLAGS) << 8);
    header[UDP + 6..UDP + 8].copy_from_slice(&checksum::fold(sum).to_be_bytes());
    header
}

/// A template as a row of `vteps` holds it.
#[must_use]
pub fn in_row<const N: usize>(template: [u8; N]) -> [u8; OUTER_LEN_V6] {
    let mut row = [0; OUTER_LEN_V6];
    row[..N].copy_from_slice(&template);
    row
}

fn around_ip<const N: usize>((from, to): (MacAddr, MacAddr), ether_type: u16, port: u16) -> [u8; N] {
    let mut header = [0; N];
    header[..6].copy_from_slice(&to.0);
    header[6..12].copy_from_slice(&from.0);
    header[12..IP].copy_from_slice(&ether_type.to_be_bytes());
    header[udp::<N>() + 2..udp::<N>() + 4].copy_from_slice(&port.to_be_bytes());
    header[N - VXLAN_LEN] = VXLAN_FLAGS;
    header
}

/// Writes one packet's fields into a copy of the template.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a VNI has 24 bits")]
pub const fn fill<const N: usize>(header: &mut [u8; N], fields: Fields) {
    let Fields { inner_len, tos, source_port, vni, inner_sum } = fields;
    let udp = udp::<N>();
    let udp_len = inner_len.wrapping_add((UDP_LEN + VXLAN_LEN) as u16);
    put16(header, udp, source_port);
    put16(header, udp + 4, udp_len);
    header[N - 4] = (vni >> 16) as u8;
    header[N - 3] = (vni >> 8) as u8;
    header[N - 2] = vni as u8;
    if N == OUTER_LEN_V6 {
        header[IP] |= tos >> 4;
        header[IP + 1] = tos << 4;
        put16(header, IP + 4, udp_len);
        let check = match inner_sum {
            Some(inner) => {
                // The length stands in the pseudo-header and in the header.
                let sum = be16(header, udp + 6) as u32
                    + 2 * udp_len as u32
                    + source_port as u32
                    + (vni >> 8)
                    + ((vni & 0xff) << 8)
                    + inner as u32;
                // 0 would say that there is none (RFC 768).
                match !checksum::fold(sum) {
                    0 => 0xffff,
                    check => check,
                }
            }
            None => 0,
        };
        put16(header, udp + 6, check);
    } else {
        let ip_len = udp_len.wrapping_add(IPV4_LEN as u16);
        let check = be16(header, IP + 10);
        header[IP + 1] = tos;
        put16(header, IP + 2, ip_len);
        put16(header, IP + 10, checksum::with_words(check, tos as u16, ip_len));
    }
}

const _: () = assert!(
    udp::<OUTER_LEN>() == ETH_LEN + IPV4_LEN && udp::<OUTER_LEN_V6>() == ETH_LEN + IPV6_LEN,
    "the lengths of the families' headers"
);

#[inline(always)]
const fn put16<const N: usize>(header: &mut [u8; N], offset: usize, value: u16) {
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
            fill(&mut header, Fields { inner_len, tos, source_port, vni, inner_sum: None });
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

        #[test]
        fn over_ipv6_the_checksum_is_what_an_independent_library_computes(
            macs: ([u8; 6], [u8; 6]), from: [u8; 16], to: [u8; 16], port: u16, payload: Vec<u8>,
            tos: u8, source_port: u16, vni in 1_u32..1 << 24, zero: bool,
        ) {
            let mut header = template_v6(
                (MacAddr(macs.0), MacAddr(macs.1)), (Ipv6Addr::from(from), Ipv6Addr::from(to)), port);
            let inner_len = u16::try_from(payload.len()).unwrap();
            let words = payload.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0)));
            let inner_sum = (!zero).then(|| checksum::fold(words.sum()));
            fill(&mut header, Fields { inner_len, tos, source_port, vni, inner_sum });
            let frame = [&header[..], &payload].concat();

            let parsed = SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(NetSlice::Ipv6(ip)) = parsed.net else { panic!() };
            let ip = ip.header();
            prop_assert_eq!((ip.source(), ip.destination(), ip.next_header()), (from, to, IpNumber::UDP));
            prop_assert_eq!((ip.traffic_class(), ip.flow_label().value(), ip.hop_limit()), (tos, 0, TTL));
            prop_assert_eq!(usize::from(ip.payload_length()), frame.len() - ETH_LEN - IPV6_LEN);
            let Some(TransportSlice::Udp(udp)) = parsed.transport else { panic!() };
            prop_assert_eq!((udp.source_port(), udp.destination_port()), (source_port, port));
            let right = udp.to_header().calc_checksum_ipv6(&ip.to_header(), udp.payload()).unwrap();
            prop_assert_eq!(udp.checksum(), if zero { 0 } else { right });
            let v = vni.to_be_bytes();
            prop_assert_eq!(&udp.payload()[..8], &[8, 0, 0, 0, v[1], v[2], v[3], 0]);
        }
    }
}
