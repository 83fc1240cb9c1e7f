//! The answer to a packet that is too large for its path: ICMP's "fragmentation needed" (RFC 792, with
//! the MTU of RFC 1191) and `ICMPv6`'s "packet too big" (RFC 4443).
//!
//! It comes from the address the packet was for, as Linux's own tunnels have it
//! (`iptunnel_pmtud_build_icmp`): whoever sends to an address takes packets from there.

use super::{
    ETH_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_LEN, IPV6_LEN, PROTO_ICMP, PROTO_ICMPV6, checksum,
};
use crate::abi::MacAddr;

/// Bytes of the packet that the answer quotes: the longest IPv4 header, or IPv6's, and the ports and
/// sequence number behind it.
pub const QUOTED: usize = 80;
const HEADER: usize = 8;
/// Length of the answer over IPv4, as a frame.
pub const LEN_V4: usize = ETH_LEN + IPV4_LEN + HEADER + QUOTED;
/// Length of the answer over IPv6, as a frame.
pub const LEN_V6: usize = ETH_LEN + IPV6_LEN + HEADER + QUOTED;

#[expect(clippy::cast_possible_truncation, reason = "a length of some hundred bytes")]
const IP_LEN_V4: u16 = (LEN_V4 - ETH_LEN) as u16;
#[expect(clippy::cast_possible_truncation, reason = "a length of some hundred bytes")]
const ICMP_LEN: u16 = (HEADER + QUOTED) as u16;

const TTL: u8 = 64;
const UNREACHABLE: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;
const PACKET_TOO_BIG: u8 = 2;

/// Whether an IPv4 packet may be answered with an error (RFC 1122, section 3.2.2). One without DF is:
/// nobody here fragments it, and its sender can.
#[inline(always)]
#[must_use]
pub const fn answers_v4(quoted: &[u8; QUOTED]) -> bool {
    let later_fragment = super::be16(quoted, 6) & 0x1fff != 0;
    // Unreachable, source quench, redirect, time exceeded, parameter problem. Behind options nobody looks.
    let error = quoted[9] == PROTO_ICMP && (quoted[0] != 0x45 || matches!(quoted[IPV4_LEN], 3..=5 | 11 | 12));
    let everybody = quoted[16] >= 224;
    !later_fragment && !error && !everybody
}

/// Whether an IPv6 packet may be answered with an error (RFC 4443, section 2.4).
#[inline(always)]
#[must_use]
pub const fn answers_v6(quoted: &[u8; QUOTED]) -> bool {
    let error = quoted[6] == PROTO_ICMPV6 && quoted[IPV6_LEN] < 128;
    !error && quoted[24] != 0xff
}

