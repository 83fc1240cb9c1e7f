//! IPv6 inside: neighbour discovery, and whose addresses are whose.

use overlay_ebpf::abi::{Addr, Hook, MacAddr, Outcome};

use crate::{
    fixture::{Case, Setup, TC_REDIRECT, TC_SHOT, check_tc},
    frames::{
        A, B, C, HERE, NOBODY, THERE, VNI, icmp6, ip6, link_layer, nd, solicited, udp6, udp6_from, vxlan,
    },
    uplink,
};

const RS: u8 = 133;
const RA: u8 = 134;
const NS: u8 = 135;
const NA: u8 = 136;
const REDIRECT: u8 = 137;
const MLD_REPORT: u8 = 143;

const NOWHERE: [u8; 16] = [0; 16];
const ALL_NODES: ([u8; 6], [u8; 16]) =
    ([0x33, 0x33, 0, 0, 0, 1], [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

/// The nonce of RFC 7527, which Linux sends where it detects duplicates.
const NONCE: &[u8] = &[14, 1, 1, 2, 3, 4, 5, 6];

#[test]
fn ipv6_from_a_container() {
    check_tc("endpoint_in", Hook::Endpoint, &from_endpoint());
}

#[test]
fn ipv6_from_the_wire_by_tc() {
    check_tc("uplink_in", Hook::Uplink, &from_wire());
}

#[test]
fn ipv6_from_the_wire_by_xdp() {
    uplink::check_xdp(from_wire(), uplink::INNER);
}

fn case(what: &'static str, packet: Vec<u8>, action: u32, outcome: Outcome, output: Option<Vec<u8>>) -> Case {
    Case { what, setup: Setup::default(), packet, action, outcome, output }
}

fn drop(what: &'static str, packet: Vec<u8>, outcome: Outcome) -> Case {
    case(what, packet, TC_SHOT, outcome, None)
}

fn flooded(what: &'static str, packet: Vec<u8>) -> Case {
    drop(what, packet, Outcome::Flooded)
}

fn sent(what: &'static str, packet: Vec<u8>) -> Case {
    let output = Some(vxlan(HERE, THERE, VNI, &packet));
    case(what, packet, TC_REDIRECT, Outcome::Encapsulated, output)
}

fn answered(what: &'static str, question: Vec<u8>, answer: Vec<u8>) -> Case {
    case(what, question, TC_REDIRECT, Outcome::NdAnswered, Some(answer))
}

/// The link-local address of a MAC address.
fn link_local(mac: [u8; 6]) -> [u8; 16] {
    MacAddr(mac).link_local()
}

/// A solicitation of A's to the multicast address of its target.
fn ask(from: [u8; 16], target: [u8; 16], options: &[u8]) -> Vec<u8> {
    let (mac, group) = solicited(target);
    nd((A.mac, mac), (from, group), NS, 0, target, options)
}

/// The advertisement to A that `target` is at `mac`.
fn told(to: [u8; 16], target: [u8; 16], mac: [u8; 6]) -> Vec<u8> {
    nd((mac, A.mac), (target, to), NA, 0x60, target, &link_layer(2, mac))
}

pub fn from_endpoint() -> Vec<Case> {
    let mut cases = questions();
    cases.extend(claims());
    cases.extend(addresses());
    cases.extend(hidden());
    cases
}

fn questions() -> Vec<Case> {
    let own = link_layer(1, A.mac);
    let (a, c) = (A.ip6(), C.ip6());
    let unicast = nd((A.mac, C.mac), (a, c), NS, 0, c, &own);
    let bare = nd((A.mac, C.mac), (a, c), NS, 0, c, &[]);
    let with_nonce = ask(a, c, &[&own, NONCE].concat());
    let padded = [ask(a, c, &own), vec![0xee; 3]].concat();
    let taken = nd((C.mac, ALL_NODES.0), (c, ALL_NODES.1), NA, 0x20, c, &link_layer(2, C.mac));
    let mapped = Addr::from_v4(C.ip).0;
    vec![
        answered("who has C", ask(a, c, &own), told(a, c, C.mac)),
        answered("who has B, of this node", ask(a, B.ip6(), &own), told(a, B.ip6(), B.mac)),
        answered(
            "who has C's second address",
            ask(a, C.second().ip6(), &own),
            told(a, C.second().ip6(), C.mac),
        ),
        answered(
            "who has C's link-local address",
            ask(link_local(A.mac), link_local(C.mac), &own),
            told(link_local(A.mac), link_local(C.mac), C.mac),
        ),
        answered("is C still there", unicast, told(a, c, C.mac)),
        answered("the same without options", bare, told(a, c, C.mac)),
        answered("with an option more", with_nonce, told(a, c, C.mac)),
        answered("with bytes behind it", padded, told(a, c, C.mac)),
        answered("may A have C's address", ask(NOWHERE, c, NONCE), taken),
        drop("who has an address nobody has", ask(a, NOBODY.ip6(), &own), Outcome::NdUnknown),
        drop(
            "who has a link-local address nobody has",
            ask(a, link_local(NOBODY.mac), &own),
            Outcome::NdUnknown,
        ),
        drop("who has an IPv4 address", ask(a, mapped, &own), Outcome::NdUnknown),
        drop("may A have an address nobody has", ask(NOWHERE, NOBODY.ip6(), NONCE), Outcome::NdUnknown),
        flooded("has anybody A's own address", ask(NOWHERE, link_local(A.mac), NONCE)),
    ]
}

fn claims() -> Vec<Case> {
    let own = link_layer(1, A.mac);
    let (a, b, c) = (A.ip6(), B.ip6(), C.ip6());
    let tell = |from, target, mac| nd((A.mac, C.mac), (from, c), NA, 0x60, target, &link_layer(2, mac));
    let all = |kind, options: &[u8]| {
        let body = [&[0; 4][..], options].concat();
        let addresses = (link_local(A.mac), ALL_NODES.1);
        ip6((A.mac, ALL_NODES.0), addresses, 58, 255, &icmp6(addresses, kind, &body))
    };
    let passed_on = {
        let addresses = (a, solicited(c).1);
        let message = icmp6(addresses, NS, &[&[0; 4][..], &c, &own].concat());
        ip6((A.mac, solicited(c).0), addresses, 58, 64, &message)
    };
    vec![
        sent("A is at A", tell(a, a, A.mac)),
        sent("A's link-local address is at A", tell(link_local(A.mac), link_local(A.mac), A.mac)),
        flooded(
            "A is at A, to all",
            nd((A.mac, ALL_NODES.0), (a, ALL_NODES.1), NA, 0x20, a, &link_layer(2, A.mac)),
        ),
        flooded("are there routers", all(RS, &own)),
        drop("B is at A", tell(a, b, A.mac), Outcome::SpoofedNd),
        drop("B is at A, says B", tell(b, b, A.mac), Outcome::SpoofedNd),
        drop("A is at B", tell(a, a, B.mac), Outcome::SpoofedNd),
        drop("a question from B's address", ask(b, c, &own), Outcome::SpoofedNd),
        drop("a question with B's MAC inside", ask(a, c, &link_layer(1, B.mac)), Outcome::SpoofedNd),
        drop("a router's advertisement", all(RA, &[0; 8]), Outcome::RouterAdvert),
        drop("a redirect", all(REDIRECT, &[0; 32]), Outcome::RouterAdvert),
        drop("a question that a router passed on", passed_on, Outcome::InnerMalformed),
        drop("a question cut short", ask(a, c, &[])[..70].to_vec(), Outcome::InnerMalformed),
    ]
}

fn addresses() -> Vec<Case> {
    let from = |address| udp6_from(A, address, C, 6000, b"x");
    let full = udp6(A, C, &[7; 1402]);
    let to_node = |at| {
        let addresses = (A.ip6(), THERE.ip6());
        let ports = [0x13, 0x88, 0x12, 0xb5, 0, 8, 0, 0];
        ip6((A.mac, C.mac), addresses, if at == 0 { 17 } else { 60 }, 64, &behind(at, 17, &ports))
    };
    let mut long = udp6(A, C, b"x");
    long[19] += 1;
    let mut four = udp6(A, C, b"x");
    four[14] = 0x40;
    vec![
        sent("from A's second address", from(A.second().ip6())),
        sent("from A's link-local address", from(link_local(A.mac))),
        sent("as long as the underlay carries", full),
        drop("from B's address", from(B.ip6()), Outcome::SpoofedAddress),
        drop("from B's link-local address", from(link_local(B.mac)), Outcome::SpoofedAddress),
        drop("from nowhere", from(NOWHERE), Outcome::SpoofedAddress),
        drop("from A's IPv4 address", from(Addr::from_v4(A.ip).0), Outcome::SpoofedAddress),
        drop("VXLAN to a node", to_node(0), Outcome::EncapProhibited),
        drop("VXLAN to a node behind options", to_node(2), Outcome::EncapProhibited),
        drop("longer than its frame", long, Outcome::InnerMalformed),
        drop("of another version", four, Outcome::InnerMalformed),
    ]
}

/// `count` headers of destination options in front of a payload.
fn behind(count: usize, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let header = |index| [if index + 1 < count { 60 } else { protocol }, 0, 1, 4, 0, 0, 0, 0];
    [(0..count).flat_map(header).collect(), payload.to_vec()].concat()
}

fn hidden() -> Vec<Case> {
    let group = solicited(C.ip6());
    let addresses = (A.ip6(), group.1);
    let options = |count, protocol, payload: &[u8]| {
        ip6((A.mac, C.mac), (A.ip6(), C.ip6()), 60, 64, &behind(count, protocol, payload))
    };
    let question = icmp6(addresses, NS, &[&[0; 4][..], &C.ip6(), &link_layer(1, A.mac)].concat());
    let router = icmp6(addresses, RA, &[0; 12]);
    let report = icmp6((NOWHERE, ALL_NODES.1), MLD_REPORT, &[0; 4]);
    // Router alert, as RFC 3810 section 5 has it.
    let alert = [&[58, 0, 5, 2, 0, 0, 1, 0][..], &report].concat();
    let fragment = |offset: u8, rest: &[u8]| {
        let header = [17, 0, 0, offset << 3, 0, 0, 0, 1];
        ip6((A.mac, C.mac), (A.ip6(), C.ip6()), 44, 64, &[&header[..], rest].concat())
    };
    let to_all = |next, payload: &[u8]| ip6((A.mac, group.0), addresses, next, 255, payload);
    vec![
        sent("behind as many options as are looked behind", options(4, 17, &[0; 8])),
        drop("behind more", options(5, 17, &[0; 8]), Outcome::InnerMalformed),
        drop(
            "behind a header that ends nowhere",
            ip6((A.mac, C.mac), (A.ip6(), C.ip6()), 60, 64, &[17, 200, 0, 0, 0, 0, 0, 0]),
            Outcome::InnerMalformed,
        ),
        sent("a later fragment", fragment(1, &[0x12; 16])),
        sent("a first fragment", fragment(0, &[0x12; 16])),
        drop("a first fragment without ports", fragment(0, &[0x12; 2]), Outcome::InnerMalformed),
        flooded(
            "who listens, from no address yet",
            ip6((A.mac, ALL_NODES.0), (NOWHERE, ALL_NODES.1), 0, 1, &alert),
        ),
        drop("a question behind options", to_all(60, &behind(1, 58, &question)), Outcome::SpoofedNd),
        drop(
            "a router's advertisement behind options",
            to_all(60, &behind(1, 58, &router)),
            Outcome::RouterAdvert,
        ),
    ]
}

pub fn from_wire() -> Vec<Case> {
    let wrap = |inner: &[u8]| vxlan(THERE, HERE, VNI, inner);
    let deliver =
        |what, inner: Vec<u8>| case(what, wrap(&inner), TC_REDIRECT, Outcome::Delivered, Some(inner));
    let from = |address| udp6_from(C, address, B, 6000, b"x");
    let tell = |target, mac| nd((C.mac, B.mac), (C.ip6(), B.ip6()), NA, 0x60, target, &link_layer(2, mac));
    let nested = ip6((C.mac, B.mac), (C.ip6(), THERE.ip6()), 17, 64, &[0x13, 0x88, 0x12, 0xb5, 0, 8, 0, 0]);
    let mut long = from(C.ip6());
    long[19] += 1;
    let detect = {
        let (mac, group) = solicited(link_local(C.mac));
        nd((C.mac, mac), (NOWHERE, group), NS, 0, link_local(C.mac), NONCE)
    };
    let advert = icmp6((link_local(C.mac), ALL_NODES.1), RA, &[0; 12]);
    let advert = ip6((C.mac, ALL_NODES.0), (link_local(C.mac), ALL_NODES.1), 58, 255, &advert);
    vec![
        deliver("from C's address", from(C.ip6())),
        deliver("from C's second address", from(C.second().ip6())),
        deliver("from C's link-local address", from(link_local(C.mac))),
        deliver("C is at C", tell(C.ip6(), C.mac)),
        Case {
            output: Some(detect.clone()),
            ..case("has anybody C's own address", wrap(&detect), TC_SHOT, Outcome::Flooded, None)
        },
        drop("from A's address", wrap(&from(A.ip6())), Outcome::InnerSource),
        drop("from A's link-local address", wrap(&from(link_local(A.mac))), Outcome::InnerSource),
        drop("A is at C", wrap(&tell(A.ip6(), C.mac)), Outcome::InnerSource),
        drop("C is at A", wrap(&tell(C.ip6(), A.mac)), Outcome::InnerSource),
        drop("a router's advertisement", wrap(&advert), Outcome::RouterAdvert),
        drop("VXLAN in VXLAN, to a node", wrap(&nested), Outcome::Nested),
        drop("longer than its frame", wrap(&long), Outcome::InnerMalformed),
        drop("cut short", wrap(&from(C.ip6())[..40]), Outcome::InnerMalformed),
    ]
}
