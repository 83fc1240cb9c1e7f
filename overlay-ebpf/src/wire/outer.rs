//! The outer headers of a packet we receive: is it VXLAN to this node, and is it in order?
//!
//! Two steps, as a VXLAN packet must not be judged before it is known to be one: [`kind`] and
//! [`kind_v6`] look at Ethernet and IP, [`validate`] at everything up to the inner frame.

use network_types::{
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
    vxlan::VxlanHdr,
};

use super::{
    ETH_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV6_LEN, PROTO_FRAGMENT, PROTO_UDP, UDP_LEN, VXLAN_LEN,
    encap::VXLAN_FLAGS, ethernet::Ethernet,
};
use crate::abi::{Addr, MacAddr, Outcome};

/// The shortest UDP datagram that holds a frame.
const LEAST_UDP: u32 = 8 + 8 + 14;
const _: () = assert!(LEAST_UDP as usize == UDP_LEN + VXLAN_LEN + ETH_LEN);
const ETHERNET: u32 = 14;
const IPV4: u32 = 20;
const IPV6: u32 = 40;
const _: () = assert!(ETHERNET as usize == ETH_LEN && IPV6 as usize == IPV6_LEN);

const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// The fragment extension header (RFC 8200, section 4.5): next header, a reserved byte, offset and
/// flag, identification.
pub type FragmentHeader = [u8; 8];

/// What the Ethernet and IP headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Not UDP to this node's tunnel address, a frame for another host that a switch flooded, or a
    /// later fragment, which has no ports to tell.
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

/// [`kind`] over IPv6. A packet in fragments is [`Kind::Flawed`]: see [`fragment_begins_udp`].
/// Other extension headers make a packet foreign: the kernel walks them, and what it then takes for
/// VXLAN ends at its device as not checked.
#[inline(always)]
#[must_use]
pub fn kind_v6(eth: &Ethernet, ip: &Ipv6Hdr, mac: MacAddr, own: Addr) -> Kind {
    if eth.ether_type() != ETHERTYPE_IPV6
        || ip.vcf[0] >> 4 != 6
        || ip.dst_addr != own.0
        || eth.destination.0 != mac.0
    {
        return Kind::Foreign;
    }
    match ip.next_hdr {
        PROTO_UDP => Kind::Udp,
        PROTO_FRAGMENT => Kind::Flawed(Outcome::Fragment),
        _ => Kind::Foreign,
    }
}

/// Whether UDP ports stand behind a fragment header: later fragments have none.
#[inline(always)]
#[must_use]
pub const fn fragment_begins_udp(fragment: &FragmentHeader) -> bool {
    fragment[0] == PROTO_UDP && u16::from_be_bytes([fragment[2], fragment[3]]) & 0xfff8 == 0
}

/// What an IP header says about lengths, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Of the UDP datagram in the packet.
    datagram: u32,
    /// From the frame's first byte to the packet's end.
    end: u32,
}

impl Extent {
    /// That of an IPv4 packet without options.
    #[inline(always)]
    #[must_use]
    pub const fn of_ipv4(ip: &Ipv4Hdr) -> Self {
        let length = u16::from_be_bytes(ip.tot_len) as u32;
        // A length that has no room for the header makes a datagram longer than any.
        Self { datagram: length.wrapping_sub(IPV4), end: length + ETHERNET }
    }

    /// That of an IPv6 packet without extension headers.
    #[inline(always)]
    #[must_use]
    pub const fn of_ipv6(ip: &Ipv6Hdr) -> Self {
        let length = u16::from_be_bytes(ip.payload_len) as u32;
        Self { datagram: length, end: length + IPV6 + ETHERNET }
    }

