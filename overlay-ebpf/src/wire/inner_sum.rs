//! The sum of an inner frame's words, from its headers alone: what an outer UDP checksum covers
//! besides the outer headers (RFC 768; RFC 8200, section 8.1, wants one over IPv6).
//!
//! An IPv4 header sums to zero with its checksum. A TCP or UDP packet sums, with its checksum, to
//! the complement of its pseudo-header, whatever its payload. That holds for the packet on the wire,
//! also while the checksum field still has only the pseudo-header's sum in it and the card or the
//! kernel is to complete it (`CHECKSUM_PARTIAL`, which a tc program cannot see). Linux calls this
//! local checksum offload (Documentation/networking/checksum-offloads.rst).
//!
//! An inner packet whose checksum is wrong gets a wrong outer one, and ends at the first that looks.

use network_types::{
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

use super::{
    ETH_LEN, IPV6_LEN, PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP,
    checksum::{fold, words},
};

/// More fragments, or an offset.
const FRAGMENT: u16 = 0x3fff;

/// The sum of a frame of `frame_len` bytes with an IPv4 packet, folded; `None` if its headers do not
/// tell. `udp` gives the UDP header that many bytes behind the start of the IPv4 header.
#[inline(always)]
#[must_use]
pub fn of_ipv4<'a>(
    eth: &[u8; ETH_LEN],
    ip: &Ipv4Hdr,
    frame_len: u32,
    udp: impl FnOnce(usize) -> Option<&'a UdpHdr>,
) -> Option<u16> {
    let header_words = ip.vihl & 0xf;
    let header_len = u32::from(header_words) * 4;
    let total = u32::from(u16::from_be_bytes(ip.tot_len));
    let whole = u16::from_be_bytes(ip.frags) & FRAGMENT == 0;
    // Bytes behind the packet are in no checksum but the outer.
    if !whole || header_words < 5 || total + 14 != frame_len || total < header_len {
        return None;
    }
    let len = total - header_len;
    let pseudo = words(&ip.src_addr) + words(&ip.dst_addr) + u32::from(ip.proto) + len;
    let transport = match ip.proto {
        PROTO_TCP => !fold(pseudo),
        PROTO_UDP if has_checksum(udp(usize::from(header_words) * 4)?, len) => !fold(pseudo),
        // ICMP's checksum has no pseudo-header.
        PROTO_ICMP => 0,
        _ => return None,
    };
    Some(fold(words(eth) + u32::from(transport)))
}

/// The sum of a frame of `frame_len` bytes with an IPv6 packet, as [`of_ipv4`].
#[inline(always)]
#[must_use]
pub fn of_ipv6<'a>(
    eth: &[u8; ETH_LEN],
    ip: &Ipv6Hdr,
    frame_len: u32,
    udp: impl FnOnce(usize) -> Option<&'a UdpHdr>,
) -> Option<u16> {
    let len = u32::from(u16::from_be_bytes(ip.payload_len));
    if len + 54 != frame_len {
        return None;
    }
    let checked = match ip.next_hdr {
        PROTO_TCP | PROTO_ICMPV6 => true,
        PROTO_UDP => has_checksum(udp(IPV6_LEN)?, len),
        _ => false,
    };
    // Addresses and length stand in the header and, complemented, in the transport's sum.
    let rest = words(&ip.vcf)
        + u32::from(u16::from_be_bytes([ip.next_hdr, ip.hop_limit]))
        + u32::from(!u16::from(ip.next_hdr));
    checked.then(|| fold(words(eth) + rest))
}

/// Whether a UDP datagram has a checksum, and that over all of the IP packet's payload.
#[inline(always)]
fn has_checksum(udp: &UdpHdr, len: u32) -> bool {
    udp.check != [0; 2] && u32::from(u16::from_be_bytes(udp.len)) == len
}

