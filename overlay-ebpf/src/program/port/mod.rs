//! From the hosts behind a gateway port: an interface with many MAC addresses behind it, which are
//! learned. XDP does what it can to the end; the rest it leaves to tc untouched, which counts it.

pub mod tc;
pub mod xdp;

use aya_ebpf::bindings::BPF_NOEXIST;
use overlay_ebpf::{
    abi::{
        Config, EndpointKey, LEARNED_KNOWN, LEARNED_PENDING, LEARNED_REFUSED, Learned, MacAddr, Outcome,
        PORT_FULL, Port,
    },
    wire::{ETH_LEN, ethernet::Ethernet, inner},
};

use super::{
    Step,
    claims::{self, Honest, Sender},
    maps,
    packet::{self, Packet},
};

/// Bytes the checks read directly: Ethernet, and an IPv4 header with all options and UDP behind it, or
/// IPv6 with a neighbour solicitation of one option.
const READ: u32 = (ETH_LEN + 72) as u32;

/// Judges a frame of this kind of a host behind `port`, and learns its source. Returns what else is to be
/// known of it, and who sent it.
#[inline(always)]
fn judge(
    packet: &impl Packet,
    config: &Config,
    kind: inner::Kind,
    port: &Port,
    ifindex: u32,
) -> Step<(Honest, Sender)> {
    let source = packet::at::<Ethernet>(packet, 0).ok_or(Outcome::Truncated)?.source;
    learn(port, ifindex, source)?;
    let sender = Sender::behind_port(port.vni, source);
    let length = packet.length().saturating_sub(ETH_LEN as u32);
    Ok((claims::check(packet, config, kind, ETH_LEN, length, &sender)?, sender))
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
