//! The outer headers of a packet we receive: is it VXLAN to this node, and is it in order?
//!
//! Two steps, as a VXLAN packet must not be judged before it is known to be one: [`kind`] looks at
//! Ethernet and IPv4, [`validate`] at everything up to the inner frame.

use network_types::{ip::Ipv4Hdr, udp::UdpHdr, vxlan::VxlanHdr};

use super::{ETH_LEN, ETHERTYPE_IPV4, PROTO_UDP, UDP_LEN, VXLAN_LEN, encap::VXLAN_FLAGS, ethernet::Ethernet};
use crate::abi::{MacAddr, Outcome};

/// The shortest UDP datagram that holds a frame.
const LEAST_UDP: u32 = 8 + 8 + 14;
const _: () = assert!(LEAST_UDP as usize == UDP_LEN + VXLAN_LEN + ETH_LEN);
const ETHERNET: u32 = 14;
const _: () = assert!(ETHERNET as usize == ETH_LEN);

const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// What the Ethernet and IPv4 headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Not UDP over IPv4 to this node, a frame for another host that a switch flooded, or a later
    /// fragment, which has no ports to tell.
    Foreign,
    /// UDP to this node in one piece.
    Udp,
    /// UDP to this node; if the port is ours, it is dropped for this reason.
    Flawed(Outcome),
}

/// Sorts a packet by its Ethernet and IPv4 headers. `mac` is the uplink's address and `own` this
/// node's tunnel address.
#[inline(always)]
#[must_use]
pub fn kind(eth: &Ethernet, ip: &Ipv4Hdr, mac: MacAddr, own: [u8; 4]) -> Kind {
    let fragment = u16::from_be_bytes(ip.frags);
    if eth.ether_type() != ETHERTYPE_IPV4
        || ip.vihl >> 4 != 4
        || ip.proto != PROTO_UDP
        || ip.dst_addr != own
        || eth.destination.0 != mac.0
        || fragment & FRAGMENT_OFFSET != 0
    {
        Kind::Foreign
    } else if fragment & MORE_FRAGMENTS != 0 {
        Kind::Flawed(Outcome::Fragment)
    } else if ip.vihl != 0x45 {
        Kind::Flawed(Outcome::OuterOptions)
    } else {
        Kind::Udp
    }
}

/// Bytes of a frame of `frame_len` behind the end of its IPv4 packet.
#[inline(always)]
#[must_use]
pub const fn trailer(ip: &Ipv4Hdr, frame_len: u32) -> u32 {
    frame_len.saturating_sub(u16::from_be_bytes(ip.tot_len) as u32 + ETHERNET)
}

/// The VNI in a VXLAN header; `None` if its I flag says that there is none.
#[inline(always)]
#[must_use]
pub const fn vni(vxlan: &VxlanHdr) -> Option<u32> {
    let [a, b, c] = vxlan.vni;
    if vxlan.flags & VXLAN_FLAGS == 0 { None } else { Some(u32::from_be_bytes([0, a, b, c])) }
}

