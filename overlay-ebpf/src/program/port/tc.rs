//! tc on a gateway port: copies what is for everybody, hands to endpoints on this node, and does all
//! where there is no XDP.

use aya_ebpf::programs::TcContext;
use overlay_ebpf::{
    abi::{Class, Hook, Outcome, Port},
    wire::ethernet::Ethernet,
};

use super::{READ, judge};
use crate::program::{
    Step, Verdict, answer, bound,
    claims::{Asks, Sender},
    config,
    count::{self, Direction},
    dropped,
    encap::Inner,
    endpoint, fdb, packet, too_big,
};

/// Forwards one frame of a host behind the port.
#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    let bytes = ctx.len();
    count::outcome(Hook::Port, Outcome::Received, bytes);
    // SAFETY: a field of the context.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    let Some(port) = bound(ifindex) else { return dropped(ctx, Hook::Port, Outcome::Unbound, bytes) };
    count::endpoint(port.slot, Direction::Tx, bytes);
    match forward(ctx, &port, ifindex) {
        Ok(Verdict { outcome, action }) => {
            count::outcome(Hook::Port, outcome, bytes);
            action
        }
        Err(reason) if reason.class() as u32 == Class::SlowPath as u32 => {
            endpoint::to_slow_path(ctx, Hook::Port, port.vni, reason, bytes)
        }
        Err(Outcome::TooBig) => match too_big::answer(ctx, &port, ifindex) {
            Ok(Verdict { outcome, action }) => {
                count::outcome(Hook::Port, outcome, bytes);
                action
            }
            Err(reason) => dropped(ctx, Hook::Port, reason, bytes),
        },
        Err(reason) => dropped(ctx, Hook::Port, reason, bytes),
    }
}

#[inline(always)]
fn forward(ctx: &TcContext, port: &Port, ifindex: u32) -> Step<Verdict> {
    let config = config().ok_or(Outcome::Unbound)?;
    packet::pull(ctx, READ);
    let eth = packet::at::<Ethernet>(ctx, 0).ok_or(Outcome::Truncated)?;
    let kind = endpoint::kind(ctx, eth, port.vni)?;
    let (source, destination) = (eth.source, eth.destination);
    let honest = judge(ctx, config, kind, port, ifindex, ctx.len())?;
    let sender = Sender::behind_port(port.vni, source);
    let answered = match honest.asks {
        Asks::Arp => answer::arp(ctx, &sender, ifindex),
        Asks::Nd => answer::nd(ctx, &sender, ifindex),
        Asks::Nothing => Err(Outcome::ArpUnknown),
    };
    match answered {
        Err(Outcome::ArpUnknown | Outcome::NdUnknown) => {}
        answered => return answered,
    }
    let tos = port.class.of(honest.class);
    match fdb::find(config, port.vni, destination) {
        // This port's and an endpoint's slots are never the same.
        Some(target) if target.slot() == Some(port.slot) => Err(Outcome::SamePort),
        Some(target) => {
            let inner = Inner { vni: port.vni, kind, tos, mtu: u32::from(port.mtu) };
            endpoint::unicast(ctx, inner, target)
        }
        None => endpoint::flood(ctx, port.vni, tos, ifindex),
    }
}
