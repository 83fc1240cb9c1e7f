//! From the hosts behind a gateway port: `port_xdp` and `port_in`, of which the first does all that it
//! can and leaves the rest to the second as it came; and what other programs make of such hosts.

use etherparse::ArpOperation;
use overlay_ebpf::abi::{
    Class, ENDPOINT_LEARNED, ENDPOINT_PORT, Hook, LEARNED_KNOWN, LEARNED_PENDING, LEARNED_REFUSED, Learned,
    OUTCOMES, Outcome,
};

use crate::{
    endpoint::error_to,
    fixture::{
        Case, Fixture, Fixtures, Gateway, LOOPBACK, Setup, TC_REDIRECT, TC_SHOT, XDP_DROP, XDP_PASS,
        XDP_REDIRECT, check, check_tc, with_xdp,
    },
    frames::{
        A, ALL, B, C, D, H, HERE, Host, I, J, NOBODY, THERE, VNI, arp, patched, raw, udp, udp_tos, udp6,
        vxlan, vxlan_tos,
    },
    uplink::with_meta,
};

const ON: Setup = Setup {
    flags: 0,
    gso_size: 0,
    mark: 0,
    unbound: false,
    no_slow_path: false,
    kernel_floods: false,
    dscp: None,
    network_flags: 0,
    network_mtu: None,
    bum_rate: None,
    gateway: Gateway::On,
    redirect: crate::fixture::Redirect::Off,
    crowded: false,
};
const FULL: Setup = Setup { gateway: Gateway::Full, ..ON };

#[test]
fn packets_from_behind_a_port_by_tc() {
    check_tc("port_in", Hook::Port, &cases());
}

#[test]
fn packets_from_behind_a_port_by_xdp() {
    let mut fixtures = Fixtures::default();
    for case in cases() {
        let fixture = fixtures.of(case.setup);
        let run = fixture.run_xdp_of("port_xdp", &case.packet);
        let (outcome, action) = match case.outcome {
            Outcome::Encapsulated => (Outcome::Encapsulated, XDP_REDIRECT),
            // Unlike tc, XDP puts headers in front of anything.
            Outcome::SlowNotIp if case.packet[..6] == C.mac => {
                let output = Some(vxlan(HERE, THERE, VNI, &case.packet));
                let case = Case { outcome: Outcome::Encapsulated, output, ..case };
                let output = case.output.clone().unwrap();
                check(fixture, Hook::Port, &case, &run, &output, XDP_REDIRECT);
                continue;
            }
            Outcome::ArpAnswered => (Outcome::ArpAnswered, XDP_REDIRECT),
            Outcome::TooBigAnswered | Outcome::Unbound | Outcome::UnknownDestination | Outcome::InnerVlan => {
                left_to_tc(fixture, &case, &run);
                continue;
            }
            dropped if dropped.class() == Class::Drop => (dropped, XDP_DROP),
            _ => {
                left_to_tc(fixture, &case, &run);
                continue;
            }
        };
        let case = Case { outcome, ..case };
        let output = case.output.as_deref().unwrap_or(&case.packet);
        check(fixture, Hook::Port, &case, &run, output, action);
    }
}

fn left_to_tc(fixture: &Fixture, case: &Case, run: &crate::fixture::Run) {
    assert_eq!(run.action, XDP_PASS, "{}", case.what);
    assert_eq!(run.output, case.packet, "{}: untouched", case.what);
    let counted = OUTCOMES.iter().filter(|o| fixture.count(Hook::Port, **o) > 0).count();
    assert_eq!(counted, 0, "{}: tc counts it", case.what);
}

