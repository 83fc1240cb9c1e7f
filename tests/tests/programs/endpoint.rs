//! From a container: `endpoint_in`.

use etherparse::ArpOperation;
use overlay_ebpf::abi::{Hook, Outcome};

use crate::{
    fixture::{Case, Setup, TC_REDIRECT, TC_SHOT, check_tc},
    frames::{
        A, ALL, B, C, D, HERE, Host, NOBODY, THERE, VNI, arp, patched, raw, udp, udp_tos, udp6, vxlan,
        vxlan_tos,
    },
};

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
        drop("longer than the underlay carries", udp(A, C, 6000, &[7; 1423]), Outcome::TooBig),
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
