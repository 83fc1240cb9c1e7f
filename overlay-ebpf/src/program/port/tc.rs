//! tc on a gateway port: copies what is for everybody, hands to endpoints on this node, and does all
//! where there is no XDP.

use aya_ebpf::{helpers::generated::bpf_redirect, programs::TcContext};
use overlay_ebpf::abi::{Class, Hook, Outcome, Port, SELF_VTEP};

use super::{Frame, READ, judge, reply};
use crate::program::{
    Step, Verdict,
    count::{self, Direction},
    dropped,
    encap::Inner,
    endpoint, maps, packet,
};

/// Forwards one frame of a host behind the port.
#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    let bytes = ctx.len();
    count::outcome(Hook::Port, Outcome::Received, bytes);
    // SAFETY: a field of the context; the map's value is copied at once.
    let (ifindex, port) = unsafe {
        let ifindex = (*ctx.skb.skb).ifindex;
        (ifindex, maps::ports.get(ifindex).copied())
    };
    let Some(port) = port else { return dropped(ctx, Hook::Port, Outcome::Unbound, bytes) };
    count::endpoint(port.slot, Direction::Tx, bytes);
    match forward(ctx, &port, ifindex) {
        Ok(Verdict { outcome, action }) => {
            count::outcome(Hook::Port, outcome, bytes);
            action
        }
        Err(reason) if reason.class() as u32 == Class::SlowPath as u32 => {
            endpoint::to_slow_path(ctx, Hook::Port, port.vni, reason, bytes)
        }
        Err(reason) => dropped(ctx, Hook::Port, reason, bytes),
    }
}

#[inline(always)]
fn forward(ctx: &TcContext, port: &Port, ifindex: u32) -> Step<Verdict> {
    packet::pull(ctx, READ);
    // SAFETY: a field of the context: a tag the interface left to the hardware.
    if unsafe { (*ctx.skb.skb).vlan_present } != 0 {
        return Err(Outcome::InnerVlan);
    }
    let Frame { destination, kind, tos, answer } = judge(ctx, port, ifindex)?;
    if let Some(answer) = answer {
        reply(ctx, answer)?;
        // SAFETY: plain helper call: back out of the interface it came from.
        let action = unsafe { bpf_redirect(ifindex, 0) } as i32;
        return Ok(Verdict { outcome: Outcome::ArpAnswered, action });
    }
    let inner = Inner { vni: port.vni, kind, tos: port.class.of(tos) };
    if destination.is_multicast() {
        return endpoint::flood(ctx, inner, ifindex);
    }
    if behind(port.vni, destination, ifindex) {
        return Err(Outcome::SamePort);
    }
    endpoint::unicast(ctx, inner, destination)
}

/// Whether a MAC address is behind the very port.
#[inline(always)]
fn behind(vni: u32, mac: overlay_ebpf::abi::MacAddr, ifindex: u32) -> bool {
    let key = overlay_ebpf::abi::EndpointKey::new(vni, mac);
    // SAFETY: read at once.
    unsafe { maps::endpoints.get(key).is_some_and(|row| row.vtep == SELF_VTEP && row.ifindex == ifindex) }
}
