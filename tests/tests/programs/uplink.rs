//! From the wire: `uplink_xdp` and `uplink_in`, which must agree on every packet.

use etherparse::ArpOperation;
use overlay_ebpf::abi::{
    Class, DECAP_CLEARS_TUNNEL, ENDPOINT_REDIRECT, Hook, META_MAGIC, NETWORK_DROPS_BROADCAST,
    NETWORK_FLOODS_UNKNOWN, NETWORK_TRUNK, Outcome, RESERVED_BITS_IGNORE,
};
use overlay_user::datapath::ebpf::Features;

use crate::{
    fixture::{
        Case, Fixture, Fixtures, LOOPBACK, Redirect, Setup, TC_REDIRECT, TC_SHOT, TC_UNSPEC, XDP_DROP,
        XDP_PASS, XDP_REDIRECT, check, check_tc, in_both_maps, with_xdp,
    },
    frames::{
        A, ALL, B, C, HERE, Host, NOBODY, OTHER_VNI, STRANGER, THERE, VNI, arp, fix_ipv4, patched, raw, tcp,
        udp, udp_tos, udp6, vxlan, vxlan_tos,
    },
};

/// Offset of the inner frame.
pub const INNER: usize = 50;

#[test]
fn packets_from_the_wire_by_tc() {
    check_tc("uplink_in", Hook::Uplink, &cases());
}

#[test]
fn packets_from_the_wire_by_xdp() {
    // Shorter than a test run of a tc program takes.
    let short = pass("an IPv4 header cut short", raw(THERE, HERE, 0x0800, &[0x45; 4]), Outcome::PassedUp);
    // In several buffers, and longer than a test run of a tc program takes.
    let large = udp(C, B, 6000, &[0x5a; 8800]);
    let jumbo = vxlan(THERE, HERE, VNI, &large);
    let padded = [jumbo.clone(), vec![0xee; 7]].concat();
    let mut more = vec![short];
    if Features::probe().xdp_frags {
        more.push(deliver("a jumbo frame", jumbo, large.clone()));
        more.push(deliver("a jumbo frame with bytes behind it", padded, large));
    }
    check_xdp(cases().into_iter().chain(more), INNER);
}

/// Runs what tc does with `cases` through XDP, with the inner frames at an offset.
pub fn check_xdp(cases: impl IntoIterator<Item = Case>, inner: usize) {
    let mut fixtures = Fixtures::default();
    for case in in_both_maps(&cases.into_iter().collect::<Vec<_>>()) {
        let fixture = fixtures.of(with_xdp(case.setup));
        let run = fixture.run_xdp(&case.packet);
        let class = case.outcome.class();
        if case.outcome == Outcome::SlowVlan {
            // Left to tc, which counts it.
            assert_eq!((run.action, run.output), (XDP_PASS, case.packet), "{}", case.what);
            assert_eq!(fixture.count(Hook::Uplink, Outcome::Received), 0, "{}", case.what);
            continue;
        }
        if [Class::Forwarded, Class::SlowPath].contains(&class) && is_left_to_tc(&case.packet, inner) {
            assert_eq!((run.action, &run.output), (XDP_PASS, &case.packet), "{}: not left alone", case.what);
            assert_eq!(
                fixture.count(Hook::Uplink, Outcome::Received),
                0,
                "{}: it is tc that counts",
                case.what
            );
            continue;
        }
        if class == Class::SlowPath {
            // XDP can strip what tc cannot: any frame is delivered.
            let stripped = with_meta(LOOPBACK, 0, &case.packet[inner..]);
            let case = Case { outcome: Outcome::Delivered, ..case };
            check(fixture, Hook::Uplink, &case, &run, &stripped, XDP_PASS);
            continue;
        }
        let action = if class == Class::Drop { XDP_DROP } else { XDP_PASS };
        let output = match (case.outcome, case.output.as_deref()) {
            (Outcome::Delivered, Some(inner)) => with_meta(LOOPBACK, 0, inner),
            (Outcome::Flooded, Some(inner)) => with_meta(0, 0, inner),
            _ => case.packet.clone(),
        };
        check(fixture, Hook::Uplink, &case, &run, &output, action);
    }
}

#[test]
fn an_endpoint_with_redirects_gets_the_bare_inner_frame() {
    let setup = Setup { redirect: Redirect::On, ..with_xdp(Setup::default()) };
    let mut fixture = delivered_to(setup, XDP_REDIRECT, |_| true, <[u8]>::to_vec);
    let broadcast = udp(C, Host { ip: [10, 0, 9, 255], ..ALL }, 6000, b"all");
    let run = fixture.run_xdp(&vxlan(THERE, HERE, VNI, &broadcast));
    assert_eq!(run.action, XDP_PASS, "a broadcast is tc's to copy");
}

