//! Header codecs: pure functions over the bytes of a packet, without kernel calls and without
//! `unsafe`, so that the host can test what the programs do.
//!
//! Everything that judges a packet returns an [`Outcome`] as its error: the reason under which the
//! packet is counted.
//!
//! [`Outcome`]: crate::abi::Outcome

#![forbid(unsafe_code)]

pub mod arp;
pub mod bucket;
pub mod checksum;
pub mod ecn;
pub mod encap;
pub mod ethernet;
pub mod flow_hash;
pub mod icmp;
pub mod inner;
pub mod inner_sum;
pub mod ipv6;
pub mod nd;
pub mod outer;
pub mod source_port;

/// Length of an Ethernet header without tags.
pub const ETH_LEN: usize = 14;
/// Length of an IPv4 header without options.
pub const IPV4_LEN: usize = 20;
/// Length of an IPv6 header without extensions.
pub const IPV6_LEN: usize = 40;
/// Length of a UDP header.
pub const UDP_LEN: usize = 8;
/// Length of a VXLAN header.
pub const VXLAN_LEN: usize = 8;

/// `EtherType` of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// `EtherType` of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// `EtherType` of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// `EtherType` of an 802.1Q tag.
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// `EtherType` of an 802.1ad tag.
pub const ETHERTYPE_QINQ: u16 = 0x88a8;

/// IP protocol number of ICMP.
pub const PROTO_ICMP: u8 = 1;
/// IP protocol number of TCP.
pub const PROTO_TCP: u8 = 6;
/// IP protocol number of UDP.
pub const PROTO_UDP: u8 = 17;
/// IP protocol number of IPv6's fragment header.
pub const PROTO_FRAGMENT: u8 = 44;
/// IP protocol number of `ICMPv6`.
pub const PROTO_ICMPV6: u8 = 58;

/// The two bytes at `offset` as a number; the caller's array is long enough by its type.
#[inline(always)]
pub(crate) const fn be16<const N: usize>(bytes: &[u8; N], offset: usize) -> u16 {
    u16::from_be_bytes([bytes[offset], bytes[offset + 1]])
}
