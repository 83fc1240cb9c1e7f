//! From the hosts behind a gateway port: an interface with many MAC addresses behind it, which are
//! learned. XDP does what it can to the end; the rest it leaves to tc untouched, which counts it.

pub mod tc;
pub mod xdp;

use aya_ebpf::bindings::BPF_NOEXIST;
use network_types::ip::Ipv4Hdr;
use overlay_ebpf::{
    abi::{
        Config, EndpointKey, Judged, LEARNED_KNOWN, LEARNED_PENDING, LEARNED_REFUSED, Learned, MacAddr,
        Outcome, PORT_FULL, Port,
    },
    wire::{ETH_LEN, ethernet::Ethernet, inner},
};

use super::{
    Step,
    claims::{self, Asks, Honest, Sender},
    maps,
    packet::{self, Packet},
};

/// Bytes the checks read directly: Ethernet, and an IPv4 header with all options and UDP behind it, or
/// IPv6 with a neighbour solicitation of one option.
const READ: u32 = (ETH_LEN + 72) as u32;

/// Judges a frame of this kind of a host behind `port`, and learns its source. Returns what else is to be
/// known of it.
#[inline(always)]
fn judge(
    packet: &impl Packet,
    config: &Config,
    kind: inner::Kind,
    port: &Port,
    ifindex: u32,
    bytes: u32,
) -> Step<Honest> {
    let source = packet::at::<Ethernet>(packet, 0).ok_or(Outcome::Truncated)?.source;
    if kind == inner::Kind::Ipv4 {
        let ip = packet::at::<Ipv4Hdr>(packet, ETH_LEN).ok_or(Outcome::InnerMalformed)?;
        judge_ipv4(port, ifindex, source, ip)?;
        return Ok(Honest { class: claims::check_ipv4(packet, config, ETH_LEN)?, asks: Asks::Nothing });
    }
    learn(port.vni, port.flags, ifindex, source)?;
    let sender = Sender::behind_port(port.vni, source);
    let length = bytes.saturating_sub(ETH_LEN as u32);
    claims::check(packet, config, kind, ETH_LEN, length, &sender)
}

/// Judges the source of an IPv4 packet, unless it was found to be right since what it is judged by has last
/// changed.
#[inline(always)]
fn judge_ipv4(port: &Port, ifindex: u32, source: MacAddr, ip: &Ipv4Hdr) -> Step<()> {
    let epoch = maps::port_epoch.get(0).map_or(0, |epoch| {
        // SAFETY: valid and aligned. Read once, and before what it is the epoch of.
        unsafe { core::ptr::read_volatile(epoch) }
    });
    let claim = Judged::new(port.slot, source, ip.src_addr, epoch);
    let Some(row) = maps::judged.get_ptr_mut(claim.index()) else { return Err(Outcome::HelperFailed) };
    // SAFETY: a row of a per-CPU array, which no other CPU touches.
    let row = unsafe { &mut *row };
    if *row != claim {
        learn(port.vni, port.flags, ifindex, source)?;
        inner::check_ipv4(ip)?;
        if !claims::may_have(port.vni, source, ip.src_addr) {
            return Err(Outcome::SpoofedAddress);
        }
        *row = claim;
    }
    Ok(())
}

/// Lets a source pass that is the port's, notes one that nobody has, and refuses another's. A function of
/// its own, so that its keys are not on the one stack of 512 bytes with all the rest.
#[inline(never)]
fn learn(vni: u32, port_flags: u16, ifindex: u32, source: MacAddr) -> Step<()> {
    let key = EndpointKey::new(vni, source);
    let Some(row) = maps::learned.get_ptr_mut(key) else { return note(port_flags, ifindex, key) };
    // SAFETY: the row is not removed while the program runs (RCU). Who writes at the same time writes
    // the same.
    let row = unsafe { &mut *row };
    if row.ifindex != ifindex || row.state == LEARNED_REFUSED {
        return Err(Outcome::SpoofedMac);
    }
    if row.seen == 0 {
        row.seen = 1;
    }
    if row.state == LEARNED_KNOWN { Ok(()) } else { undecided(port_flags, ifindex, key).map(drop) }
}

/// Whether the source is known to be the port's already; else it may become so.
#[inline(always)]
fn undecided(port_flags: u16, ifindex: u32, key: EndpointKey) -> Step<bool> {
    if !key.mac.is_unicast() {
        return Err(Outcome::SpoofedMac);
    }
    // SAFETY: read at once.
    match unsafe { maps::endpoints.get(key).map(|row| row.ifindex) } {
        Some(other) if other != ifindex => Err(Outcome::SpoofedMac),
        Some(_) => Ok(true),
        None if port_flags & PORT_FULL != 0 => Err(Outcome::LearnLimit),
        None => Ok(false),
    }
}

#[inline(always)]
fn note(port_flags: u16, ifindex: u32, key: EndpointKey) -> Step<()> {
    let known = undecided(port_flags, ifindex, key)?;
    let state = if known { LEARNED_KNOWN } else { LEARNED_PENDING };
    let row = Learned { ifindex, state, seen: 1 };
    // Another CPU may have been faster; then nothing is lost. Without room nobody new is heard.
    match maps::learned.insert(key, row, u64::from(BPF_NOEXIST)) {
        Err(error) if error == -E2BIG => Err(Outcome::LearnLimit),
        _ => Ok(()),
    }
}

const E2BIG: i32 = 7;