#[test]
fn tc_delivers_what_cannot_be_redirected() {
    let setup = Setup { redirect: Redirect::NoTarget, ..with_xdp(Setup::default()) };
    let stripped = |packet: &[u8]| !is_left_to_tc(packet, INNER);
    delivered_to(setup, XDP_PASS, stripped, |inner| with_meta(LOOPBACK, ENDPOINT_REDIRECT, inner));
}

/// Runs every packet that is for an endpoint and `wanted`.
fn delivered_to(
    setup: Setup,
    action: u32,
    wanted: impl Fn(&[u8]) -> bool,
    output: impl Fn(&[u8]) -> Vec<u8>,
) -> Fixture {
    let mut fixture = Fixture::new(setup);
    let for_endpoint = [Outcome::Delivered, Outcome::SlowNotIp];
    let cases =
        cases().into_iter().filter(|c| c.setup == Setup::default() && for_endpoint.contains(&c.outcome));
    let mut delivered = 0;
    for case in cases.filter(|case| wanted(&case.packet)) {
        let case = Case { outcome: Outcome::Delivered, ..case };
        let inner = case.output.as_deref().unwrap_or(&case.packet[INNER..]);
        fixture.clear_counters();
        let run = fixture.run_xdp(&case.packet);
        check(&fixture, Hook::Uplink, &case, &run, &output(inner), action);
        delivered += 1;
    }
    assert!(delivered > 15, "{delivered}");
    fixture
}

#[test]
fn tc_behind_xdp_counts_nothing_twice() {
    let setup = with_xdp(Setup::default());
    let mut fixture = Fixture::new(setup);
    let run = fixture.run_tc("uplink_in", &udp(STRANGER, HERE, 53, b"x"), setup);
    assert_eq!(run.action, TC_UNSPEC);
    assert_eq!(fixture.count(Hook::Uplink, Outcome::Received), 0);
}

/// Whether only tc can tell what was verified of a packet that is to be delivered: there is a checksum
/// outside, or TCP inside, which GRO merges.
fn is_left_to_tc(packet: &[u8], inner: usize) -> bool {
    let (checksum, frame) = (&packet[inner - 10..inner - 8], &packet[inner..]);
    *checksum != [0; 2] || (frame[12..14] == [8, 0] && frame[23] == 6)
}

pub fn with_meta(ifindex: u32, flags: u16, inner: &[u8]) -> Vec<u8> {
    let meta = [META_MAGIC, VNI, ifindex, flags.into()].map(u32::to_ne_bytes).concat();
    [&meta, inner].concat()
}

pub fn deliver(what: &'static str, packet: Vec<u8>, inner: Vec<u8>) -> Case {
    Case {
        what,
        setup: Setup::default(),
        packet,
        action: TC_REDIRECT,
        outcome: Outcome::Delivered,
        output: Some(inner),
    }
}

pub fn pass(what: &'static str, packet: Vec<u8>, outcome: Outcome) -> Case {
    Case { what, setup: Setup::default(), packet, action: TC_UNSPEC, outcome, output: None }
}

pub fn drop(what: &'static str, packet: Vec<u8>, outcome: Outcome) -> Case {
    Case { what, setup: Setup::default(), packet, action: TC_SHOT, outcome, output: None }
}

/// VXLAN from the other node, from C to B.
pub fn good() -> Vec<u8> {
    vxlan(THERE, HERE, VNI, &udp(C, B, 6000, b"hello"))
}

pub fn cases() -> Vec<Case> {
    let mut cases = delivered();
    cases.extend(ecn());
    cases.extend(passed());
    cases.extend(by_policy());
    cases.extend(bad_outer());
    cases.extend(bad_inner());
    cases
}

