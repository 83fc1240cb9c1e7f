//! Neighbour discovery (RFC 4861): solicitations that the endpoint's side answers itself, and the
//! claims that an endpoint must not make.

use network_types::ip::Ipv6Hdr;

use super::{ETH_LEN, ETHERTYPE_IPV6, IPV6_LEN, PROTO_ICMPV6, checksum, ethernet::Ethernet, ipv6};
use crate::abi::{MacAddr, Outcome};

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;

/// What all of these have, so that no router can have passed them on (RFC 4861, section 7.1).
const HOP_LIMIT: u8 = 255;
/// Flags of an advertisement (RFC 4861, section 4.4).
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// Most options that are looked at in one packet; what has more is refused.
const MOST_OPTIONS: usize = 4;

/// The group of all nodes on the link (RFC 4291, section 2.7.1), and its MAC address
/// (RFC 2464, section 7).
const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const ALL_NODES_MAC: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);

/// What an endpoint's packet asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Who has this address?
    WhoHas([u8; 16]),
    /// Nothing we answer: an advertisement, a question for routers, or the detection that the asker's
    /// own address is not another's (RFC 4862, section 5.4).
    Announcement,
}

/// A solicitation or an advertisement with one option, as it stands in a frame.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Frame {
    eth: Ethernet,
    ip: Ipv6Hdr,
    kind: u8,
    code: u8,
    checksum: [u8; 2],
    flags: [u8; 4],
    target: [u8; 16],
    option: [u8; 2],
    mac: MacAddr,
}

/// Where a solicitation's target stands in a frame.
pub const TARGET: usize = core::mem::offset_of!(Frame, target);

/// Length of the `ICMPv6` message in a [`Frame`].
const MESSAGE_LEN: u8 = 32;
const _: () = assert!(size_of::<Frame>() == ETH_LEN + IPV6_LEN + MESSAGE_LEN as usize);

/// Whether an `ICMPv6` type is one of neighbour discovery's.
#[inline(always)]
#[must_use]
pub const fn is_discovery(kind: u8) -> bool {
    matches!(kind, ROUTER_SOLICITATION..=REDIRECT)
}

/// Whether it is one that only routers send.
#[inline(always)]
#[must_use]
pub const fn is_routers(kind: u8) -> bool {
    matches!(kind, ROUTER_ADVERTISEMENT | REDIRECT)
}

/// Whether it is one of multicast listener discovery's, which may come from no address yet (RFC 3590,
/// section 4).
#[inline(always)]
#[must_use]
pub const fn is_listener(kind: u8) -> bool {
    matches!(kind, 130..=132 | 143)
}

/// Checks that a packet right behind its IPv6 header comes from `mac` and claims no address but the
/// endpoint's, and says what it asks. `owns` tells whether an address is the endpoint's own, `read`
/// gives eight bytes of the message. The checksum is left to who takes the packet.
///
/// # Errors
/// The reason to drop the packet.
#[inline(always)]
pub fn question(
    ip: &Ipv6Hdr,
    mac: MacAddr,
    owns: impl Fn([u8; 16]) -> bool,
    read: impl Fn(usize) -> Option<[u8; 8]>,
) -> Result<Question, Outcome> {
    let read = |offset| read(offset).ok_or(Outcome::InnerMalformed);
    let [kind, code, ..] = read(0)?;
    if is_routers(kind) {
        return Err(Outcome::RouterAdvert);
    }
    let options = if kind == ROUTER_SOLICITATION { 8 } else { 24 };
    if ip.hop_limit != HOP_LIMIT || code != 0 || ipv6::payload_len(ip) < options {
        return Err(Outcome::InnerMalformed);
    }
    check_options(ipv6::payload_len(ip), options, mac, read)?;
    let nowhere = ip.src_addr == [0; 16] && kind != NEIGHBOUR_ADVERTISEMENT;
    if !nowhere && !owns(ip.src_addr) {
        return Err(Outcome::SpoofedNd);
    }
    if kind == ROUTER_SOLICITATION {
        return Ok(Question::Announcement);
    }
    let ([a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]) = (read(8)?, read(16)?);
    let target = [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p];
    match (owns(target), kind == NEIGHBOUR_SOLICITATION) {
        (true, _) => Ok(Question::Announcement),
        (false, true) => Ok(Question::WhoHas(target)),
        (false, false) => Err(Outcome::SpoofedNd),
    }
}

/// Checks that the options name no link-layer address but `mac`.
#[inline(always)]
fn check_options(
    length: usize,
    mut offset: usize,
    mac: MacAddr,
    read: impl Fn(usize) -> Result<[u8; 8], Outcome>,
) -> Result<(), Outcome> {
    for _ in 0..MOST_OPTIONS {
        if offset >= length {
            return Ok(());
        }
        let [kind, units, link_layer @ ..] = read(offset)?;
        if units == 0 {
            return Err(Outcome::InnerMalformed);
        }
        if matches!(kind, SOURCE_LINK_LAYER | TARGET_LINK_LAYER) && link_layer != mac.0 {
            return Err(Outcome::SpoofedNd);
        }
        offset += units as usize * 8;
    }
    if offset >= length { Ok(()) } else { Err(Outcome::SpoofedNd) }
}

