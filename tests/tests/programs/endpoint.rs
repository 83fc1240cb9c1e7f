//! From a container: `endpoint_in`.

use etherparse::{
    ArpOperation, Icmpv4Type, Icmpv6Type, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, PacketBuilder,
    icmpv4,
};
use overlay_ebpf::{
    abi::{
        Hook, NETWORK_DROPS_BROADCAST, NETWORK_DROPS_MULTICAST, NETWORK_FLOODS_UNKNOWN, NETWORK_TRUNK,
        Outcome,
    },
    wire::icmp::QUOTED,
};

use crate::{
    fixture::{Case, Fixture, Setup, TC_REDIRECT, TC_SHOT, check_tc},
    frames::{
        A, ALL, B, C, D, HERE, Host, NOBODY, THERE, VNI, arp, patched, raw, udp, udp_tos, udp6, vxlan,
        vxlan_tos,
    },
};

#[test]
fn answers_to_one_endpoint_have_a_rate() {
    const PACKETS: u64 = 300;
    let mut fixture = Fixture::new(Setup::default());
    let large = udp(A, C, 6000, &[7; 1423]);
    for _ in 0..PACKETS {
        fixture.run_tc("endpoint_in", &large, Setup::default());
    }
    let count = |outcome| fixture.count(Hook::Endpoint, outcome);
    let (answered, dropped) = (count(Outcome::TooBigAnswered), count(Outcome::TooBig));
    assert_eq!(answered + dropped, PACKETS);
    assert!(answered >= 100 && dropped > 0, "{answered} answered, {dropped} dropped");
}

#[test]
fn packets_from_a_container() {
    check_tc("endpoint_in", Hook::Endpoint, &cases());
}

pub fn drop(what: &'static str, packet: Vec<u8>, outcome: Outcome) -> Case {
    Case { what, setup: Setup::default(), packet, action: TC_SHOT, outcome, output: None }
}

pub fn redirect(what: &'static str, packet: Vec<u8>, outcome: Outcome, output: Option<Vec<u8>>) -> Case {
    Case { what, setup: Setup::default(), packet, action: TC_REDIRECT, outcome, output }
}

pub fn cases() -> Vec<Case> {
    let mut cases = forwarded();
    cases.extend(traffic_classes());
    cases.extend(too_big());
    cases.extend(flooding());
    cases.extend(trunks());
    cases.extend(arp_cases());
    cases.extend(slow());
    cases.extend(dropped());
    cases
}

fn forwarded() -> Vec<Case> {
    let small = udp(A, C, 6000, b"hello");
    let six = udp6(A, C, b"hello");
    let full = udp(A, C, 6000, &[7; 1422]);
    let second = udp(Host { ip: [10, 0, 9, 2], ..A }, B, 6000, b"x");
    vec![
        redirect("to an endpoint of this node", second, Outcome::Delivered, None),
        redirect(
            "to another node",
            small.clone(),
            Outcome::Encapsulated,
            Some(vxlan(HERE, THERE, VNI, &small)),
        ),
        redirect("IPv6 inside", six.clone(), Outcome::Encapsulated, Some(vxlan(HERE, THERE, VNI, &six))),
        redirect(
            "as long as the underlay carries",
            full.clone(),
            Outcome::Encapsulated,
            Some(vxlan(HERE, THERE, VNI, &full)),
        ),
    ]
}

/// Each ECN codepoint is copied out (RFC 6040's normal mode), the DSCP by the network's policy.
fn traffic_classes() -> Vec<Case> {
    let mut cases = Vec::new();
    for (dscp, outer) in [(None, 0xb8), (Some(0), 0), (Some(10), 40), (Some(63), 0xfc)] {
        for ecn in 0..4 {
            let mut six = udp6(A, C, b"hello");
            six[14..16].copy_from_slice(&[0x6b, 0x80 | ecn << 4]);
            for inner in [udp_tos(A, C, 6000, b"hello", 0xb8 | ecn), six] {
                let output = vxlan_tos(HERE, THERE, VNI, &inner, outer | ecn);
                let setup = Setup { dscp, ..Setup::default() };
                cases.push(Case {
                    setup,
                    ..redirect("traffic class", inner, Outcome::Encapsulated, Some(output))
                });
            }
        }
    }
    cases
}

/// The ICMP error about a packet of A's.
pub fn error(packet: &[u8], mtu: u16) -> Vec<u8> {
    error_to(A, packet, mtu)
}