fn delivered() -> Vec<Case> {
    let inner = udp(C, B, 6000, b"hello");
    let six = udp6(C, B, b"hello");
    let broadcast = udp(C, Host { ip: [10, 0, 9, 255], ..ALL }, 6000, b"all");
    let mut summed = good();
    summed[40..42].copy_from_slice(&[0x12, 0x34]);
    let reserved = patched(good(), 43, &[1]);
    let padded = [good(), vec![0xee; 7]].concat();
    let beyond = tcp(C, Host { mac: B.mac, ..STRANGER }, &[7; 100]);
    vec![
        deliver("to an endpoint", good(), inner.clone()),
        deliver("IPv6 inside", vxlan(THERE, HERE, VNI, &six), six),
        deliver("with a UDP checksum, which need not be verified", summed, inner.clone()),
        deliver("TCP", vxlan(THERE, HERE, VNI, &tcp(C, B, b"hello")), tcp(C, B, b"hello")),
        deliver(
            "to another's address by way of the endpoint",
            vxlan(THERE, HERE, VNI, &beyond),
            beyond.clone(),
        ),
        Case {
            setup: Setup { gso_size: 40, ..Setup::default() },
            outcome: Outcome::SlowForwarded,
            action: TC_UNSPEC,
            output: None,
            ..deliver("the same as a super-packet", vxlan(THERE, HERE, VNI, &beyond), Vec::new())
        },
        Case {
            setup: Setup { gso_size: 40, flags: DECAP_CLEARS_TUNNEL, ..Setup::default() },
            outcome: Outcome::SlowEncapsulated,
            action: TC_UNSPEC,
            output: None,
            ..deliver(
                "where the kernel can take the mark off; a test run's super-packets have no type to strip",
                vxlan(THERE, HERE, VNI, &beyond),
                Vec::new(),
            )
        },
        deliver("with bytes behind it, which are no part of it", padded, inner.clone()),
        Case {
            setup: Setup { flags: RESERVED_BITS_IGNORE, ..Setup::default() },
            ..deliver("with reserved bits set, where they are ignored", reserved, inner)
        },
        Case {
            action: TC_SHOT,
            outcome: Outcome::Flooded,
            ..deliver("a broadcast", vxlan(THERE, HERE, VNI, &broadcast), broadcast)
        },
        Case {
            outcome: Outcome::SlowNotIp,
            action: TC_UNSPEC,
            output: None,
            ..deliver("neither IP nor ARP", vxlan(THERE, HERE, VNI, &raw(C, B, 0x88b5, &[1; 50])), Vec::new())
        },
        Case {
            outcome: Outcome::SlowNotIp,
            action: TC_UNSPEC,
            output: None,
            ..deliver("ARP", vxlan(THERE, HERE, VNI, &arp(ArpOperation::REPLY, C, B, B)), Vec::new())
        },
    ]
}

/// All sixteen combinations of RFC 6040, figure 4.
pub fn ecn() -> Vec<Case> {
    let mut cases = Vec::new();
    for inner in 0..4_u8 {
        for outer in 0..4_u8 {
            let packet = vxlan_tos(THERE, HERE, VNI, &udp_tos(C, B, 6000, b"e", 0xb8 | inner), outer);
            let left = match (inner, outer) {
                (0, 3) => {
                    cases.push(drop(
                        "CE on a packet that is not ECN-capable",
                        packet,
                        Outcome::EcnNotCapable,
                    ));
                    continue;
                }
                (1 | 2, 3) => 3,
                (2, 1) => 1,
                (inner, _) => inner,
            };
            cases.push(deliver("ECN", packet, udp_tos(C, B, 6000, b"e", 0xb8 | left)));
        }
    }
    let mut marked = udp6(C, B, b"e");
    marked[15] |= 2 << 4;
    let mut expected = marked.clone();
    expected[15] |= 3 << 4;
    cases.push(deliver("ECN on IPv6", vxlan_tos(THERE, HERE, VNI, &marked, 3), expected));
    cases
}

/// What a network's owner decides.
fn by_policy() -> Vec<Case> {
    let with = |network_flags, case| Case { setup: Setup { network_flags, ..Setup::default() }, ..case };
    let broadcast = vxlan(THERE, HERE, VNI, &udp(C, Host { ip: [10, 0, 9, 255], ..ALL }, 6000, b"all"));
    let unknown = udp(C, NOBODY, 6000, b"who");
    let tagged = |to| vxlan(THERE, HERE, VNI, &raw(C, to, 0x8100, &[0, 7, 8, 0, 0x45, 0]));
    let priority = vxlan(THERE, HERE, VNI, &raw(C, B, 0x8100, &[0xe0, 0, 8, 0, 0x45, 0]));
    let slow = |what, packet| pass(what, packet, Outcome::SlowVlan);
    let flooded = Case {
        action: TC_SHOT,
        outcome: Outcome::Flooded,
        ..deliver("to a MAC nobody has, flooded", vxlan(THERE, HERE, VNI, &unknown), unknown)
    };
    vec![
        with(NETWORK_DROPS_BROADCAST, drop("a broadcast, dropped", broadcast, Outcome::BumPolicy)),
        with(NETWORK_FLOODS_UNKNOWN, flooded),
        with(NETWORK_TRUNK, slow("a tagged frame of a trunk", tagged(B))),
        with(NETWORK_TRUNK, slow("a tagged frame of a trunk for everybody", tagged(ALL))),
        with(NETWORK_TRUNK, drop("tagged with VLAN 0", priority, Outcome::InnerVlan)),
        with(NETWORK_TRUNK, drop("tagged, to a MAC nobody has", tagged(NOBODY), Outcome::UnknownDestination)),
    ]
}