/// Checks the lengths and the reserved bits of a packet whose VNI is ours. `frame_len` is the length of the whole
/// packet with its Ethernet header, in bytes.
///
/// With `ignore_reserved` the reserved bits count for nothing, as RFC 7348 section 5 has it; without,
/// they are refused, as Linux does (`vxlan_rcv` in `vxlan_core.c`).
///
/// # Errors
/// The reason to drop the packet.
#[inline(always)]
pub fn validate(
    ip: &Ipv4Hdr,
    udp: &UdpHdr,
    vxlan: &VxlanHdr,
    frame_len: u32,
    ignore_reserved: bool,
) -> Result<(), Outcome> {
    let ip_len = u32::from(u16::from_be_bytes(ip.tot_len));
    let udp_len = u32::from(u16::from_be_bytes(udp.len));
    if udp_len < LEAST_UDP || ip_len != udp_len + 20 || frame_len < ip_len + ETHERNET {
        return Err(Outcome::Truncated);
    }
    let reserved = (vxlan.flags & !VXLAN_FLAGS)
        | vxlan._reserved1[0]
        | vxlan._reserved1[1]
        | vxlan._reserved1[2]
        | vxlan._reserved2;
    if reserved != 0 && !ignore_reserved {
        return Err(Outcome::ReservedBits);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use network_types::ip::IpProto;
    use proptest::prelude::*;

    use super::*;

    const OWN: [u8; 4] = [10, 0, 0, 1];
    const MAC: MacAddr = MacAddr([2; 6]);

    fn headers(inner_len: u16) -> (Ethernet, Ipv4Hdr, UdpHdr, VxlanHdr) {
        let ip = Ipv4Hdr {
            vihl: 0x45,
            tos: 0,
            tot_len: (inner_len + 36).to_be_bytes(),
            id: [0; 2],
            frags: [0x40, 0],
            ttl: 64,
            proto: IpProto::Udp as u8,
            check: [0; 2],
            src_addr: [10, 0, 0, 2],
            dst_addr: OWN,
        };
        let udp =
            UdpHdr { src: [0xc0, 0], dst: [0x12, 0xb5], len: (inner_len + 16).to_be_bytes(), check: [0; 2] };
        (Ethernet::new(MAC, MacAddr([4; 6]), 0x0800), ip, udp, VxlanHdr::new(42))
    }

    #[test]
    fn only_whole_udp_to_this_node_is_looked_into() {
        let (eth, ip, ..) = headers(60);
        assert_eq!(kind(&eth, &ip, MAC, OWN), Kind::Udp);
        assert_eq!(kind(&eth, &ip, MAC, [10, 0, 0, 3]), Kind::Foreign);
        assert_eq!(kind(&eth, &ip, MacAddr([4; 6]), OWN), Kind::Foreign);
        assert_eq!(kind(&eth, &Ipv4Hdr { proto: 6, ..ip }, MAC, OWN), Kind::Foreign);
        assert_eq!(kind(&Ethernet::new(MAC, MacAddr([4; 6]), 0x86dd), &ip, MAC, OWN), Kind::Foreign);
        assert_eq!(
            kind(&eth, &Ipv4Hdr { frags: [0x20, 0], ..ip }, MAC, OWN),
            Kind::Flawed(Outcome::Fragment)
        );
        assert_eq!(kind(&eth, &Ipv4Hdr { frags: [0, 1], ..ip }, MAC, OWN), Kind::Foreign);
        assert_eq!(kind(&eth, &Ipv4Hdr { vihl: 0x46, ..ip }, MAC, OWN), Kind::Flawed(Outcome::OuterOptions));
    }

    #[test]
    fn lengths_that_lie_are_truncated() {
        let (_, ip, udp, vxlan) = headers(60);
        assert_eq!(vni(&vxlan), Some(42));
        assert_eq!(validate(&ip, &udp, &vxlan, 110, false), Ok(()));
        assert_eq!(validate(&ip, &udp, &vxlan, 109, false), Err(Outcome::Truncated));
        let short = UdpHdr { len: 29_u16.to_be_bytes(), ..udp };
        assert_eq!(validate(&ip, &short, &vxlan, 110, false), Err(Outcome::Truncated));
        let (_, ip, udp, vxlan) = headers(13);
        assert_eq!(validate(&ip, &udp, &vxlan, 110, false), Err(Outcome::Truncated));
    }

    #[test]
    fn each_reserved_bit_is_refused_or_ignored_by_the_setting() {
        let (_, ip, udp, good) = headers(60);
        for bit in (0..64).filter(|b| !(32..56).contains(b) && *b != 4) {
            let mut word = 0x0800_0000_0000_2a00_u64;
            word ^= 1 << (63 - bit);
            let [flags, r0, r1, r2, v0, v1, v2, last] = word.to_be_bytes();
            let vxlan = VxlanHdr { flags, _reserved1: [r0, r1, r2], vni: [v0, v1, v2], _reserved2: last };
            assert_eq!(validate(&ip, &udp, &vxlan, 110, false), Err(Outcome::ReservedBits), "bit {bit}");
            assert_eq!(validate(&ip, &udp, &vxlan, 110, true), Ok(()), "bit {bit}");
        }
        assert_eq!(vni(&VxlanHdr { flags: 0xf7, ..good }), None);
    }

    proptest! {
        #[test]
        fn a_packet_in_order_is_never_longer_than_its_frame(
            tot_len: u16, udp_len: u16, flags: u8, frame_len in 0_u32..70_000,
        ) {
            let (_, ip, udp, vxlan) = headers(60);
            let ip = Ipv4Hdr { tot_len: tot_len.to_be_bytes(), ..ip };
            let udp = UdpHdr { len: udp_len.to_be_bytes(), ..udp };
            let vxlan = VxlanHdr { flags, ..vxlan };
            if validate(&ip, &udp, &vxlan, frame_len, true).is_ok() {
                prop_assert!(u32::from(tot_len) + 14 <= frame_len);
                prop_assert!(frame_len >= 64);
            }
        }
    }
}