/// The ICMP error about a packet of `sender`'s to C, by an independent library.
pub fn error_to(sender: Host, packet: &[u8], mtu: u16) -> Vec<u8> {
    let quoted = &packet[14..14 + QUOTED];
    let mut frame = Vec::new();
    let eth = PacketBuilder::ethernet2(C.mac, sender.mac);
    if packet[12..14] == [8, 0] {
        let mut ip = Ipv4Header::new(0, 64, IpNumber::ICMP, C.ip, sender.ip).unwrap();
        ip.dont_fragment = true;
        ip.dscp = 48.try_into().unwrap(); // CS6: RFC 1812, section 4.3.2.5, internetwork control
        let header = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu };
        eth.ip(IpHeaders::Ipv4(ip, Ipv4Extensions::default()))
            .icmpv4(Icmpv4Type::DestinationUnreachable(header))
            .write(&mut frame, quoted)
            .unwrap();
    } else {
        let address = |at: usize| <[u8; 16]>::try_from(&packet[at..at + 16]).unwrap();
        eth.ipv6(address(14 + 24), address(14 + 8), 64)
            .icmpv6(Icmpv6Type::PacketTooBig { mtu: mtu.into() })
            .write(&mut frame, quoted)
            .unwrap();
    }
    frame
}

fn too_big() -> Vec<Case> {
    let answered = |what, packet: Vec<u8>, mtu| {
        let output = error(&packet, mtu);
        redirect(what, packet, Outcome::TooBigAnswered, Some(output))
    };
    let large = udp(A, C, 6000, &[7; 1423]);
    let subnet = Host { ip: [10, 0, 9, 255], ..ALL };
    let own = Setup { network_mtu: Some(1300), ..Setup::default() };
    vec![
        answered("longer than the underlay carries", large.clone(), 1450),
        answered("with DF", patched(large.clone(), 20, &[0x40, 0]), 1450),
        answered("IPv6 longer than the underlay carries", udp6(A, C, &[7; 1403]), 1450),
        Case {
            setup: own,
            ..answered("longer than the network's own MTU", udp(A, C, 6000, &[7; 1273]), 1300)
        },
        Case {
            setup: Setup { gso_size: 1423, ..Setup::default() },
            ..answered("a super-packet with too long segments", udp(A, C, 6000, &[7; 2800]), 1450)
        },
        drop("a later fragment too long", patched(large.clone(), 20, &[0, 100]), Outcome::TooBig),
        drop("an ICMP error too long", patched(patched(large, 23, &[1]), 34, &[3]), Outcome::TooBig),
        drop("not IP and too long", raw(A, C, 0x88b5, &[1; 1451]), Outcome::TooBig),
        drop("a broadcast too long", udp(A, subnet, 6000, &[7; 1423]), Outcome::TooBig),
    ]
}

/// What becomes of frames for everybody by the network's policy.
fn flooding() -> Vec<Case> {
    let broadcast = udp(A, Host { ip: [10, 0, 9, 255], ..ALL }, 6000, b"all");
    let group = udp(A, Host { mac: [1, 0, 0x5e, 0, 0, 0xfb], ip: [224, 0, 0, 251] }, 5353, b"some");
    let unknown = udp(A, NOBODY, 6000, b"who");
    let with = |network_flags, packet: &Vec<u8>, outcome| Case {
        setup: Setup { network_flags, ..Setup::default() },
        ..drop("flooding policy", packet.clone(), outcome)
    };
    let spent = |network_flags, packet: &Vec<u8>| Case {
        setup: Setup { network_flags, bum_rate: Some(0), ..Setup::default() },
        ..drop("more than the rate", packet.clone(), Outcome::BumRate)
    };
    vec![
        with(NETWORK_DROPS_BROADCAST, &broadcast, Outcome::BumPolicy),
        with(NETWORK_DROPS_BROADCAST, &group, Outcome::Flooded),
        with(NETWORK_DROPS_MULTICAST, &group, Outcome::BumPolicy),
        with(NETWORK_DROPS_MULTICAST, &broadcast, Outcome::Flooded),
        with(NETWORK_FLOODS_UNKNOWN, &unknown, Outcome::Flooded),
        spent(0, &broadcast),
        spent(0, &group),
        spent(NETWORK_FLOODS_UNKNOWN, &unknown),
        Case {
            setup: Setup { bum_rate: Some(0), ..Setup::default() },
            ..redirect(
                "an answered question takes no token",
                arp(ArpOperation::REQUEST, A, ALL, C),
                Outcome::ArpAnswered,
                Some(arp(ArpOperation::REPLY, C, A, A)),
            )
        },
    ]
}

/// Frames with VLAN tags in a network that carries them.
fn trunks() -> Vec<Case> {
    let tagged = |to| raw(A, to, 0x8100, &[0, 7, 8, 0, 0x45, 0]);
    let trunk = |case| Case { setup: Setup { network_flags: NETWORK_TRUNK, ..Setup::default() }, ..case };
    vec![
        trunk(redirect("tagged, to another node", tagged(C), Outcome::SlowVlan, None)),
        trunk(redirect("tagged, to an endpoint of this node", tagged(B), Outcome::Delivered, None)),
        trunk(redirect("tagged, for everybody", tagged(ALL), Outcome::SlowVlan, None)),
        trunk(redirect("tagged twice", raw(A, C, 0x88a8, &[0, 7, 0x81, 0, 0, 8]), Outcome::SlowVlan, None)),
        trunk(drop("tagged with VLAN 0", raw(A, C, 0x8100, &[0xe0, 0, 8, 0, 0x45, 0]), Outcome::InnerVlan)),
        trunk(drop("tagged, to a MAC nobody has", tagged(NOBODY), Outcome::UnknownDestination)),
        trunk(drop("tagged, from another's MAC", raw(B, C, 0x8100, &[0, 7, 8, 0]), Outcome::SpoofedMac)),
        trunk(drop("tagged and too long", raw(A, C, 0x8100, &[7; 1451]), Outcome::TooBig)),
    ]
}