#[test]
fn a_source_nobody_has_is_noted_and_a_known_one_is_heard() {
    for by_xdp in [true, false] {
        let mut fixture = Fixture::new(ON);
        let new = Host { mac: [2, 0, 0, 0, 1, 1], ip: [10, 0, 9, 90] };
        for from in [new, H, I, B, C] {
            let packet = udp(from, C, 6000, b"x");
            if by_xdp {
                fixture.run_xdp_of("port_xdp", &packet);
            } else {
                fixture.run_tc("port_in", &packet, ON);
            }
        }
        let noted = fixture.learned(new).unwrap();
        assert_eq!((noted.ifindex, noted.state, noted.seen), (LOOPBACK, LEARNED_PENDING, 1));
        assert_eq!(fixture.learned(H).unwrap().seen, 1);
        assert_eq!(fixture.learned(I).unwrap().seen, 1, "known from its record");
        for taken in [B, C] {
            assert!(fixture.learned(taken).is_none(), "an endpoint's MAC address is nobody else's");
        }
    }
}

#[test]
fn what_was_judged_is_judged_anew_when_something_has_changed() {
    for by_xdp in [true, false] {
        let mut fixture = Fixture::new(ON);
        let packet = udp(H, C, 6000, b"x");
        let judged = |fixture: &mut Fixture, packet: &[u8]| {
            fixture.clear_counters();
            if by_xdp {
                fixture.run_xdp_of("port_xdp", packet);
            } else {
                fixture.run_tc("port_in", packet, ON);
            }
            OUTCOMES.iter().copied().find(|o| *o != Outcome::Received && fixture.count(Hook::Port, *o) > 0)
        };
        assert_eq!(judged(&mut fixture, &packet), Some(Outcome::Encapsulated));
        assert_eq!(fixture.learned(H).unwrap().seen, 1);

        // What the daemon has noted meanwhile holds for all frames from its next change of the epoch on.
        fixture.note(H, Learned { ifindex: LOOPBACK, state: LEARNED_KNOWN, seen: 0 });
        assert_eq!(judged(&mut fixture, &packet), Some(Outcome::Encapsulated));
        assert_eq!(fixture.learned(H).unwrap().seen, 0, "not looked up for each frame");
        fixture.judge_anew();
        assert_eq!(judged(&mut fixture, &packet), Some(Outcome::Encapsulated));
        assert_eq!(fixture.learned(H).unwrap().seen, 1, "heard in each epoch");
        fixture.note(H, Learned { ifindex: LOOPBACK, state: LEARNED_REFUSED, seen: 0 });
        fixture.judge_anew();
        assert_eq!(judged(&mut fixture, &packet), Some(Outcome::SpoofedMac));

        // One address, one MAC address: another with either was not judged.
        fixture.note(H, Learned { ifindex: LOOPBACK, state: LEARNED_KNOWN, seen: 0 });
        fixture.judge_anew();
        assert_eq!(judged(&mut fixture, &packet), Some(Outcome::Encapsulated));
        let another = udp(Host { ip: A.ip, ..H }, C, 6000, b"x");
        assert_eq!(judged(&mut fixture, &another), Some(Outcome::SpoofedAddress));
        let another = udp(Host { mac: C.mac, ..H }, B, 6000, b"x");
        assert_eq!(judged(&mut fixture, &another), Some(Outcome::SpoofedMac));
        let nested = udp(H, Host { ip: THERE.ip, mac: C.mac }, 4789, b"x");
        assert_eq!(judged(&mut fixture, &nested), Some(Outcome::EncapProhibited), "whoever sends it");
        fixture.own(A, H.ip);
        fixture.judge_anew();
        assert_eq!(judged(&mut fixture, &packet), Some(Outcome::SpoofedAddress), "it is an endpoint's now");
    }
}

#[test]
fn flows_have_source_ports_of_their_own() {
    let mut fixture = Fixture::new(ON);
    let mut port = |to_port| {
        let run = fixture.run_xdp_of("port_xdp", &udp(H, C, to_port, b"x"));
        [run.output[34], run.output[35]]
    };
    assert_eq!(port(6000), port(6000));
    let ports: std::collections::BTreeSet<_> = (6000..6064).map(port).collect();
    assert!(ports.len() > 56, "{} ports for 64 flows", ports.len());
}