fn passed() -> Vec<Case> {
    let late_fragment = patched(good(), 20, &[0, 1]);
    vec![
        pass("ARP", arp(ArpOperation::REQUEST, THERE, ALL, HERE), Outcome::PassedUp),
        pass("another UDP port", udp(THERE, HERE, 53, b"x"), Outcome::PassedUp),
        pass("another address", vxlan(THERE, STRANGER, VNI, &udp(C, B, 6000, b"x")), Outcome::PassedUp),
        pass(
            "to another host's MAC, flooded by a switch",
            patched(good(), 0, &STRANGER.mac),
            Outcome::PassedUp,
        ),
        pass("a later fragment has no port to tell it by", late_fragment, Outcome::PassedUp),
        pass("TCP", patched(good(), 23, &[6]), Outcome::PassedUp),
        pass("IPv6 of the host", udp6(THERE, HERE, b"x"), Outcome::PassedUp),
        pass(
            "a VNI we have no part in",
            vxlan(THERE, HERE, OTHER_VNI, &udp(C, B, 6000, b"x")),
            Outcome::PassedUnknownVni,
        ),
        pass(
            "another device's flags and no Ethernet inside",
            patched(vxlan(THERE, HERE, OTHER_VNI, &[0x45; 12]), 42, &[0x8c]),
            Outcome::PassedUnknownVni,
        ),
    ]
}

fn bad_outer() -> Vec<Case> {
    let mut options = good();
    options.splice(34..34, [1, 1, 1, 1]);
    options[14] = 0x46;
    let length = u16::from_be_bytes([options[16], options[17]]) + 4;
    options[16..18].copy_from_slice(&length.to_be_bytes());
    fix_ipv4(&mut options);
    let mut short = good();
    short.truncate(60);
    vec![
        drop("the first of several fragments", patched(good(), 20, &[0x20, 0]), Outcome::Fragment),
        drop("options in the outer header", options, Outcome::OuterOptions),
        drop("cut short in the inner frame", short.clone(), Outcome::Truncated),
        drop("cut short in the VXLAN header", short[..46].to_vec(), Outcome::Truncated),
        drop("UDP says it is longer than IPv4 says", patched(good(), 38, &[0xff, 0]), Outcome::Truncated),
        drop("UDP has no room for a frame", patched(good(), 38, &[0, 29]), Outcome::Truncated),
        drop("no I flag", patched(good(), 42, &[0]), Outcome::NoVniFlag),
        drop("a reserved flag", patched(good(), 42, &[0x88]), Outcome::ReservedBits),
        drop("a reserved bit in the middle", patched(good(), 44, &[1]), Outcome::ReservedBits),
        drop("a reserved bit at the end", patched(good(), 49, &[0x80]), Outcome::ReservedBits),
        drop(
            "from a host that is no VTEP",
            vxlan(STRANGER, HERE, VNI, &udp(C, B, 6000, b"x")),
            Outcome::UnknownVtep,
        ),
    ]
}

pub fn bad_inner() -> Vec<Case> {
    let wrap = |inner: &[u8]| vxlan(THERE, HERE, VNI, inner);
    let nested = vxlan(C, Host { ip: HERE.ip, mac: B.mac }, VNI, &udp(C, B, 6000, b"x"));
    vec![
        drop("from an endpoint of this node", wrap(&udp(A, B, 6000, b"x")), Outcome::InnerSource),
        drop("from a MAC nobody has", wrap(&udp(NOBODY, B, 6000, b"x")), Outcome::InnerSource),
        drop(
            "from an address of another endpoint",
            wrap(&udp(Host { ip: A.ip, ..C }, B, 6000, b"x")),
            Outcome::InnerSource,
        ),
        drop(
            "ARP for an address of another endpoint",
            wrap(&arp(ArpOperation::REPLY, Host { ip: A.ip, ..C }, B, B)),
            Outcome::InnerSource,
        ),
        drop("VXLAN in VXLAN, to this node", wrap(&nested), Outcome::Nested),
        drop("with a VLAN tag", wrap(&raw(C, B, 0x8100, &[0, 7, 8, 0, 0x45])), Outcome::InnerVlan),
        drop("to an endpoint that is not here", wrap(&udp(C, C, 6000, b"x")), Outcome::NotLocal),
        drop("to a MAC nobody has", wrap(&udp(C, NOBODY, 6000, b"x")), Outcome::UnknownDestination),
        drop(
            "an inner IPv4 header cut short",
            wrap(&raw(C, B, 0x0800, &[0x45; 10])),
            Outcome::InnerMalformed,
        ),
        drop("UDP without a port", wrap(&udp(C, B, 6000, b"x")[..34]), Outcome::InnerMalformed),
        drop(
            "an inner IPv4 header that lies",
            wrap(&patched(udp(C, B, 6000, b"x"), 14, &[0x41])),
            Outcome::InnerMalformed,
        ),
    ]
}
