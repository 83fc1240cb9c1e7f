//! From a container: tc on the host side of an endpoint's interface.

use aya_ebpf::{helpers::generated::bpf_redirect, programs::TcContext};
use overlay_ebpf::{
    abi::{Class, EndpointKey, Hook, MacAddr, Network, Outcome, Port, SELF_VTEP},
    wire::{ETH_LEN, ethernet::Ethernet, inner},
};

use super::{
    Step, Verdict, answer,
    claims::{self, Asks, Sender},
    count::{self, Direction},
    deliver, dropped,
    encap::{self, Inner},
    maps, network, packet,
};

/// Bytes the checks read directly: Ethernet, and an IPv4 header with all options and UDP behind it, or
/// IPv6 with a neighbour solicitation of one option.
const READ: u32 = (ETH_LEN + 72) as u32;

/// Forwards one frame of the endpoint behind the interface.
#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    let bytes = ctx.len();
    count::outcome(Hook::Endpoint, Outcome::Received, bytes);
    // SAFETY: a field of the context; the map's value is copied at once.
    let (ifindex, port) = unsafe {
        let ifindex = (*ctx.skb.skb).ifindex;
        (ifindex, maps::ports.get(ifindex).copied())
    };
    let Some(port) = port else { return dropped(ctx, Hook::Endpoint, Outcome::Unbound, bytes) };
    count::endpoint(port.slot, Direction::Tx, bytes);

    match forward(ctx, &port, ifindex) {
        Ok(Verdict { outcome, action }) => {
            count::outcome(Hook::Endpoint, outcome, bytes);
            action
        }
        Err(reason) if reason.class() as u32 == Class::SlowPath as u32 => {
            to_slow_path(ctx, &port, reason, bytes)
        }
        Err(reason) => dropped(ctx, Hook::Endpoint, reason, bytes),
    }
}

#[inline(always)]
fn forward(ctx: &TcContext, port: &Port, ifindex: u32) -> Step<Verdict> {
    packet::pull(ctx, READ);
    // SAFETY: a field of the context: a tag the container's device left to the hardware.
    if unsafe { (*ctx.skb.skb).vlan_present } != 0 {
        return Err(Outcome::InnerVlan);
    }
    let eth = packet::at::<Ethernet>(ctx, 0).ok_or(Outcome::Truncated)?;
    let (source, destination) = (eth.source, eth.destination);
    if source.0 != port.mac.0 {
        return Err(Outcome::SpoofedMac);
    }
    let kind = inner::kind(eth)?;
    let sender = Sender::of_port(port);
    let honest = claims::check(ctx, kind, ETH_LEN, ctx.len() - ETH_LEN as u32, &sender)?;
    match honest.asks {
        Asks::Arp => return answer::arp(ctx, &sender, ifindex),
        Asks::Nd => return answer::nd(ctx, &sender, ifindex),
        Asks::Nothing => {}
    }
    let inner = Inner { vni: port.vni, kind, tos: port.class.of(honest.class) };
    if destination.is_multicast() {
        return flood(ctx, inner.vni, inner.tos, ifindex);
    }
    unicast(ctx, inner, destination)
}

/// To one endpoint.
#[inline(always)]
fn unicast(ctx: &TcContext, inner: Inner, destination: MacAddr) -> Step<Verdict> {
    // SAFETY: the value is copied at once.
    let target = unsafe { maps::endpoints.get(EndpointKey::new(inner.vni, destination)).copied() }
        .ok_or(Outcome::UnknownDestination)?;
    if target.vtep != SELF_VTEP {
        return encap::to_vtep(ctx, inner, target.vtep);
    }
    count::endpoint(u32::from(target.slot), Direction::Rx, ctx.len());
    Ok(Verdict { outcome: Outcome::Delivered, action: deliver::to_endpoint(ctx, target.ifindex) })
}

/// Copies to the other endpoints of the network here, then to its other nodes. This and the answers are
/// functions of their own, so that what they keep is not on the one stack of 512 bytes all at once. The
/// frame's kind is not handed over but looked at again: the verifier walks through the loops for each one that it knows.
#[inline(never)]
fn flood(ctx: &TcContext, vni: u32, tos: u8, ifindex: u32) -> Step<Verdict> {
    let network = network(vni)?;
    deliver::to_all(ctx, vni, network.flood_ports, ifindex);
    if network.flood_vteps > 0 {
        let kind = inner::kind(packet::at::<Ethernet>(ctx, 0).ok_or(Outcome::Truncated)?)?;
        encap::to_all(ctx, Inner { vni, kind, tos }, network.flood_vteps)?;
    }
    Ok(Verdict { outcome: Outcome::Flooded, action: deliver::DONE })
}

/// Leaves the untouched frame to the network's kernel VXLAN device.
#[inline(always)]
fn to_slow_path(ctx: &TcContext, port: &Port, reason: Outcome, bytes: u32) -> i32 {
    match network(port.vni) {
        Ok(Network { slow_ifindex, .. }) if slow_ifindex != 0 => {
            count::outcome(Hook::Endpoint, reason, bytes);
            // SAFETY: plain helper call.
            unsafe { bpf_redirect(slow_ifindex, 0) as i32 }
        }
        Ok(_) => dropped(ctx, Hook::Endpoint, Outcome::NoSlowPath, bytes),
        Err(unbound) => dropped(ctx, Hook::Endpoint, unbound, bytes),
    }
}
