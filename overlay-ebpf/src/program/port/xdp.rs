//! XDP on a gateway port: outer headers in front of the frame and on to the uplink, no skb anywhere.

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_REDIRECT},
    helpers::generated::bpf_xdp_adjust_head,
    programs::XdpContext,
};
use network_types::arp::ArpHdr;
use overlay_ebpf::{
    abi::{Addr, ENDPOINT_REDIRECT, Endpoint, Hook, OUTER_LEN, Outcome, Port, VTEP_RESOLVED, VTEP_V6},
    wire::{
        ETH_LEN, arp,
        encap::{self, Fields},
        ethernet::Ethernet,
        inner, source_port,
    },
};

use super::{READ, judge};
use crate::program::{
    Step, Verdict, bound,
    claims::{self, Asks},
    config,
    count::{self, Direction},
    dropped, fdb, flow, maps,
    packet::{self, Packet},
};

/// Forwards one frame of a host behind the port, or leaves it to tc.
#[inline(always)]
pub fn run(ctx: &XdpContext) -> u32 {
    let bytes = ctx.length();
    // SAFETY: a field of the context.
    let ifindex = unsafe { (*ctx.ctx).ingress_ifindex };
    // tc drops it, and counts it.
    let Some(port) = bound(ifindex) else { return XDP_PASS };
    match forward(ctx, &port, ifindex, bytes) {
        Ok(None) => XDP_PASS,
        Ok(Some(Verdict { outcome, action })) => {
            count::endpoint(port.slot, Direction::Tx, bytes);
            count::outcome(Hook::Port, Outcome::Received, bytes);
            count::outcome(Hook::Port, outcome, bytes);
            action.cast_unsigned()
        }
        // Headers behind the first buffer: tc can pull them.
        Err(Outcome::Truncated | Outcome::InnerMalformed) if hidden(ctx, bytes) => XDP_PASS,
        Err(reason) => {
            count::endpoint(port.slot, Direction::Tx, bytes);
            count::outcome(Hook::Port, Outcome::Received, bytes);
            dropped(ctx, Hook::Port, reason, bytes);
            XDP_DROP
        }
    }
}

/// Whether part of what the checks read lies where XDP cannot read it directly.
#[inline(always)]
fn hidden(ctx: &XdpContext, bytes: u32) -> bool {
    let wanted = if bytes < READ { bytes } else { READ };
    ctx.data() + wanted as usize > ctx.data_end()
}

/// `None`: the frame is tc's, untouched.
#[inline(always)]
fn forward(ctx: &XdpContext, port: &Port, ifindex: u32, bytes: u32) -> Step<Option<Verdict>> {
    let Some(config) = config() else { return Ok(None) };
    let eth = packet::at::<Ethernet>(ctx, 0).ok_or(Outcome::Truncated)?;
    fdb::touch(config, port.vni, eth.destination);
    // Whether a network takes tags is tc's to ask.
    let Ok(kind) = inner::kind(eth) else { return Ok(None) };
    let destination = eth.destination;
    let honest = judge(ctx, config, kind, port, ifindex, bytes)?;
    match honest.asks {
        Asks::Arp => return answer_arp(ctx, port.vni, ifindex),
        // The answer may be longer than the question, which is tc's to change.
        Asks::Nd => return Ok(None),
        Asks::Nothing => {}
    }
    // What is for everybody, or nobody, is tc's: XDP has one packet and makes no copies.
    let Some(target) = fdb::find(config, port.vni, destination) else { return Ok(None) };
    if let Some(vtep) = target.vtep() {
        return to_vtep(ctx, port, kind, honest.class, vtep, bytes);
    }
    let target = target.slot().and_then(fdb::local).ok_or(Outcome::NoRoute)?;
    to_neighbour(target, ifindex, bytes)
}

/// Answers an ARP request for an address that is known.
#[inline(always)]
fn answer_arp(ctx: &XdpContext, vni: u32, ifindex: u32) -> Step<Option<Verdict>> {
    let wanted = packet::at::<ArpHdr>(ctx, ETH_LEN).ok_or(Outcome::Truncated)?.tpa;
    let Some(mac) = claims::neighbour(vni, Addr::from_v4(wanted)) else { return Ok(None) };
    // Not XDP_TX: out of a veth that reaches nobody unless there is an XDP program at the other end
    // (`veth_xdp_flush`).
    if !redirect(ifindex) {
        return Ok(None);
    }
    let eth = packet::at_mut::<Ethernet>(ctx, 0).ok_or(Outcome::Truncated)?;
    let arp = packet::at_mut::<ArpHdr>(ctx, ETH_LEN).ok_or(Outcome::Truncated)?;
    arp::reply(eth, arp, mac);
    Ok(Some(Verdict { outcome: Outcome::ArpAnswered, action: XDP_REDIRECT as i32 }))
}

/// To an endpoint or a port of this node.
#[inline(always)]
fn to_neighbour(target: &Endpoint, ifindex: u32, bytes: u32) -> Step<Option<Verdict>> {
    if target.ifindex == ifindex {
        return Err(Outcome::SamePort);
    }
    if target.flags & ENDPOINT_REDIRECT == 0 || !redirect(target.ifindex) {
        return Ok(None);
    }
    count::endpoint(u32::from(target.slot), Direction::Rx, bytes);
    Ok(Some(Verdict { outcome: Outcome::Delivered, action: XDP_REDIRECT as i32 }))
}

/// Asks for a redirect to an interface; `false` if it is none of those that take them.
#[inline(always)]
fn redirect(ifindex: u32) -> bool {
    maps::redirect_targets.redirect(ifindex, u64::from(XDP_PASS)).is_ok()
}

/// To the node in row `index` of `vteps`. What does not fit, has to wait for a neighbour or goes over IPv6,
/// which needs an outer checksum, is tc's.
#[inline(always)]
fn to_vtep(
    ctx: &XdpContext,
    port: &Port,
    kind: inner::Kind,
    class: u8,
    index: u32,
    bytes: u32,
) -> Step<Option<Verdict>> {
    let vtep = maps::vteps.get(index).filter(|vtep| vtep.ifindex != 0).ok_or(Outcome::NoRoute)?;
    let simple = vtep.flags & (VTEP_RESOLVED | VTEP_V6) == VTEP_RESOLVED;
    if !simple || too_big(port, vtep.mtu, bytes) || !redirect(vtep.ifindex) {
        return Ok(None);
    }
    let source_port = source_port::of_hash(flow::hash(ctx, kind)?);
    // SAFETY: plain helper call. A driver without the headroom refuses, and the frame is as it was.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -(OUTER_LEN as i32)) } != 0 {
        return Ok(None);
    }
    let fields = Fields {
        inner_len: bytes as u16,
        tos: port.class.of(class),
        source_port,
        vni: port.vni,
        inner_sum: None,
    };
    let template = vtep.header.first_chunk().ok_or(Outcome::NoRoute)?;
    let header = packet::at_mut::<[u8; OUTER_LEN]>(ctx, 0).ok_or(Outcome::HelperFailed)?;
    packet::copy_by_words(template, header);
    encap::fill(header, fields);
    count::peer(index, Direction::Rx, bytes);
    Ok(Some(Verdict { outcome: Outcome::Encapsulated, action: XDP_REDIRECT as i32 }))
}

/// Whether a frame is larger than the way to the other node, or its network's owner, has carried.
#[inline(always)]
fn too_big(port: &Port, mtu: u32, bytes: u32) -> bool {
    let packet = bytes - ETH_LEN as u32;
    packet > mtu || packet > u32::from(port.mtu)
}
