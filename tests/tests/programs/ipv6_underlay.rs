//! Outer IPv6: what is different from IPv4, in every program.

use etherparse::{ArpOperation, PacketBuilder};
use overlay_ebpf::abi::{
    Class, Hook, OUTER_LEN_V6, Outcome, RESERVED_BITS_IGNORE, UDP6_ZERO_CHECKSUM, UNDERLAY_V6,
};

use crate::{
    endpoint::{error, redirect},
    fixture::{Case, Setup, TC_SHOT, TC_UNSPEC, check_tc},
    frames::{
        A, ALL, B, C, HERE, Host, OTHER_VNI, STRANGER, THERE, VNI, arp, ipv6, over_ipv6, patched, raw, udp,
        udp_tos, udp6, vxlan, vxlan_tos,
    },
    uplink::{self, check_xdp, deliver, pass},
};

/// Offsets in a frame.
const NEXT_HEADER: usize = 20;
const UDP: usize = 54;
const CHECKSUM: usize = UDP + 6;
const VXLAN: usize = UDP + 8;

#[test]
fn packets_from_a_container() {
    check_tc("endpoint_in", Hook::Endpoint, &from_endpoints());
}

#[test]
fn packets_from_the_wire_by_tc() {
    check_tc("uplink_in", Hook::Uplink, &from_the_wire());
}

#[test]
fn packets_from_the_wire_by_xdp() {
    check_xdp(from_the_wire(), OUTER_LEN_V6);
    let taken = |case: &Case| [Class::Forwarded, Class::SlowPath].contains(&case.outcome.class());
    let unsummed = from_the_wire().into_iter().filter(taken).map(|case| {
        let setup = Setup { flags: case.setup.flags | UDP6_ZERO_CHECKSUM, ..case.setup };
        Case { setup, packet: zero(case.packet), ..case }
    });
    check_xdp(unsummed, OUTER_LEN_V6);
}

fn on_ipv6(case: Case) -> Case {
    let setup = Setup { flags: case.setup.flags | UNDERLAY_V6, ..case.setup };
    Case { setup, ..case }
}

fn zero_checksum() -> Setup {
    Setup { flags: UDP6_ZERO_CHECKSUM, ..Setup::default() }
}

/// The same with bytes replaced at an offset.
fn with(mut frame: Vec<u8>, offset: usize, bytes: &[u8]) -> Vec<u8> {
    frame[offset..offset + bytes.len()].copy_from_slice(bytes);
    frame
}

/// The same with a header between IPv6 and UDP.
fn extended(mut frame: Vec<u8>, kind: u8, header: [u8; 8]) -> Vec<u8> {
    frame.splice(UDP..UDP, header);
    let length = u16::from_be_bytes([frame[18], frame[19]]) + 8;
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    frame[NEXT_HEADER] = kind;
    frame
}

// === from containers ===

pub fn from_endpoints() -> Vec<Case> {
    let mut cases = encapsulated();
    cases.extend(left_for_their_checksum());
    let largest = udp(A, C, 6000, &[7; 1500 - 70 - 28]);
    let too_big = udp(A, C, 6000, &[7; 1500 - 70 - 28 + 1]);
    let broadcast = udp(A, Host { ip: [10, 0, 9, 255], ..ALL }, 6000, b"all");
    let to_a_node = udp(A, Host { ip: HERE.ip, mac: C.mac }, 4789, b"x");
    cases.extend([
        redirect("the largest", largest.clone(), Outcome::Encapsulated, Some(wrapped(&largest))),
        redirect("one byte more", too_big.clone(), Outcome::TooBigAnswered, Some(error(&too_big, 1430))),
        redirect(
            "VXLAN to an IPv4 address of a node that tunnels over IPv6",
            to_a_node.clone(),
            Outcome::Encapsulated,
            Some(wrapped(&to_a_node)),
        ),
        Case {
            setup: Setup { kernel_floods: true, ..Setup::default() },
            ..redirect("a broadcast, as the rows have it", broadcast, Outcome::SlowFanout, None)
        },
        redirect("not IP", raw(A, C, 0x88b5, &[1; 50]), Outcome::SlowNotIp, None),
    ]);
    cases.into_iter().map(on_ipv6).collect()
}

fn wrapped(inner: &[u8]) -> Vec<u8> {
    over_ipv6(&vxlan(HERE, THERE, VNI, inner))
}

