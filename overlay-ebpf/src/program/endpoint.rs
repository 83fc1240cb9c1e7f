//! From a container: tc on the host side of an endpoint's interface.

use aya_ebpf::{helpers::generated::bpf_redirect, programs::TcContext};
use overlay_ebpf::{
    abi::{Class, FdbEntry, Hook, NETWORK_HAS_PORTS, NETWORK_TRUNK, Network, Outcome, Port},
    wire::{ETH_LEN, ethernet::Ethernet, inner},
};

use super::{
    Step, Verdict, answer, bound,
    claims::{self, Asks, Sender},
    config,
    count::{self, Direction},
    deliver, dropped,
    encap::{self, Inner},
    fdb, flooding, network, packet, too_big,
};

/// Bytes the checks read directly: Ethernet, and an IPv4 header with all options and UDP behind it, or
/// IPv6 with a neighbour solicitation of one option.
const READ: u32 = (ETH_LEN + 72) as u32;

/// Forwards one frame of the endpoint behind the interface.
#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    let bytes = ctx.len();
    count::outcome(Hook::Endpoint, Outcome::Received, bytes);
    // SAFETY: a field of the context.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    let Some(port) = bound(ifindex) else { return dropped(ctx, Hook::Endpoint, Outcome::Unbound, bytes) };
    count::endpoint(port.slot, Direction::Tx, bytes);

    match forward(ctx, &port, ifindex) {
        Ok(Verdict { outcome, action }) => {
            count::outcome(Hook::Endpoint, outcome, bytes);
            action
        }
        Err(reason) if reason.class() as u32 == Class::SlowPath as u32 => {
            to_slow_path(ctx, Hook::Endpoint, port.vni, reason, bytes)
        }
        Err(Outcome::TooBig) => match too_big::answer(ctx, &port, ifindex) {
            Ok(Verdict { outcome, action }) => {
                count::outcome(Hook::Endpoint, outcome, bytes);
                action
            }
            Err(reason) => dropped(ctx, Hook::Endpoint, reason, bytes),
        },
        Err(reason) => dropped(ctx, Hook::Endpoint, reason, bytes),
    }
}

#[inline(always)]
fn forward(ctx: &TcContext, port: &Port, ifindex: u32) -> Step<Verdict> {
    let config = config().ok_or(Outcome::Unbound)?;
    packet::pull(ctx, READ);
    let eth = packet::at::<Ethernet>(ctx, 0).ok_or(Outcome::Truncated)?;
    let (source, destination) = (eth.source, eth.destination);
    fdb::touch(config, port.vni, destination);
    if source.0 != port.mac.0 {
        return Err(Outcome::SpoofedMac);
    }
    let kind = kind(ctx, eth, port.vni)?;
    let sender = Sender::of_port(port);
    let honest = claims::check(ctx, config, kind, ETH_LEN, ctx.len() - ETH_LEN as u32, &sender)?;
    let answered = match honest.asks {
        Asks::Arp => answer::arp(ctx, &sender, ifindex),
        Asks::Nd => answer::nd(ctx, &sender, ifindex),
        Asks::Nothing => Err(Outcome::ArpUnknown),
    };
    match answered {
        Err(Outcome::ArpUnknown | Outcome::NdUnknown)
            if honest.asks == Asks::Nothing || has_ports(port.vni)? => {}
        answered => return answered,
    }
    let tos = port.class.of(honest.class);
    match fdb::find(config, port.vni, destination) {
        Some(target) => {
            let inner = Inner { vni: port.vni, kind, tos, mtu: u32::from(port.mtu) };
            unicast(ctx, inner, target)
        }
        None => flood(ctx, port.vni, tos, ifindex),
    }
}

/// The frame's kind. What is behind a VLAN tag is not looked at: it is another segment, where the
/// endpoint has addresses that nobody here knows. Not so behind a tag of VLAN 0, which is refused.
#[inline(always)]
pub fn kind(ctx: &TcContext, eth: &Ethernet, vni: u32) -> Step<inner::Kind> {
    // The kernel takes the tag out of the frame before tc sees it (`__netif_receive_skb_core`).
    // SAFETY: a field of the context.
    let aside = unsafe { (*ctx.skb.skb).vlan_present } != 0;
    let tci = match inner::kind(eth) {
        Ok(kind) if !aside => return Ok(kind),
        // SAFETY: a field of the context.
        _ if aside => unsafe { (*ctx.skb.skb).vlan_tci as u16 },
        _ => u16::from_be_bytes(*packet::at::<[u8; 2]>(ctx, ETH_LEN).ok_or(Outcome::InnerVlan)?),
    };
    if inner::names_vlan(tci) && network(vni)?.flags & NETWORK_TRUNK != 0 {
        Ok(inner::Kind::Tagged)
    } else {
        Err(Outcome::InnerVlan)
    }
}

/// Whether hosts behind gateway ports may have addresses that nobody has told: then who asks for one
/// that is not known asks everybody.
#[inline(always)]
pub fn has_ports(vni: u32) -> Step<bool> {
    Ok(network(vni)?.flags & NETWORK_HAS_PORTS != 0)
}

/// To one endpoint.
#[inline(always)]
pub fn unicast(ctx: &TcContext, inner: Inner, target: FdbEntry) -> Step<Verdict> {
    if let Some(vtep) = target.vtep() {
        return encap::to_vtep(ctx, inner, vtep);
    }
    let target = target.slot().and_then(fdb::local).ok_or(Outcome::NoRoute)?;
    count::endpoint(u32::from(target.slot), Direction::Rx, ctx.len());
    Ok(Verdict {
        outcome: Outcome::Delivered,
        action: deliver::to_endpoint(ctx, target.ifindex, target.flags),
    })
}

/// Copies to the other endpoints of the network here, then to its other nodes. This and the answers are
/// functions of their own, so that what they keep is not on the one stack of 512 bytes all at once. The
/// frame's kind is not handed over but looked at again: the verifier walks through the loops for each one
/// that it knows.
#[inline(never)]
pub fn flood(ctx: &TcContext, vni: u32, tos: u8, ifindex: u32) -> Step<Verdict> {
    let network = network(vni)?;
    let destination = packet::at::<Ethernet>(ctx, 0).ok_or(Outcome::Truncated)?.destination;
    flooding::allowed(&network, destination)?;
    flooding::within_rate(vni, &network)?;
    deliver::to_all(ctx, vni, network.flood_ports, ifindex);
    if network.flood_vteps > 0 {
        let kind = kind(ctx, packet::at::<Ethernet>(ctx, 0).ok_or(Outcome::Truncated)?, vni)?;
        encap::to_all(ctx, Inner { vni, kind, tos, mtu: 0 }, &network)?;
    }
    Ok(Verdict { outcome: Outcome::Flooded, action: deliver::DONE })
}

/// Leaves the untouched frame to the network's kernel VXLAN device.
#[inline(always)]
pub fn to_slow_path(ctx: &TcContext, hook: Hook, vni: u32, reason: Outcome, bytes: u32) -> i32 {
    match network(vni) {
        Ok(Network { slow_ifindex, .. }) if slow_ifindex != 0 => {
            count::outcome(hook, reason, bytes);
            // SAFETY: plain helper call.
            unsafe { bpf_redirect(slow_ifindex, 0) as i32 }
        }
        Ok(_) => dropped(ctx, hook, Outcome::NoSlowPath, bytes),
        Err(unbound) => dropped(ctx, hook, unbound, bytes),
    }
}