#[test]
fn hosts_behind_another_nodes_port_may_have_any_address_that_is_nobodys() {
    let broadcast = Host { ip: [10, 0, 9, 255], ..ALL };
    let cases = [
        (udp(J, B, 6000, b"x"), Outcome::Delivered),
        (udp(Host { ip: [198, 51, 100, 7], ..J }, B, 6000, b"x"), Outcome::Delivered),
        (udp(Host { ip: A.ip, ..J }, B, 6000, b"x"), Outcome::InnerSource),
        (udp(J, broadcast, 6000, b"x"), Outcome::Flooded),
        (udp(H, B, 6000, b"x"), Outcome::InnerSource),
    ];
    let fixture = &mut Fixture::new(ON);
    for (inner, outcome) in cases {
        fixture.clear_counters();
        fixture.run_tc("uplink_in", &vxlan(THERE, HERE, VNI, &inner), ON);
        assert_eq!(fixture.count(Hook::Uplink, outcome), 1, "{outcome:?}");
    }
}

#[test]
fn frames_from_the_wire_go_out_of_the_port() {
    let inner = udp(C, H, 6000, b"hello");
    let packet = vxlan(THERE, HERE, VNI, &inner);
    let case = |setup| Case {
        what: "to a host behind the port",
        setup,
        packet: packet.clone(),
        action: TC_REDIRECT,
        outcome: Outcome::Delivered,
        output: Some(inner.clone()),
    };
    check_tc("uplink_in", Hook::Uplink, &[case(ON)]);
    let mut fixtures = Fixtures::default();
    let fixture = fixtures.of(with_xdp(ON));
    let run = fixture.run_xdp(&packet);
    let output = with_meta(LOOPBACK, ENDPOINT_LEARNED | ENDPOINT_PORT, &inner);
    check(fixture, Hook::Uplink, &case(with_xdp(ON)), &run, &output, XDP_PASS);
}

#[test]
fn who_asks_for_an_address_nobody_has_asks_everybody_where_there_are_ports() {
    // The same interface, but with an endpoint behind it.
    let mut fixture = Fixture::new(ON);
    fixture.bind_endpoint(A);
    let run = fixture.run_tc("endpoint_in", &arp(ArpOperation::REQUEST, A, ALL, NOBODY), ON);
    assert_eq!(run.action, TC_REDIRECT);
    assert_eq!(fixture.count(Hook::Endpoint, Outcome::SlowNotIp), 1);
}

fn case(
    setup: Setup,
    what: &'static str,
    packet: Vec<u8>,
    action: u32,
    outcome: Outcome,
    output: Option<Vec<u8>>,
) -> Case {
    Case { what, setup, packet, action, outcome, output }
}

fn drop(what: &'static str, packet: Vec<u8>, outcome: Outcome) -> Case {
    case(ON, what, packet, TC_SHOT, outcome, None)
}

fn redirect(what: &'static str, packet: Vec<u8>, outcome: Outcome, output: Option<Vec<u8>>) -> Case {
    case(ON, what, packet, TC_REDIRECT, outcome, output)
}

pub fn cases() -> Vec<Case> {
    let mut cases = forwarded();
    cases.extend(dropped());
    cases
}