fn zero(packet: Vec<u8>) -> Vec<u8> {
    with(packet, CHECKSUM, &[0, 0])
}

fn encapsulated() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut tcp = Vec::new();
    let builder = PacketBuilder::ethernet2(A.mac, C.mac).ipv4(A.ip, C.ip, 64).tcp(40_000, 80, 7, 1000);
    builder.write(&mut tcp, b"odd").unwrap();
    let mut tcp6 = Vec::new();
    let builder =
        PacketBuilder::ethernet2(A.mac, C.mac).ipv6(ipv6(A.ip), ipv6(C.ip), 9).tcp(40_000, 80, 7, 1000);
    builder.write(&mut tcp6, b"even").unwrap();
    let mut echo = Vec::new();
    let builder = PacketBuilder::ethernet2(A.mac, C.mac).ipv4(A.ip, C.ip, 64).icmpv4_echo_request(1, 1);
    builder.write(&mut echo, b"echo").unwrap();
    let mut echo6 = Vec::new();
    let builder =
        PacketBuilder::ethernet2(A.mac, C.mac).ipv6(ipv6(A.ip), ipv6(C.ip), 64).icmpv6_echo_request(1, 1);
    builder.write(&mut echo6, b"echo!").unwrap();
    for (what, inner) in [
        ("UDP over IPv4", udp(A, C, 6000, b"hello")),
        ("UDP over IPv6", udp6(A, C, b"hello")),
        ("TCP over IPv4", tcp.clone()),
        ("TCP over IPv6", tcp6),
        ("ICMP", echo),
        ("ICMPv6", echo6),
    ] {
        cases.push(redirect(what, inner.clone(), Outcome::Encapsulated, Some(wrapped(&inner))));
        cases.push(Case {
            setup: zero_checksum(),
            ..redirect(what, inner.clone(), Outcome::Encapsulated, Some(zero(wrapped(&inner))))
        });
    }
    // As a container's stack leaves a packet whose sum is somebody else's to complete.
    let partial = with(tcp.clone(), 50, &[0x12, 0x34]);
    let mut expected = wrapped(&tcp);
    expected[OUTER_LEN_V6 + 50..OUTER_LEN_V6 + 52].copy_from_slice(&[0x12, 0x34]);
    cases.push(redirect(
        "TCP whose checksum is not complete yet: the outer one is that of the complete packet",
        partial,
        Outcome::Encapsulated,
        Some(expected),
    ));
    let marked = udp_tos(A, C, 6000, b"hello", 0xb8 | 1);
    let outer = over_ipv6(&vxlan_tos(HERE, THERE, VNI, &marked, 0xb8 | 1));
    cases.push(redirect("DSCP and ECT(1) are copied out", marked, Outcome::Encapsulated, Some(outer)));
    cases
}

/// What headers alone do not tell the sum of.
fn left_for_their_checksum() -> Vec<Case> {
    let whole = udp(A, C, 6000, b"hello");
    let unsummed = with(whole.clone(), 40, &[0, 0]);
    let fragment = patched(whole.clone(), 20, &[0x20, 0]);
    let sctp = patched(whole.clone(), 23, &[132]);
    let padded = [whole.clone(), vec![0; 7]].concat();
    let super_packet = udp(A, C, 6000, &[7; 3000]);
    let mut cases: Vec<_> = [
        ("UDP without a checksum", unsummed.clone()),
        ("a fragment", fragment),
        ("SCTP, whose checksum is another", sctp),
        ("bytes behind the packet", padded),
    ]
    .into_iter()
    .map(|(what, packet)| redirect(what, packet, Outcome::SlowChecksum, None))
    .collect();
    cases.push(Case {
        setup: Setup { gso_size: 1000, ..Setup::default() },
        ..redirect("a super-packet", super_packet, Outcome::SlowChecksum, None)
    });
    cases.push(Case {
        setup: zero_checksum(),
        ..redirect(
            "without a checksum inside and out",
            unsummed.clone(),
            Outcome::Encapsulated,
            Some(zero(wrapped(&unsummed))),
        )
    });
    cases
}

// === from the wire ===

