//! Packets no honest sender makes, each a good one with something changed, and what becomes of them.

use std::net::Ipv4Addr;

use overlay_tests::frame::{Station, Vxlan, fix_ipv4_checksum, offset};

use crate::scene::{BLUE, Scene, station};

/// What is wrong, how to make it from the good packet, and what becomes of it.
pub struct Forgery {
    pub what: &'static str,
    pub forge: fn(&Scene, Vec<u8>) -> Vec<u8>,
    /// The name the programs count it under.
    pub outcome: &'static str,
    pub by_the_kernel: ByTheKernel,
}

/// What becomes of a forgery on the kernel data path.
#[derive(Clone, Copy)]
pub enum ByTheKernel {
    /// The same as with the programs.
    Same,
    /// It is counted under another name, and not delivered: what the guard lets through the kernel
    /// drops by itself.
    Counted(&'static str),
    /// It is not looked at, and not delivered.
    Unseen,
    /// It is delivered: of the inner source only the MAC address is checked.
    Delivered,
}

use ByTheKernel::{Counted, Delivered, Same, Unseen};

const fn forgery(
    what: &'static str,
    forge: fn(&Scene, Vec<u8>) -> Vec<u8>,
    outcome: &'static str,
    by_the_kernel: ByTheKernel,
) -> Forgery {
    Forgery { what, forge, outcome, by_the_kernel }
}

pub const FORGERIES: &[Forgery] = &[
    forgery("half a VXLAN header", |_, frame| cut(frame, offset::VXLAN_FLAGS + 4), "truncated", Same),
    forgery("half an inner Ethernet header", |_, frame| cut(frame, offset::INNER + 7), "truncated", Same),
    forgery(
        "a UDP length beyond the packet",
        |_, frame| put(frame, offset::UDP_LENGTH, &[0xff, 0xff]),
        "truncated",
        Counted("delivered"),
    ),
    forgery("a UDP length of zero", |_, frame| put(frame, offset::UDP_LENGTH, &[0, 0]), "truncated", Same),
    forgery("no I flag", |_, frame| put(frame, offset::VXLAN_FLAGS, &[0]), "no_vni_flag", Same),
    forgery("a reserved flag", |_, frame| put(frame, offset::VXLAN_FLAGS, &[0x0c]), "reserved_bits", Same),
    forgery("a reserved byte", |_, frame| put(frame, offset::VXLAN_LAST, &[1]), "reserved_bits", Same),
    forgery("noise", |_, frame| put(frame, offset::VXLAN_FLAGS, &[0xff; 40]), "passed_unknown_vni", Same),
    forgery(
        "reserved bits and half an inner Ethernet header, of a network that is not here",
        |_, frame| {
            cut(put(frame, offset::VXLAN_FLAGS, &[0x8c, 1, 2, 3, 0, 0x77, 0x77, 9]), offset::INNER + 7)
        },
        "passed_unknown_vni",
        Same,
    ),
    forgery("nothing but zeroes", |_, frame| put(frame, offset::VXLAN_FLAGS, &[0; 40]), "no_vni_flag", Same),
    forgery(
        "a first fragment",
        |_, frame| outer(frame, offset::OUTER_FRAGMENT, &[0x20, 0]),
        "fragment",
        Same,
    ),
    forgery("outer options", |_, frame| with_options(&frame), "outer_options", Same),
    forgery(
        "congestion on what cannot be told",
        |_, frame| outer(frame, offset::OUTER_TOS, &[3]),
        "ecn_not_capable",
        Counted("delivered"),
    ),
    forgery("an inner VLAN tag", |_, frame| put(frame, offset::INNER + 12, &[0x81, 0]), "inner_vlan", Same),
    forgery(
        "an inner IPv4 header of 8 bytes",
        |_, frame| put(frame, offset::INNER_IP, &[0x42]),
        "inner_malformed",
        Counted("delivered"),
    ),
    forgery(
        "an inner version of 6 in IPv4",
        |_, frame| put(frame, offset::INNER_IP, &[0x65]),
        "inner_malformed",
        Counted("delivered"),
    ),
    forgery(
        "an unknown VTEP",
        |scene, frame| outer(frame, 26, &scene.attacker_station.addr.octets()),
        "unknown_vtep",
        Same,
    ),
    forgery(
        "a MAC of nobody",
        |_, frame| put(frame, offset::INNER + 6, &[2, 9, 9, 9, 9, 9]),
        "inner_source",
        Same,
    ),
    forgery(
        "the MAC of another node's",
        |s, frame| put(frame, offset::INNER + 6, &s.bystander.mac.0),
        "inner_source",
        Same,
    ),
    forgery(
        "the victim's own MAC",
        |s, frame| put(frame, offset::INNER + 6, &s.victim.mac.0),
        "inner_source",
        Same,
    ),
    forgery("another's address", |s, frame| inner_from(frame, s.bystander.addr), "inner_source", Delivered),
    forgery(
        "an address of nobody",
        |_, frame| inner_from(frame, Ipv4Addr::new(8, 8, 8, 8)),
        "inner_source",
        Delivered,
    ),
    forgery(
        "for a MAC of nobody",
        |_, frame| put(frame, offset::INNER, &[2, 9, 9, 9, 9, 9]),
        "unknown_destination",
        Same,
    ),
    forgery(
        "for another node's",
        |s, frame| put(frame, offset::INNER, &s.bystander.mac.0),
        "not_local",
        Same,
    ),
    forgery(
        "VXLAN in VXLAN to the node",
        |scene, _| scene.packet(&nested(scene, scene.node().addr())),
        "nested",
        Same,
    ),
    forgery(
        "VXLAN in VXLAN to another",
        |s, _| s.packet(&nested(s, s.cluster.nodes[2].addr())),
        "nested",
        Same,
    ),
    forgery(
        "a network that is not here",
        |_, frame| put(frame, 46, &[0, 0x77, 0x77]),
        "passed_unknown_vni",
        Same,
    ),
    forgery("another port", |_, frame| put(frame, 36, &[0x12, 0xb6]), "passed_up", Unseen),
];

pub fn put(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

fn outer(frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = put(frame, at, bytes);
    fix_ipv4_checksum(&mut frame, 14);
    frame
}

fn inner_from(frame: Vec<u8>, addr: Ipv4Addr) -> Vec<u8> {
    let mut frame = put(frame, offset::INNER_IP + 12, &addr.octets());
    fix_ipv4_checksum(&mut frame, offset::INNER_IP);
    frame
}

/// Cuts a frame off, its outer lengths with it.
pub fn cut(mut frame: Vec<u8>, length: usize) -> Vec<u8> {
    frame.truncate(length);
    let (ip, udp) = (u16::try_from(length - 14).unwrap(), u16::try_from(length - 34).unwrap());
    outer(put(frame, offset::UDP_LENGTH, &udp.to_be_bytes()), 16, &ip.to_be_bytes())
}

/// The same with four bytes of "no operation" behind the outer IPv4 header.
fn with_options(frame: &[u8]) -> Vec<u8> {
    let mut frame = [&frame[..34], &[1, 1, 1, 0], &frame[34..]].concat();
    frame[14] = 0x46;
    let length = u16::try_from(frame.len() - 14).unwrap();
    outer(frame, 16, &length.to_be_bytes())
}

/// A VXLAN packet from the peer's container to a node.
fn nested(scene: &Scene, node: Ipv4Addr) -> Vec<u8> {
    let to = Station { mac: scene.victim.mac, addr: node };
    Vxlan { from: station(&scene.peer), to, vni: BLUE.vni, inner: &scene.inner() }.frame()
}
