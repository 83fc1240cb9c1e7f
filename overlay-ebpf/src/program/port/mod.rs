//! From the hosts behind a gateway port: an interface with many MAC addresses behind it, which are
//! learned. XDP does what it can to the end; the rest it leaves to tc untouched, which counts it.

pub mod tc;
pub mod xdp;

use aya_ebpf::bindings::BPF_NOEXIST;
use network_types::{
    arp::ArpHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};
use overlay_ebpf::{
    abi::{
        Addr, EndpointKey, LEARNED_KNOWN, LEARNED_PENDING, LEARNED_REFUSED, Learned, MacAddr, NeighbourKey,
        Outcome, PORT_FULL, Port,
    },
    wire::{ETH_LEN, arp, ethernet::Ethernet, inner},
};

use super::{
    Step, maps,
    packet::{self, Packet},
};

/// Bytes the checks read directly: Ethernet, an IPv4 header with all options, the ports.
const READ: u32 = (ETH_LEN + 60 + 8) as u32;

/// A frame that may pass.
struct Frame {
    destination: MacAddr,
    kind: inner::Kind,
    /// Its traffic class octet; 0 if it is not IP.
    tos: u8,
    /// Who has the address that it asks for, if that is known.
    answer: Option<MacAddr>,
}

/// Judges a frame of this kind of a host behind `port`, and learns its source.
#[inline(always)]
fn judge(packet: &impl Packet, kind: inner::Kind, port: &Port, ifindex: u32) -> Step<Frame> {
    let eth = packet::at::<Ethernet>(packet, 0).ok_or(Outcome::Truncated)?;
    let (source, destination) = (eth.source, eth.destination);
    learn(port, ifindex, source)?;
    let mut frame = Frame { destination, kind, tos: 0, answer: None };
    match kind {
        inner::Kind::Ipv4 => {
            let ip = packet::at::<Ipv4Hdr>(packet, ETH_LEN).ok_or(Outcome::InnerMalformed)?;
            inner::check_ipv4(ip)?;
            if !may_have(port.vni, ip.src_addr, source) {
                return Err(Outcome::SpoofedAddress);
            }
            if packet::is_vxlan_to_a_node(packet, ETH_LEN, ip)? {
                return Err(Outcome::EncapProhibited);
            }
            frame.tos = ip.tos;
        }
        inner::Kind::Ipv6 => {
            let ip = packet::at::<Ipv6Hdr>(packet, ETH_LEN).ok_or(Outcome::InnerMalformed)?;
            frame.tos = (ip.vcf[0] << 4) | (ip.vcf[1] >> 4);
        }
        inner::Kind::Arp => {
            let arp = packet::at::<ArpHdr>(packet, ETH_LEN).ok_or(Outcome::InnerMalformed)?;
            let question = arp::question(arp, source, |address| may_have(port.vni, address, source))?;
            if let arp::Question::WhoHas(wanted) = question {
                frame.answer = neighbour(port.vni, wanted);
            }
        }
        inner::Kind::Tagged | inner::Kind::Other => {}
    }
    Ok(frame)
}

/// Lets a source pass that is the port's, notes one that nobody has, and refuses another's.
#[inline(always)]
fn learn(port: &Port, ifindex: u32, source: MacAddr) -> Step<()> {
    let key = EndpointKey::new(port.vni, source);
    let Some(row) = maps::learned.get_ptr_mut(key) else { return note(port, ifindex, key) };
    // SAFETY: the row is not removed while the program runs (RCU). Who writes at the same time writes
    // the same.
    let row = unsafe { &mut *row };
    if row.ifindex != ifindex || row.state == LEARNED_REFUSED {
        return Err(Outcome::SpoofedMac);
    }
    if row.seen == 0 {
        row.seen = 1;
    }
    if row.state == LEARNED_KNOWN { Ok(()) } else { undecided(port, ifindex, key).map(drop) }
}

/// Whether the source is known to be the port's already; else it may become so.
#[inline(always)]
fn undecided(port: &Port, ifindex: u32, key: EndpointKey) -> Step<bool> {
    if !key.mac.is_unicast() {
        return Err(Outcome::SpoofedMac);
    }
    // SAFETY: read at once.
    match unsafe { maps::endpoints.get(key).map(|row| row.ifindex) } {
        Some(other) if other != ifindex => Err(Outcome::SpoofedMac),
        Some(_) => Ok(true),
        None if port.flags & PORT_FULL != 0 => Err(Outcome::LearnLimit),
        None => Ok(false),
    }
}

#[inline(always)]
fn note(port: &Port, ifindex: u32, key: EndpointKey) -> Step<()> {
    let known = undecided(port, ifindex, key)?;
    let state = if known { LEARNED_KNOWN } else { LEARNED_PENDING };
    let row = Learned { ifindex, state, seen: 1 };
    // Another CPU may have been faster; then nothing is lost. Without room nobody new is heard.
    match maps::learned.insert(key, row, u64::from(BPF_NOEXIST)) {
        Err(error) if error == -E2BIG => Err(Outcome::LearnLimit),
        _ => Ok(()),
    }
}

const E2BIG: i32 = 7;

/// Whether a host behind a port may have an address: one that is nobody else's.
#[inline(always)]
fn may_have(vni: u32, address: [u8; 4], mac: MacAddr) -> bool {
    neighbour(vni, address).is_none_or(|owner| owner.0 == mac.0)
}

#[inline(always)]
fn neighbour(vni: u32, address: [u8; 4]) -> Option<MacAddr> {
    let key = NeighbourKey { vni, addr: Addr::from_v4(address) };
    // SAFETY: the value is copied at once.
    unsafe { maps::neighbours.get(key).map(|n| n.mac) }
}

/// Turns an ARP request into the reply.
#[inline(always)]
fn reply(packet: &impl Packet, answer: MacAddr) -> Step<()> {
    let eth = packet::at_mut::<Ethernet>(packet, 0).ok_or(Outcome::Truncated)?;
    let arp = packet::at_mut::<ArpHdr>(packet, ETH_LEN).ok_or(Outcome::Truncated)?;
    arp::reply(eth, arp, answer);
    Ok(())
}
