//! A hash of a frame's flow, for the outer source port where there is no skb and so no hash of the
//! kernel's: XDP.
//!
//! Frames of one flow hash alike whatever they carry, fragments among them; frames of different flows
//! differ in all bits. It is no defence against who chooses addresses to collide: all that comes of a
//! collision is that flows share a path.

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use super::{PROTO_TCP, PROTO_UDP, ethernet::Ethernet};

/// Odd, with bits spread evenly: 2^32 divided by the golden ratio (D. Knuth's multiplicative hashing).
const SPREAD: u32 = 0x9e37_79b1;

/// The same of 2^64.
const SPREAD_64: u64 = 0x9e37_79b9_7f4a_7c15;
/// Another odd number with bits spread evenly.
const SPREAD_REST: u64 = 0xd6e8_feb8_6659_fd93;

/// Of the flags and the fragment offset, what is zero in a packet in one piece.
const MORE_OR_OFFSET: u16 = 0x3fff;

/// The hash of a flow between two IPv4 addresses. `ports` are the four bytes behind the header, which
/// count only where they are ports: in TCP and UDP that is in one piece.
#[inline(always)]
#[must_use]
pub const fn of_ipv4(ip: &Ipv4Hdr, ports: Option<[u8; 4]>) -> u32 {
    let whole = u16::from_be_bytes(ip.frags) & MORE_OR_OFFSET == 0;
    let ports = match ports {
        Some(ports) if whole && has_ports(ip.proto) => u32::from_be_bytes(ports),
        _ => 0,
    };
    let addresses = (u32::from_be_bytes(ip.src_addr) as u64) << 32 | u32::from_be_bytes(ip.dst_addr) as u64;
    let rest = (ports as u64) << 8 | ip.proto as u64;
    // Words of 64 bits: this is most of what XDP computes for a frame on its way out.
    let hash = addresses.wrapping_mul(SPREAD_64) ^ rest.wrapping_mul(SPREAD_REST);
    ((hash ^ (hash >> 32)).wrapping_mul(SPREAD_64) >> 32) as u32
}

/// The hash of a flow between two IPv6 addresses; as [`of_ipv4`], where no extension header is between.
#[inline(always)]
#[must_use]
pub const fn of_ipv6(ip: &Ipv6Hdr, ports: Option<[u8; 4]>) -> u32 {
    let mut hash = ip.next_hdr as u32;
    let mut i = 0;
    while i < 16 {
        let (from, to) = (&ip.src_addr, &ip.dst_addr);
        hash = mixed(hash, u32::from_be_bytes([from[i], from[i + 1], from[i + 2], from[i + 3]]));
        hash = mixed(hash, u32::from_be_bytes([to[i], to[i + 1], to[i + 2], to[i + 3]]));
        i += 4;
    }
    finished(match ports {
        Some(ports) if has_ports(ip.next_hdr) => mixed(hash, u32::from_be_bytes(ports)),
        _ => hash,
    })
}

/// The hash of what is not IP: of its Ethernet addresses.
#[inline(always)]
#[must_use]
pub const fn of_ethernet(eth: &Ethernet) -> u32 {
    let [a, b, c, d, e, f] = eth.source.0;
    let [g, h, i, j, k, l] = eth.destination.0;
    let hash = mixed(eth.ether_type() as u32, u32::from_be_bytes([a, b, c, d]));
    let hash = mixed(hash, u32::from_be_bytes([e, f, g, h]));
    finished(mixed(hash, u32::from_be_bytes([i, j, k, l])))
}

#[inline(always)]
const fn has_ports(proto: u8) -> bool {
    proto == PROTO_TCP || proto == PROTO_UDP
}

#[inline(always)]
const fn mixed(hash: u32, word: u32) -> u32 {
    (hash.rotate_left(5) ^ word).wrapping_mul(SPREAD)
}

/// Brings what the last word did to the upper bits down to all.
#[inline(always)]
const fn finished(hash: u32) -> u32 {
    let hash = (hash ^ (hash >> 15)).wrapping_mul(SPREAD);
    hash ^ (hash >> 13)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::wire::source_port;

    fn ip(last: u8, proto: u8, frags: u16) -> Ipv4Hdr {
        Ipv4Hdr {
            vihl: 0x45,
            tos: 0,
            tot_len: [0; 2],
            id: [0; 2],
            frags: frags.to_be_bytes(),
            ttl: 1,
            proto,
            check: [0; 2],
            src_addr: [10, 0, 0, 1],
            dst_addr: [10, 0, 0, last],
        }
    }

    #[test]
    fn fragments_and_other_protocols_go_by_addresses_alone() {
        let (one, other) = (Some([1, 2, 3, 4]), Some([1, 2, 3, 5]));
        assert_ne!(of_ipv4(&ip(2, 6, 0x4000), one), of_ipv4(&ip(2, 6, 0x4000), other));
        assert_eq!(of_ipv4(&ip(2, 1, 0), one), of_ipv4(&ip(2, 1, 0), other));
        for fragment in [0x2000, 0x0001, 0x2001] {
            assert_eq!(of_ipv4(&ip(2, 17, fragment), one), of_ipv4(&ip(2, 17, 0), None));
        }
    }

    #[test]
    fn flows_that_differ_in_one_port_are_spread_over_the_source_ports() {
        let mut buckets = BTreeMap::new();
        for port in 0..4096_u16 {
            let [a, b] = port.to_be_bytes();
            let hash = of_ipv4(&ip(2, 17, 0), Some([a, b, 0x12, 0xb5]));
            *buckets.entry(source_port::of_hash(hash) % 16).or_insert(0) += 1;
        }
        assert!(buckets.len() == 16 && buckets.values().all(|n| (192..=320).contains(n)), "{buckets:?}");
    }
}