pub fn from_the_wire() -> Vec<Case> {
    let mut cases = delivered();
    cases.extend(refused());
    // What is wrong inside is so over either family.
    let inside = uplink::ecn().into_iter().chain(uplink::bad_inner());
    // Bar the VXLAN packet to this node's IPv4 address, which no longer is one.
    let inside = inside.filter(|case| case.outcome != Outcome::Nested);
    cases.extend(inside.map(|case| Case { packet: over_ipv6(&case.packet), ..case }));
    cases.into_iter().map(on_ipv6).collect()
}

/// VXLAN from the other node, from C to B.
fn good() -> Vec<u8> {
    over_ipv6(&uplink::good())
}

fn delivered() -> Vec<Case> {
    let inner = udp(C, B, 6000, b"hello");
    let six = udp6(C, B, b"hello");
    let broadcast = udp(C, Host { ip: [10, 0, 9, 255], ..ALL }, 6000, b"all");
    let around = |inner: &[u8]| over_ipv6(&vxlan(THERE, HERE, VNI, inner));
    vec![
        deliver("IPv4 in IPv6", good(), inner.clone()),
        deliver("IPv6 in IPv6", around(&six), six),
        deliver("a flow label", with(good(), 15, &[0x0f, 0xff, 0xff]), inner.clone()),
        deliver("bytes behind it", [good(), vec![0xee; 7]].concat(), inner.clone()),
        Case {
            setup: zero_checksum(),
            ..deliver("no checksum, where that is taken", zero(good()), inner.clone())
        },
        Case {
            setup: Setup { flags: RESERVED_BITS_IGNORE, ..Setup::default() },
            ..deliver("reserved bits where they are ignored", with(good(), VXLAN + 1, &[1]), inner)
        },
        Case {
            action: TC_SHOT,
            outcome: Outcome::Flooded,
            ..deliver("a broadcast", around(&broadcast), broadcast)
        },
        Case {
            outcome: Outcome::SlowNotIp,
            action: TC_UNSPEC,
            output: None,
            ..deliver("ARP", around(&arp(ArpOperation::REPLY, C, B, B)), Vec::new())
        },
    ]
}

fn refused() -> Vec<Case> {
    let drop = uplink::drop;
    let of = |from, to, vni| over_ipv6(&vxlan(from, to, vni, &udp(C, B, 6000, b"x")));
    let fragment = |offset_and_more: u8| extended(good(), 44, [17, 0, 0, offset_and_more, 0, 0, 0, 9]);
    vec![
        drop("no checksum", zero(good()), Outcome::ZeroChecksum),
        pass(
            "no checksum, of a VNI we have no part in",
            zero(of(THERE, HERE, OTHER_VNI)),
            Outcome::PassedUnknownVni,
        ),
        pass("another address", of(THERE, STRANGER, VNI), Outcome::PassedUp),
        pass("to another host's MAC", with(good(), 0, &STRANGER.mac), Outcome::PassedUp),
        pass("VXLAN over IPv4", uplink::good(), Outcome::PassedUp),
        pass("another UDP port", with(good(), UDP + 2, &[0, 53]), Outcome::PassedUp),
        pass("TCP", with(good(), NEXT_HEADER, &[6]), Outcome::PassedUp),
        pass("destination options", extended(good(), 60, [17, 0, 1, 4, 0, 0, 0, 0]), Outcome::PassedUp),
        pass("a later fragment", fragment(8), Outcome::PassedUp),
        pass(
            "the first fragment of something else",
            with(fragment(1), UDP + 8 + 2, &[0, 53]),
            Outcome::PassedUp,
        ),
        drop("the first of several fragments", fragment(1), Outcome::Fragment),
        drop("the only fragment (RFC 6946)", fragment(0), Outcome::Fragment),
        drop("IPv6 says it is longer than the frame", with(good(), 18, &[4, 0]), Outcome::Truncated),
        drop("UDP says it is shorter than IPv6 says", with(good(), UDP + 4, &[0, 40]), Outcome::Truncated),
        drop("cut short in the VXLAN header", good()[..VXLAN + 4].to_vec(), Outcome::Truncated),
        drop("no I flag", with(good(), VXLAN, &[0]), Outcome::NoVniFlag),
        drop("a reserved bit", with(good(), VXLAN + 7, &[1]), Outcome::ReservedBits),
        drop("from a host that is no VTEP", of(STRANGER, HERE, VNI), Outcome::UnknownVtep),
    ]
}
