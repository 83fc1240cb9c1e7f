//! Inner frames: what kind they are, and what an endpoint must not send in one.

use network_types::ip::Ipv4Hdr;

use super::{
    ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_QINQ, ETHERTYPE_VLAN, PROTO_ICMP, PROTO_ICMPV6,
    PROTO_UDP, ethernet::Ethernet,
};
use crate::abi::Outcome;

/// The kinds of frames the programs tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// ARP.
    Arp,
    /// A frame with a VLAN tag, where the network has them carried.
    Tagged,
    /// Anything else.
    Other,
}

/// The kind of a frame.
///
/// # Errors
/// [`Outcome::InnerVlan`] for a frame with a VLAN tag.
#[inline(always)]
pub const fn kind(eth: &Ethernet) -> Result<Kind, Outcome> {
    match eth.ether_type() {
        ETHERTYPE_IPV4 => Ok(Kind::Ipv4),
        ETHERTYPE_IPV6 => Ok(Kind::Ipv6),
        ETHERTYPE_ARP => Ok(Kind::Arp),
        ETHERTYPE_VLAN | ETHERTYPE_QINQ => Err(Outcome::InnerVlan),
        _ => Ok(Kind::Other),
    }
}

/// Whether a VLAN tag, by its last two bytes, puts a frame into a VLAN. VLAN 0 is none, only a priority
/// (IEEE 802.1Q section 6.9): whoever receives such a frame takes the tag for none.
#[inline(always)]
#[must_use]
pub const fn names_vlan(tci: u16) -> bool {
    tci & 0xfff != 0
}

/// Checks version and header length.
///
/// # Errors
/// [`Outcome::InnerMalformed`].
#[inline(always)]
pub const fn check_ipv4(ip: &Ipv4Hdr) -> Result<(), Outcome> {
    if ip.vihl >> 4 == 4 && ip.vihl & 0xf >= 5 { Ok(()) } else { Err(Outcome::InnerMalformed) }
}

/// Where the UDP destination port of an inner IPv4 packet stands, in bytes from the start of the IPv4
/// header; `None` if the packet is not UDP or a later fragment.
#[inline(always)]
#[must_use]
pub const fn udp_port_offset(ip: &Ipv4Hdr) -> Option<usize> {
    let offset = u16::from_be_bytes(ip.frags) & 0x1fff;
    if ip.proto == PROTO_UDP && offset == 0 { Some((ip.vihl & 0xf) as usize * 4 + 2) } else { None }
}

/// Whether GRO never merges packets of this IP protocol (or IPv6 next header), and so never takes a
/// checksum as verified by what the card said: UDP (merged only for who asks for it by
/// `rx-udp-gro-forwarding` or `rx-gro-list`), ICMP and `ICMPv6`.
#[inline(always)]
#[must_use]
pub const fn is_never_merged(protocol: u8) -> bool {
    matches!(protocol, PROTO_UDP | PROTO_ICMP | PROTO_ICMPV6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::MacAddr;

    fn ip(vihl: u8, proto: u8, frags: [u8; 2]) -> Ipv4Hdr {
        Ipv4Hdr {
            vihl,
            tos: 0,
            tot_len: [0; 2],
            id: [0; 2],
            frags,
            ttl: 1,
            proto,
            check: [0; 2],
            src_addr: [0; 4],
            dst_addr: [0; 4],
        }
    }

    #[test]
    fn tags_are_refused_and_the_rest_is_told_apart() {
        let of = |t| kind(&Ethernet::new(MacAddr::default(), MacAddr::default(), t));
        assert_eq!(of(0x0800), Ok(Kind::Ipv4));
        assert_eq!(of(0x86dd), Ok(Kind::Ipv6));
        assert_eq!(of(0x0806), Ok(Kind::Arp));
        assert_eq!(of(0x88cc), Ok(Kind::Other));
        assert_eq!(of(0x8100), Err(Outcome::InnerVlan));
        assert_eq!(of(0x88a8), Err(Outcome::InnerVlan));
    }

    #[test]
    fn vlan_0_is_none_whatever_the_priority() {
        assert!(names_vlan(1) && names_vlan(0xffff) && names_vlan(0xe007));
        assert!(!names_vlan(0) && !names_vlan(0xe000) && !names_vlan(0x1000));
    }

    #[test]
    fn the_port_is_behind_the_options_and_only_in_first_fragments() {
        assert_eq!(udp_port_offset(&ip(0x45, 17, [0x40, 0])), Some(22));
        assert_eq!(udp_port_offset(&ip(0x4f, 17, [0x20, 0])), Some(62));
        assert_eq!(udp_port_offset(&ip(0x45, 17, [0, 1])), None);
        assert_eq!(udp_port_offset(&ip(0x45, 6, [0, 0])), None);
        assert_eq!(check_ipv4(&ip(0x44, 6, [0, 0])), Err(Outcome::InnerMalformed));
        assert_eq!(check_ipv4(&ip(0x65, 6, [0, 0])), Err(Outcome::InnerMalformed));
    }
}