fn forwarded() -> Vec<Case> {
    let new = Host { mac: [2, 0, 0, 0, 1, 0], ip: [10, 0, 9, 90] };
    let out = |what, inner: Vec<u8>| {
        let output = Some(vxlan(HERE, THERE, VNI, &inner));
        redirect(what, inner, Outcome::Encapsulated, output)
    };
    let marked = udp_tos(H, C, 6000, b"hello", 0xb8 | 1);
    let marked_out = vxlan_tos(HERE, THERE, VNI, &marked, 0xb8 | 1);
    let far = Host { ip: [198, 51, 100, 7], ..H };
    let large = udp(H, C, 6000, &[7; 1423]);
    let answer = error_to(H, &large, 1450);
    vec![
        redirect("longer than the underlay carries", large, Outcome::TooBigAnswered, Some(answer)),
        out("to another node", udp(H, C, 6000, b"hello")),
        out("as long as the underlay carries", udp(H, C, 6000, &[7; 1422])),
        out("IPv6 inside", udp6(H, C, b"hello")),
        out("to a host behind another node's port", udp(H, J, 6000, b"hello")),
        out("from a MAC nobody has", udp(new, C, 6000, b"x")),
        out("from an address that nobody in the network has, as behind a router", udp(far, C, 6000, b"x")),
        redirect("DSCP and ECT(1) are copied out", marked, Outcome::Encapsulated, Some(marked_out)),
        Case { setup: FULL, ..out("a known MAC, on a port that is full", udp(H, C, 6000, b"x")) },
        Case { setup: FULL, ..out("one known by its record alone", udp(I, C, 6000, b"x")) },
        redirect("to an endpoint of this node", udp(H, B, 6000, b"x"), Outcome::Delivered, None),
        redirect(
            "who has C",
            arp(ArpOperation::REQUEST, H, ALL, C),
            Outcome::ArpAnswered,
            Some(arp(ArpOperation::REPLY, C, H, H)),
        ),
        redirect(
            "who has an address nobody told",
            arp(ArpOperation::REQUEST, H, ALL, NOBODY),
            Outcome::SlowNotIp,
            None,
        ),
        redirect("neither IP nor ARP", raw(H, C, 0x88b5, &[1; 50]), Outcome::SlowNotIp, None),
        drop("a broadcast", udp(H, Host { ip: [10, 0, 9, 255], ..ALL }, 6000, b"x"), Outcome::Flooded),
    ]
}

fn dropped() -> Vec<Case> {
    let new = Host { mac: [2, 0, 0, 0, 1, 9], ip: [10, 0, 9, 91] };
    let nested = udp(H, Host { ip: THERE.ip, mac: C.mac }, 4789, b"x");
    vec![
        Case {
            setup: FULL,
            ..drop("a new MAC on a port that is full", udp(new, C, 6000, b"x"), Outcome::LearnLimit)
        },
        Case {
            setup: Setup { unbound: true, ..ON },
            ..drop("from a port that is none", udp(H, C, 6000, b"x"), Outcome::Unbound)
        },
        drop("from an endpoint's MAC of this node", udp(B, C, 6000, b"x"), Outcome::SpoofedMac),
        drop("from an endpoint's MAC of another node", udp(C, B, 6000, b"x"), Outcome::SpoofedMac),
        drop("from a MAC behind another port", udp(J, C, 6000, b"x"), Outcome::SpoofedMac),
        drop(
            "from a group's MAC",
            udp(Host { mac: [3, 0, 0, 0, 0, 1], ..H }, C, 6000, b"x"),
            Outcome::SpoofedMac,
        ),
        drop(
            "from an endpoint's address",
            udp(Host { ip: A.ip, ..H }, C, 6000, b"x"),
            Outcome::SpoofedAddress,
        ),
        drop(
            "ARP for an endpoint's address",
            arp(ArpOperation::REQUEST, Host { ip: A.ip, ..H }, ALL, C),
            Outcome::SpoofedArp,
        ),
        drop("to a host behind the same port", udp(H, I, 6000, b"x"), Outcome::SamePort),
        drop("to a MAC nobody has", udp(H, NOBODY, 6000, b"x"), Outcome::UnknownDestination),
        drop("to a node without a route", udp(H, D, 6000, b"x"), Outcome::NoRoute),
        drop("VXLAN to a node", nested, Outcome::EncapProhibited),
        drop("with a VLAN tag", raw(H, C, 0x8100, &[0, 7, 8, 0, 0x45]), Outcome::InnerVlan),
        drop(
            "an IPv4 header that lies about its length",
            patched(udp(H, C, 6000, b"x"), 14, &[0x44]),
            Outcome::InnerMalformed,
        ),
    ]
}