/// Writes "fragmentation needed" in front of the beginning of the packet it is about, which is at the
/// end of `frame` already. `mtu` is the largest packet that would pass.
#[inline(always)]
pub fn fragmentation_needed(frame: &mut [u8; LEN_V4], to: MacAddr, from: MacAddr, mtu: u16) {
    const IP: usize = ETH_LEN;
    const ICMP: usize = IP + IPV4_LEN;
    const QUOTE: usize = ICMP + HEADER;
    ethernet(frame, to, from, ETHERTYPE_IPV4);
    frame[IP..ICMP]
        .copy_from_slice(&[0x45, 0xc0, 0, 0, 0, 0, 0x40, 0, TTL, PROTO_ICMP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    put16(frame, IP + 2, IP_LEN_V4);
    copy4(frame, QUOTE + 16, IP + 12);
    copy4(frame, QUOTE + 12, IP + 16);
    let check = !checksum::fold(sum(frame, IP, ICMP));
    put16(frame, IP + 10, check);

    frame[ICMP..QUOTE].copy_from_slice(&[UNREACHABLE, FRAGMENTATION_NEEDED, 0, 0, 0, 0, 0, 0]);
    put16(frame, ICMP + 6, mtu);
    let check = !checksum::fold(sum(frame, ICMP, LEN_V4));
    put16(frame, ICMP + 2, check);
}

/// Writes "packet too big" likewise.
#[inline(always)]
pub fn packet_too_big(frame: &mut [u8; LEN_V6], to: MacAddr, from: MacAddr, mtu: u16) {
    const IP: usize = ETH_LEN;
    const ICMP: usize = IP + IPV6_LEN;
    const QUOTE: usize = ICMP + HEADER;
    ethernet(frame, to, from, ETHERTYPE_IPV6);
    frame[IP..IP + 8].copy_from_slice(&[0x60, 0, 0, 0, 0, 0, PROTO_ICMPV6, TTL]);
    put16(frame, IP + 4, ICMP_LEN);
    let mut word = 0;
    while word < 4 {
        copy4(frame, QUOTE + 24 + word * 4, IP + 8 + word * 4);
        copy4(frame, QUOTE + 8 + word * 4, IP + 24 + word * 4);
        word += 1;
    }
    frame[ICMP..QUOTE].copy_from_slice(&[PACKET_TOO_BIG, 0, 0, 0, 0, 0, 0, 0]);
    put16(frame, ICMP + 6, mtu);
    // With the pseudo-header: both addresses, length and protocol (RFC 8200, section 8.1).
    let pseudo = u32::from(ICMP_LEN) + u32::from(PROTO_ICMPV6);
    let check = !checksum::fold(sum(frame, IP + 8, LEN_V6) + pseudo);
    put16(frame, ICMP + 2, check);
}

#[inline(always)]
fn ethernet<const N: usize>(frame: &mut [u8; N], to: MacAddr, from: MacAddr, ether_type: u16) {
    frame[..6].copy_from_slice(&to.0);
    frame[6..12].copy_from_slice(&from.0);
    put16(frame, 12, ether_type);
}

#[inline(always)]
fn put16<const N: usize>(frame: &mut [u8; N], offset: usize, value: u16) {
    let [high, low] = value.to_be_bytes();
    frame[offset] = high;
    frame[offset + 1] = low;
}

#[inline(always)]
fn copy4<const N: usize>(frame: &mut [u8; N], from: usize, to: usize) {
    let mut i = 0;
    while i < 4 {
        frame[to + i] = frame[from + i];
        i += 1;
    }
}

/// The sum of the words from one even offset to another; of fewer than 65,536 words.
#[inline(always)]
fn sum<const N: usize>(frame: &[u8; N], from: usize, to: usize) -> u32 {
    let mut sum = 0;
    let mut offset = from;
    while offset + 1 < to {
        sum += u32::from(u16::from_be_bytes([frame[offset], frame[offset + 1]]));
        offset += 2;
    }
    sum
}

#[cfg(test)]
mod tests {
    use etherparse::{Icmpv4Type, Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket, TransportSlice, icmpv4};
    use proptest::prelude::*;

    use super::*;

    const SENDER: MacAddr = MacAddr([2; 6]);
    const TARGET: MacAddr = MacAddr([4; 6]);

    fn quoted(packet: &[u8]) -> [u8; QUOTED] {
        packet[ETH_LEN..ETH_LEN + QUOTED].try_into().unwrap()
    }

    fn udp4(to: [u8; 4]) -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ethernet2(SENDER.0, TARGET.0)
            .ipv4([10, 0, 9, 2], to, 64)
            .udp(5, 6)
            .write(&mut packet, &[7; 200])
            .unwrap();
        packet
    }

    proptest! {
        #[test]
        fn an_independent_parser_takes_the_answers(mtu: u16, from: [u8; 4], to: [u8; 4], payload: [u8; 100]) {
            let mut packet = Vec::new();
            let builder = PacketBuilder::ethernet2(SENDER.0, TARGET.0).ipv4(from, to, 64).udp(5, 6);
            builder.write(&mut packet, &payload).unwrap();
            let mut frame = [0xee; LEN_V4];
            frame[LEN_V4 - QUOTED..].copy_from_slice(&quoted(&packet));
            fragmentation_needed(&mut frame, SENDER, TARGET, mtu);
            let parsed = SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(NetSlice::Ipv4(ip)) = parsed.net else { panic!() };
            let header = ip.header().to_header();
            prop_assert_eq!((header.source, header.destination), (to, from));
            prop_assert_eq!(header.calc_header_checksum(), header.header_checksum);
            prop_assert_eq!(usize::from(header.total_len), LEN_V4 - ETH_LEN);
            let Some(TransportSlice::Icmpv4(icmp)) = parsed.transport else { panic!() };
            let fragmentation = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu };
            prop_assert_eq!(icmp.icmp_type(), Icmpv4Type::DestinationUnreachable(fragmentation));
            prop_assert_eq!(icmp.icmp_type().calc_checksum(icmp.payload()), icmp.header().checksum);
            prop_assert_eq!(icmp.payload(), &quoted(&packet));
            prop_assert_eq!((&frame[..6], &frame[6..12]), (&SENDER.0[..], &TARGET.0[..]));

            let (from, to) = ([from, to, from, to].concat(), [to, to, from, from].concat());
            let (from, to): ([u8; 16], [u8; 16]) = (from.try_into().unwrap(), to.try_into().unwrap());
            let mut packet = Vec::new();
            let builder = PacketBuilder::ethernet2(SENDER.0, TARGET.0).ipv6(from, to, 64).udp(5, 6);
            builder.write(&mut packet, &payload).unwrap();
            let mut frame = [0xee; LEN_V6];
            frame[LEN_V6 - QUOTED..].copy_from_slice(&quoted(&packet));
            packet_too_big(&mut frame, SENDER, TARGET, mtu);
            let parsed = SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(NetSlice::Ipv6(ip)) = parsed.net else { panic!() };
            prop_assert_eq!((ip.header().source(), ip.header().destination()), (to, from));
            let Some(TransportSlice::Icmpv6(icmp)) = parsed.transport else { panic!() };
            prop_assert_eq!(icmp.icmp_type(), Icmpv6Type::PacketTooBig { mtu: mtu.into() });
            prop_assert!(icmp.is_checksum_valid(to, from));
            prop_assert_eq!(icmp.payload(), &quoted(&packet));
        }
    }

    #[test]
    fn errors_later_fragments_and_packets_for_everybody_are_not_answered() {
        let plain = udp4([10, 0, 9, 4]);
        assert!(answers_v4(&quoted(&plain)));
        let with = |at: usize, byte: u8| {
            let mut quoted = quoted(&plain);
            quoted[at] = byte;
            quoted
        };
        assert!(!answers_v4(&with(7, 1)), "a later fragment");
        assert!(answers_v4(&with(6, 0x20)), "a first fragment");
        assert!(!answers_v4(&quoted(&udp4([239, 1, 1, 1]))), "multicast");
        let mut icmp = with(9, PROTO_ICMP);
        for (kind, answered) in [(0, true), (8, true), (3, false), (11, false)] {
            icmp[20] = kind;
            assert_eq!(answers_v4(&icmp), answered, "ICMP type {kind}");
        }
        let mut six = [0; QUOTED];
        assert!(answers_v6(&six));
        six[24] = 0xff;
        assert!(!answers_v6(&six), "multicast");
        six[24] = 0xfd;
        six[6] = PROTO_ICMPV6;
        assert!(!answers_v6(&six), "an error");
        six[40] = 128;
        assert!(answers_v6(&six), "an echo request");
    }
}