const _: () = assert!(14 == ETH_LEN && 54 == ETH_LEN + IPV6_LEN);

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, PacketBuilderStep};
    use proptest::prelude::*;

    use super::*;

    /// The sum by the book, over every byte.
    fn by_the_book(frame: &[u8]) -> u16 {
        let sum: u64 = frame
            .chunks(2)
            .map(|pair| u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])))
            .sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        fold(u32::try_from(folded).unwrap())
    }

    fn udp_of(frame: &[u8]) -> impl Fn(usize) -> Option<&'static UdpHdr> {
        move |offset| {
            let bytes: [u8; 8] = frame.get(ETH_LEN + offset..)?.first_chunk().copied()?;
            let [a, b, c, d, e, f, g, h] = bytes;
            let header = UdpHdr { src: [a, b], dst: [c, d], len: [e, f], check: [g, h] };
            Some(Box::leak(Box::new(header)))
        }
    }

    fn of(frame: &[u8]) -> Option<u16> {
        let eth = frame.first_chunk().unwrap();
        let len = u32::try_from(frame.len()).unwrap();
        let byte = |offset: usize| frame[ETH_LEN + offset];
        let bytes = |offset: usize| [byte(offset), byte(offset + 1)];
        if frame[12..14] == [8, 0] {
            let four = |offset: usize| *frame[ETH_LEN + offset..].first_chunk().unwrap();
            let ip = Ipv4Hdr {
                vihl: byte(0),
                tos: byte(1),
                tot_len: bytes(2),
                id: bytes(4),
                frags: bytes(6),
                ttl: byte(8),
                proto: byte(9),
                check: bytes(10),
                src_addr: four(12),
                dst_addr: four(16),
            };
            of_ipv4(eth, &ip, len, udp_of(frame))
        } else {
            let ip = Ipv6Hdr {
                vcf: *frame[ETH_LEN..].first_chunk().unwrap(),
                payload_len: bytes(4),
                next_hdr: byte(6),
                hop_limit: byte(7),
                src_addr: *frame[ETH_LEN + 8..].first_chunk().unwrap(),
                dst_addr: *frame[ETH_LEN + 24..].first_chunk().unwrap(),
            };
            of_ipv6(eth, &ip, len, udp_of(frame))
        }
    }

    fn base(six: bool, macs: ([u8; 6], [u8; 6]), addr: [u8; 16]) -> PacketBuilderStep<etherparse::IpHeaders> {
        let builder = PacketBuilder::ethernet2(macs.0, macs.1);
        if six {
            builder.ipv6(addr, [7; 16], 9)
        } else {
            builder.ipv4(*addr.first_chunk().unwrap(), [10, 0, 0, 9], 9)
        }
    }

    proptest! {
        #[test]
        fn headers_tell_what_the_bytes_sum_to(
            six: bool, kind in 0..3, macs: ([u8; 6], [u8; 6]), addr: [u8; 16], ports: (u16, u16),
            payload in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut frame = Vec::new();
            let base = base(six, macs, addr);
            match (kind, six) {
                (0, _) => base.tcp(ports.0, ports.1, 1, 2).write(&mut frame, &payload),
                (1, _) => base.udp(ports.0, ports.1).write(&mut frame, &payload),
                (_, false) => base.icmpv4_echo_request(ports.0, ports.1).write(&mut frame, &payload),
                (_, true) => base.icmpv6_echo_request(ports.0, ports.1).write(&mut frame, &payload),
            }.unwrap();
            // Zero has two forms.
            let is = |sum: u16| if sum == 0xffff { 0 } else { sum };
            prop_assert_eq!(of(&frame).map(is), Some(is(by_the_book(&frame))));

            frame.push(0);
            prop_assert_eq!(of(&frame), None, "a byte behind the packet");
        }
    }

    #[test]
    fn what_has_no_checksum_of_its_own_is_left() {
        let mut udp = Vec::new();
        base(false, Default::default(), [10; 16]).udp(1, 2).write(&mut udp, b"hello").unwrap();
        assert!(of(&udp).is_some());
        let patched = |offset: usize, bytes: &[u8]| {
            let mut frame = udp.clone();
            frame[offset..offset + bytes.len()].copy_from_slice(bytes);
            of(&frame)
        };
        assert_eq!(patched(40, &[0, 0]), None, "no UDP checksum");
        assert_eq!(patched(38, &[0, 12]), None, "a UDP datagram shorter than its packet");
        assert_eq!(patched(20, &[0x20, 0]), None, "the first fragment");
        assert_eq!(patched(20, &[0, 1]), None, "a later fragment");
        assert_eq!(patched(23, &[132]), None, "SCTP");
        assert_eq!(patched(14, &[0x44]), None, "an impossible header length");
    }
}