/// Turns a solicitation into the advertisement that `answer` has the address asked for. One from no
/// address asks whether it can have it, and all are told (RFC 4861, section 7.2.4).
#[inline(always)]
pub fn reply(frame: &mut Frame, answer: MacAddr) {
    let nowhere = frame.ip.src_addr == [0; 16];
    let flags = if nowhere { OVERRIDE } else { SOLICITED | OVERRIDE };
    if nowhere {
        frame.eth = Ethernet::new(ALL_NODES_MAC, answer, ETHERTYPE_IPV6);
        frame.ip.dst_addr = ALL_NODES;
    } else {
        frame.eth = Ethernet::new(frame.eth.source, answer, ETHERTYPE_IPV6);
        frame.ip.dst_addr = frame.ip.src_addr;
    }
    frame.ip.src_addr = frame.target;
    frame.ip.vcf = [0x60, 0, 0, 0];
    frame.ip.payload_len = [0, MESSAGE_LEN];
    frame.kind = NEIGHBOUR_ADVERTISEMENT;
    frame.flags = [flags, 0, 0, 0];
    frame.option = [TARGET_LINK_LAYER, 1];
    frame.mac = answer;
    // The pseudo-header of RFC 8200 section 8.1, whose source is the target; then the message.
    let sum = checksum::words(&frame.ip.dst_addr)
        + 2 * checksum::words(&frame.target)
        + u32::from(MESSAGE_LEN)
        + u32::from(PROTO_ICMPV6)
        + checksum::words(&[NEIGHBOUR_ADVERTISEMENT, 0, flags, 0])
        + checksum::words(&frame.option)
        + checksum::words(&answer.0);
    frame.checksum = (!checksum::fold(sum)).to_be_bytes();
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    use super::*;

    const MAC: MacAddr = MacAddr([2, 0x42, 10, 0, 9, 2]);
    const OTHER: MacAddr = MacAddr([2, 0x42, 10, 0, 9, 3]);
    const OWN: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    const ANOTHERS: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3];

    fn message(kind: u8, target: [u8; 16], options: &[&[u8]]) -> Vec<u8> {
        let target = if kind == ROUTER_SOLICITATION { &[][..] } else { &target };
        [&[kind, 0, 0, 0, 0, 0, 0, 0], target, &options.concat()].concat()
    }

    fn link_layer(kind: u8, mac: MacAddr) -> Vec<u8> {
        [&[kind, 1], &mac.0[..]].concat()
    }

    fn ask(from: [u8; 16], hop_limit: u8, message: &[u8]) -> Result<Question, Outcome> {
        let ip = Ipv6Hdr {
            vcf: [0x60, 0, 0, 0],
            payload_len: u16::try_from(message.len()).unwrap().to_be_bytes(),
            next_hdr: PROTO_ICMPV6,
            hop_limit,
            src_addr: from,
            dst_addr: ALL_NODES,
        };
        let read = |offset: usize| message.get(offset..)?.first_chunk().copied();
        question(&ip, MAC, |address| address == OWN || address == MAC.link_local(), read)
    }

    #[test]
    fn a_solicitation_is_a_question_and_the_rest_is_not() {
        let source = link_layer(SOURCE_LINK_LAYER, MAC);
        let solicit = message(135, ANOTHERS, &[&source]);
        assert_eq!(ask(OWN, 255, &solicit), Ok(Question::WhoHas(ANOTHERS)));
        assert_eq!(ask(MAC.link_local(), 255, &solicit), Ok(Question::WhoHas(ANOTHERS)));
        assert_eq!(ask(OWN, 255, &message(135, ANOTHERS, &[])), Ok(Question::WhoHas(ANOTHERS)));
        let nonce: &[u8] = &[14, 1, 1, 2, 3, 4, 5, 6];
        assert_eq!(ask([0; 16], 255, &message(135, ANOTHERS, &[nonce])), Ok(Question::WhoHas(ANOTHERS)));
        assert_eq!(ask([0; 16], 255, &message(135, OWN, &[nonce])), Ok(Question::Announcement));
        let advert = message(136, OWN, &[&link_layer(TARGET_LINK_LAYER, MAC)]);
        assert_eq!(ask(OWN, 255, &advert), Ok(Question::Announcement));
        assert_eq!(ask(OWN, 255, &message(133, OWN, &[&source])), Ok(Question::Announcement));
    }

    #[test]
    fn claims_of_what_is_anothers_are_spoofs() {
        let (own, others) = (link_layer(SOURCE_LINK_LAYER, MAC), link_layer(SOURCE_LINK_LAYER, OTHER));
        let padding: &[u8] = &[14, 1, 0, 0, 0, 0, 0, 0];
        for (what, from, message) in [
            ("an advertisement of another's address", OWN, message(136, ANOTHERS, &[])),
            ("one from another's address", ANOTHERS, message(136, OWN, &[])),
            ("one from no address", [0; 16], message(136, OWN, &[])),
            ("one with another's MAC", OWN, message(136, OWN, &[&link_layer(TARGET_LINK_LAYER, OTHER)])),
            ("a solicitation from another's address", ANOTHERS, message(135, OWN, &[&own])),
            ("one with another's MAC", OWN, message(135, ANOTHERS, &[&others])),
            ("one with another's MAC behind its own", OWN, message(135, ANOTHERS, &[&own, &others])),
            ("more options than are looked at", OWN, message(136, OWN, &[padding; MOST_OPTIONS + 1])),
            ("a question for routers with another's MAC", OWN, message(133, OWN, &[&others])),
        ] {
            assert_eq!(ask(from, 255, &message), Err(Outcome::SpoofedNd), "{what}");
        }
    }

    #[test]
    fn routers_words_and_garbage_are_refused() {
        for kind in [134, 137] {
            assert_eq!(ask(OWN, 255, &message(kind, OWN, &[])), Err(Outcome::RouterAdvert));
        }
        let code = [&[135, 1][..], &message(135, ANOTHERS, &[])[2..]].concat();
        for (what, hop_limit, message) in [
            ("passed on by a router", 254, message(135, ANOTHERS, &[])),
            ("of an unknown code", 255, code),
            ("cut short", 255, message(135, ANOTHERS, &[])[..20].to_vec()),
            ("with an option of no length", 255, message(135, ANOTHERS, &[&[1, 0, 2, 0x42, 10, 0, 9, 2]])),
            ("with an option cut short", 255, message(135, ANOTHERS, &[&[1, 1, 2, 0x42]])),
        ] {
            assert_eq!(ask(OWN, hop_limit, &message), Err(Outcome::InnerMalformed), "{what}");
        }
    }

    /// The answer that `mac` has the target, to a question of `asker` from an address.
    fn answered(from: [u8; 16], target: [u8; 16], asker: MacAddr, mac: MacAddr) -> Vec<u8> {
        let mut frame = Frame {
            eth: Ethernet::new(MacAddr([0x33, 0x33, 0xff, 0, 0, 3]), asker, ETHERTYPE_IPV6),
            ip: Ipv6Hdr {
                vcf: [0x6a, 1, 2, 3],
                payload_len: [0, 24],
                next_hdr: PROTO_ICMPV6,
                hop_limit: 255,
                src_addr: from,
                dst_addr: ALL_NODES,
            },
            kind: NEIGHBOUR_SOLICITATION,
            code: 0,
            checksum: [0x12, 0x34],
            flags: [0; 4],
            target,
            option: [14, 9],
            mac: asker,
        };
        reply(&mut frame, mac);
        bytes(&frame)
    }

    fn bytes(frame: &Frame) -> Vec<u8> {
        let Frame { eth, ip, kind, code, checksum, flags, target, option, mac } = frame;
        [
            &eth.destination.0[..],
            &eth.source.0,
            &eth.ether_type().to_be_bytes(),
            &ip.vcf,
            &ip.payload_len,
            &[ip.next_hdr, ip.hop_limit],
            &ip.src_addr,
            &ip.dst_addr,
            &[*kind, *code],
            checksum,
            flags,
            target,
            option,
            &mac.0,
        ]
        .concat()
    }

    proptest! {
        #[test]
        fn an_independent_parser_takes_the_answer(from: [u8; 16], target: [u8; 16], asker: [u8; 6], mac: [u8; 6]) {
            let frame = answered(from, target, MacAddr(asker), MacAddr(mac));
            let parsed = SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(NetSlice::Ipv6(ip)) = parsed.net else { panic!() };
            let ip = ip.header();
            prop_assert_eq!((ip.source(), ip.destination(), ip.hop_limit()), (target, from, 255));
            let Some(TransportSlice::Icmpv6(icmp)) = parsed.transport else { panic!() };
            prop_assert!(icmp.is_checksum_valid(target, from));
            prop_assert_eq!(&frame[..14], &[&asker[..], &mac, &[0x86, 0xdd]].concat());
            prop_assert_eq!(&frame[58..], &[&[0x60, 0, 0, 0], &target[..], &[2, 1], &mac].concat());
        }
    }

    #[test]
    fn who_has_no_address_yet_is_told_with_all_others() {
        let frame = answered([0; 16], OWN, MAC, OTHER);
        assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 1]);
        assert_eq!(frame[38..54], ALL_NODES);
        assert_eq!(frame[58], OVERRIDE);
        let Some(TransportSlice::Icmpv6(icmp)) = SlicedPacket::from_ethernet(&frame).unwrap().transport
        else {
            panic!()
        };
        assert!(icmp.is_checksum_valid(OWN, ALL_NODES));
    }
}