    /// Bytes of a frame of `frame_len` behind the end of the packet.
    #[inline(always)]
    #[must_use]
    pub const fn trailer(self, frame_len: u32) -> u32 {
        frame_len.saturating_sub(self.end)
    }
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
    extent: Extent,
    udp: &UdpHdr,
    vxlan: &VxlanHdr,
    frame_len: u32,
    ignore_reserved: bool,
) -> Result<(), Outcome> {
    let udp_len = u32::from(u16::from_be_bytes(udp.len));
    if udp_len < LEAST_UDP || extent.datagram != udp_len || frame_len < extent.end {
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

    fn ipv6(next_hdr: u8, payload_len: u16) -> Ipv6Hdr {
        Ipv6Hdr {
            vcf: [0x6f, 0xff, 0xff, 0xff],
            payload_len: payload_len.to_be_bytes(),
            next_hdr,
            hop_limit: 64,
            src_addr: [2; 16],
            dst_addr: [1; 16],
        }
    }

    #[test]
    fn over_ipv6_only_udp_right_behind_the_header_is_looked_into() {
        let eth = Ethernet::new(MAC, MacAddr([4; 6]), 0x86dd);
        let own = Addr([1; 16]);
        let ip = ipv6(17, 76);
        assert_eq!(kind_v6(&eth, &ip, MAC, own), Kind::Udp);
        assert_eq!(kind_v6(&eth, &ip, MAC, Addr([3; 16])), Kind::Foreign);
        assert_eq!(kind_v6(&eth, &ip, MacAddr([4; 6]), own), Kind::Foreign);
        let ipv4 = Ethernet::new(MAC, MacAddr([4; 6]), 0x0800);
        assert_eq!(kind_v6(&ipv4, &ip, MAC, own), Kind::Foreign);
        let version = Ipv6Hdr { vcf: [0x45, 0, 0, 0], ..ip };
        assert_eq!(kind_v6(&eth, &version, MAC, own), Kind::Foreign);
        for extension in [0, 43, 60, 6, 58] {
            assert_eq!(kind_v6(&eth, &ipv6(extension, 76), MAC, own), Kind::Foreign, "{extension}");
        }
        assert_eq!(kind_v6(&eth, &ipv6(44, 76), MAC, own), Kind::Flawed(Outcome::Fragment));
        assert!(fragment_begins_udp(&[17, 0, 0, 1, 0, 0, 0, 9]));
        assert!(!fragment_begins_udp(&[17, 0, 0, 8, 0, 0, 0, 9]));
        assert!(!fragment_begins_udp(&[6, 0, 0, 1, 0, 0, 0, 9]));
    }

    #[test]
    fn over_ipv6_the_payload_is_the_datagram() {
        let (_, _, udp, vxlan) = headers(60);
        let extent = |length| Extent::of_ipv6(&ipv6(17, length));
        assert_eq!(validate(extent(76), &udp, &vxlan, 130, false), Ok(()));
        assert_eq!(extent(76).trailer(137), 7);
        assert_eq!(validate(extent(76), &udp, &vxlan, 129, false), Err(Outcome::Truncated));
        assert_eq!(validate(extent(77), &udp, &vxlan, 131, false), Err(Outcome::Truncated));
        // That of a jumbogram (RFC 2675).
        assert_eq!(validate(extent(0), &udp, &vxlan, 130, false), Err(Outcome::Truncated));
    }

    #[test]
    fn lengths_that_lie_are_truncated() {
        let (_, ip, udp, vxlan) = headers(60);
        let of = Extent::of_ipv4;
        assert_eq!(vni(&vxlan), Some(42));
        assert_eq!(validate(of(&ip), &udp, &vxlan, 110, false), Ok(()));
        assert_eq!(validate(of(&ip), &udp, &vxlan, 109, false), Err(Outcome::Truncated));
        let short = UdpHdr { len: 29_u16.to_be_bytes(), ..udp };
        assert_eq!(validate(Extent::of_ipv4(&ip), &short, &vxlan, 110, false), Err(Outcome::Truncated));
        let (_, ip, udp, vxlan) = headers(13);
        assert_eq!(validate(Extent::of_ipv4(&ip), &udp, &vxlan, 110, false), Err(Outcome::Truncated));
    }

    #[test]
    fn each_reserved_bit_is_refused_or_ignored_by_the_setting() {
        let (_, ip, udp, good) = headers(60);
        let extent = Extent::of_ipv4(&ip);
        for bit in (0..64).filter(|b| !(32..56).contains(b) && *b != 4) {
            let mut word = 0x0800_0000_0000_2a00_u64;
            word ^= 1 << (63 - bit);
            let [flags, r0, r1, r2, v0, v1, v2, last] = word.to_be_bytes();
            let vxlan = VxlanHdr { flags, _reserved1: [r0, r1, r2], vni: [v0, v1, v2], _reserved2: last };
            assert_eq!(validate(extent, &udp, &vxlan, 110, false), Err(Outcome::ReservedBits), "bit {bit}");
            assert_eq!(validate(extent, &udp, &vxlan, 110, true), Ok(()), "bit {bit}");
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
            if validate(Extent::of_ipv4(&ip), &udp, &vxlan, frame_len, true).is_ok() {
                prop_assert!(u32::from(tot_len) + 14 <= frame_len);
                prop_assert!(frame_len >= 64);
            }
        }
    }
}