fn arp_cases() -> Vec<Case> {
    let answer = arp(ArpOperation::REPLY, C, A, A);
    vec![
        redirect("who has C", arp(ArpOperation::REQUEST, A, ALL, C), Outcome::ArpAnswered, Some(answer)),
        drop(
            "who has an address nobody has",
            arp(ArpOperation::REQUEST, A, ALL, NOBODY),
            Outcome::ArpUnknown,
        ),
        drop(
            "ARP with another's MAC inside",
            [&ALL.mac[..], &A.mac[..], &arp(ArpOperation::REQUEST, B, ALL, C)[12..]].concat(),
            Outcome::SpoofedArp,
        ),
        drop(
            "ARP with another's address inside",
            arp(ArpOperation::REQUEST, Host { ip: B.ip, ..A }, ALL, C),
            Outcome::SpoofedArp,
        ),
        drop("ARP cut short", raw(A, ALL, 0x0806, &[0, 1, 8, 0, 6, 4]), Outcome::InnerMalformed),
    ]
}

fn slow() -> Vec<Case> {
    let kernel_floods = Setup { kernel_floods: true, ..Setup::default() };
    let broadcast = udp(A, Host { ip: [10, 0, 9, 255], ..ALL }, 6000, b"all");
    let super_packet = udp(A, C, 6000, &[7; 3000]);
    vec![
        redirect(
            "neither IP nor ARP, to another node",
            raw(A, C, 0x88b5, &[1; 50]),
            Outcome::SlowNotIp,
            None,
        ),
        redirect("a reply to C's question", arp(ArpOperation::REPLY, A, C, C), Outcome::SlowNotIp, None),
        Case {
            setup: kernel_floods,
            ..redirect("a broadcast the kernel copies", broadcast, Outcome::SlowFanout, None)
        },
        Case {
            // A super-packet of no known kind: `bpf_skb_adjust_room` refuses it.
            setup: Setup { gso_size: 1000, ..Setup::default() },
            ..redirect(
                "a super-packet the kernel will not extend",
                super_packet,
                Outcome::SlowEncapsulated,
                None,
            )
        },
    ]
}

fn dropped() -> Vec<Case> {
    let good = udp(A, C, 6000, b"hello");
    let nested = vxlan(Host { ip: A.ip, mac: A.mac }, Host { ip: THERE.ip, mac: C.mac }, VNI, &good);
    let nested_here = udp(A, Host { ip: HERE.ip, mac: B.mac }, 4789, b"x");
    let broadcast = udp(A, Host { ip: [10, 0, 9, 255], ..ALL }, 6000, b"all");
    vec![
        Case { outcome: Outcome::Flooded, ..drop("a broadcast", broadcast, Outcome::Flooded) },
        drop("from a MAC that is not the endpoint's", udp(B, C, 6000, b"x"), Outcome::SpoofedMac),
        drop(
            "from an address that is not the endpoint's",
            udp(Host { ip: B.ip, ..A }, C, 6000, b"x"),
            Outcome::SpoofedAddress,
        ),
        drop("to a MAC nobody has", udp(A, NOBODY, 6000, b"x"), Outcome::UnknownDestination),
        drop("to a node without a route", udp(A, D, 6000, b"x"), Outcome::NoRoute),
        drop("VXLAN to another node", nested, Outcome::EncapProhibited),
        drop("VXLAN to this node", nested_here, Outcome::EncapProhibited),
        drop("with a VLAN tag", raw(A, C, 0x8100, &[0, 7, 8, 0, 0x45]), Outcome::InnerVlan),
        drop(
            "an IPv4 header that lies about its length",
            patched(good.clone(), 14, &[0x44]),
            Outcome::InnerMalformed,
        ),
        drop("UDP without a port", udp(A, C, 6000, b"x")[..34].to_vec(), Outcome::InnerMalformed),
        Case {
            setup: Setup { unbound: true, ..Setup::default() },
            ..drop("from an interface nothing is bound to", good, Outcome::Unbound)
        },
        Case {
            setup: Setup { no_slow_path: true, ..Setup::default() },
            ..drop(
                "not IP, and no kernel device to carry it",
                raw(A, C, 0x88b5, &[1; 50]),
                Outcome::NoSlowPath,
            )
        },
    ]
}
