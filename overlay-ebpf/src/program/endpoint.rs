//! From a container: tc on the host side of an endpoint's interface.

use aya_ebpf::{helpers::generated::bpf_redirect, programs::TcContext};
use network_types::{
    arp::ArpHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};
use overlay_ebpf::{
    abi::{
        Addr, Class, Endpoint, EndpointKey, Hook, MacAddr, NETWORK_HAS_PORTS, NETWORK_TRUNK, NeighbourKey,
        Network, Outcome, Port, SELF_VTEP,
    },
    wire::{ETH_LEN, arp, ethernet::Ethernet, inner},
};

use super::{
    Step, Verdict,
    count::{self, Direction},
    deliver, dropped,
    encap::{self, Inner},
    flooding, maps, network, packet, too_big,
};

/// Bytes the checks read directly: Ethernet, an IPv4 header with all options, a UDP header.
const READ: u32 = (ETH_LEN + 60 + 8) as u32;

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

/// A function of its own, as [`too_big::answer`] is: what each keeps is not on the one stack of 512
/// bytes at the same time.
#[inline(never)]
fn forward(ctx: &TcContext, port: &Port, ifindex: u32) -> Step<Verdict> {
    packet::pull(ctx, READ);
    let eth = packet::at::<Ethernet>(ctx, 0).ok_or(Outcome::Truncated)?;
    let (source, destination) = (eth.source, eth.destination);
    if source.0 != port.mac.0 {
        return Err(Outcome::SpoofedMac);
    }
    let kind = kind(ctx, eth, port.vni)?;
    let tos = match kind {
        inner::Kind::Ipv4 => check_ipv4(ctx, port)?,
        inner::Kind::Ipv6 => {
            let ip = packet::at::<Ipv6Hdr>(ctx, ETH_LEN).ok_or(Outcome::InnerMalformed)?;
            (ip.vcf[0] << 4) | (ip.vcf[1] >> 4)
        }
        inner::Kind::Arp => {
            if let Some(verdict) = answer_arp(ctx, port, ifindex)? {
                return Ok(verdict);
            }
            0
        }
        inner::Kind::Tagged | inner::Kind::Other => 0,
    };
    let inner = Inner { vni: port.vni, kind, tos: port.class.of(tos), mtu: u32::from(port.mtu) };
    // SAFETY: the value is copied at once.
    match unsafe { maps::endpoints.get(EndpointKey::new(port.vni, destination)).copied() } {
        Some(target) => unicast(ctx, inner, &target),
        None => flood(ctx, inner, destination, ifindex),
    }
}

/// The frame's kind. What is behind a VLAN tag is not looked at: it is another segment, where the
/// endpoint has addresses that nobody here knows.
#[inline(always)]
pub fn kind(ctx: &TcContext, eth: &Ethernet, vni: u32) -> Step<inner::Kind> {
    // The kernel takes the tag out of the frame before tc sees it (`__netif_receive_skb_core`).
    // SAFETY: a field of the context.
    let aside = unsafe { (*ctx.skb.skb).vlan_present } != 0;
    match inner::kind(eth) {
        Ok(kind) if !aside => Ok(kind),
        _ if network(vni)?.flags & NETWORK_TRUNK != 0 => Ok(inner::Kind::Tagged),
        _ => Err(Outcome::InnerVlan),
    }
}

/// Checks an IPv4 packet's source and that it is no VXLAN to a node; returns its traffic class.
#[inline(always)]
fn check_ipv4(ctx: &TcContext, port: &Port) -> Step<u8> {
    let ip = packet::at::<Ipv4Hdr>(ctx, ETH_LEN).ok_or(Outcome::InnerMalformed)?;
    inner::check_ipv4(ip)?;
    if !owns(port, ip.src_addr) {
        return Err(Outcome::SpoofedAddress);
    }
    if packet::is_vxlan_to_a_node(ctx, ETH_LEN, ip)? {
        return Err(Outcome::EncapProhibited);
    }
    Ok(ip.tos)
}

/// Whether an address is the endpoint's.
#[inline(always)]
fn owns(port: &Port, address: [u8; 4]) -> bool {
    address == port.addr4 && address != [0; 4] || {
        let key = NeighbourKey { vni: port.vni, addr: Addr::from_v4(address) };
        // SAFETY: read at once.
        unsafe { maps::neighbours.get(key).is_some_and(|n| n.mac.0 == port.mac.0) }
    }
}

/// Answers an ARP request for a known address; `None` for what is to be forwarded like any frame.
#[inline(always)]
fn answer_arp(ctx: &TcContext, port: &Port, ifindex: u32) -> Step<Option<Verdict>> {
    let arp = packet::at::<ArpHdr>(ctx, ETH_LEN).ok_or(Outcome::InnerMalformed)?;
    let wanted = match arp::question(arp, port.mac, |address| owns(port, address))? {
        arp::Question::WhoHas(wanted) => wanted,
        arp::Question::Announcement => return Ok(None),
    };
    let key = NeighbourKey { vni: port.vni, addr: Addr::from_v4(wanted) };
    // SAFETY: the value is copied at once.
    let Some(answer) = (unsafe { maps::neighbours.get(key).map(|n| n.mac) }) else {
        return if has_ports(port.vni)? { Ok(None) } else { Err(Outcome::ArpUnknown) };
    };

    let eth = packet::at_mut::<Ethernet>(ctx, 0).ok_or(Outcome::Truncated)?;
    let arp = packet::at_mut::<ArpHdr>(ctx, ETH_LEN).ok_or(Outcome::Truncated)?;
    arp::reply(eth, arp, answer);
    // SAFETY: plain helper call: back out of the interface it came from.
    let action = unsafe { bpf_redirect(ifindex, 0) } as i32;
    Ok(Some(Verdict { outcome: Outcome::ArpAnswered, action }))
}

/// Whether hosts behind gateway ports may have addresses that nobody has told: then who asks for one
/// that is not known asks everybody.
#[inline(always)]
pub fn has_ports(vni: u32) -> Step<bool> {
    Ok(network(vni)?.flags & NETWORK_HAS_PORTS != 0)
}

#[inline(always)]
pub fn unicast(ctx: &TcContext, inner: Inner, target: &Endpoint) -> Step<Verdict> {
    if target.vtep != SELF_VTEP {
        return encap::to_vtep(ctx, inner, target.vtep);
    }
    count::endpoint(u32::from(target.slot), Direction::Rx, ctx.len());
    Ok(Verdict {
        outcome: Outcome::Delivered,
        action: deliver::to_endpoint(ctx, target.ifindex, target.flags),
    })
}

/// Copies to the other endpoints of the network here, then to its other nodes.
#[inline(always)]
pub fn flood(ctx: &TcContext, inner: Inner, destination: MacAddr, ifindex: u32) -> Step<Verdict> {
    let network = network(inner.vni)?;
    flooding::allowed(&network, destination)?;
    flooding::within_rate(inner.vni, &network)?;
    deliver::to_all(ctx, inner.vni, network.flood_ports, ifindex);
    if network.flood_vteps > 0 {
        encap::to_all(ctx, inner, &network)?;
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
