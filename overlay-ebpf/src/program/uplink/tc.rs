//! tc on the uplink: delivers what XDP stripped, and judges and strips what it did not.

use aya_ebpf::{
    bindings::{
        BPF_F_ADJ_ROOM_DECAP_L3_IPV6, BPF_F_ADJ_ROOM_FIXED_GSO, TC_ACT_UNSPEC,
        bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    programs::TcContext,
};
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};
use overlay_ebpf::{
    abi::{CHECKED_MARK, Class, Hook, META_MAGIC, Network, OUTER_LEN, Outcome, XDP_ATTACHED, XdpMeta},
    wire::{ETH_LEN, ecn, inner},
};

use super::{arrived, count_both};
use crate::program::{
    Step, config, count, deliver, dropped, maps, packet,
    tunnel::{self, Arrival, INNER, Target},
};

/// Delivers or judges one packet.
#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    if let Some(meta) = metadata(ctx) {
        return deliver_stripped(ctx, &meta);
    }
    let Some(config) = config() else { return TC_ACT_UNSPEC };
    pull_headers(ctx);
    let bytes = ctx.len();
    match tunnel::inspect(ctx, config).and_then(|arrival| strip(ctx, &arrival)) {
        Ok(Delivery { outcome, action }) => {
            count_both(outcome, bytes);
            action
        }
        Err(reason) if reason.class() as u32 == Class::Passed as u32 => {
            // With XDP on the uplink these were counted there.
            if config.flags & XDP_ATTACHED == 0 {
                count_both(reason, bytes);
            }
            TC_ACT_UNSPEC
        }
        Err(reason) if reason.class() as u32 == Class::SlowPath as u32 => {
            count_both(reason, bytes);
            ctx.set_mark(CHECKED_MARK);
            TC_ACT_UNSPEC
        }
        Err(reason) => {
            count::outcome(Hook::Uplink, Outcome::Received, bytes);
            dropped(ctx, Hook::Uplink, reason, bytes)
        }
    }
}

struct Delivery {
    outcome: Outcome,
    action: i32,
}

/// What our XDP program wrote, if it was ours that wrote.
#[inline(always)]
fn metadata(ctx: &TcContext) -> Option<XdpMeta> {
    // SAFETY: fields of the context; the read lies between metadata and packet, by the check.
    unsafe {
        let start = (*ctx.skb.skb).data_meta as usize;
        if start + size_of::<XdpMeta>() > ctx.data() {
            return None;
        }
        let meta = *(start as *const XdpMeta);
        (meta.magic == META_MAGIC).then_some(meta)
    }
}

#[inline(always)]
fn deliver_stripped(ctx: &TcContext, meta: &XdpMeta) -> i32 {
    if meta.ifindex != 0 {
        return deliver::to_endpoint(ctx, meta.ifindex);
    }
    deliver::to_all(ctx, meta.vni, flood_ports(meta.vni), 0);
    deliver::DONE
}

#[inline(always)]
fn flood_ports(vni: u32) -> u32 {
    // SAFETY: the value is copied at once.
    unsafe { maps::networks.get(vni).copied() }.map_or(0, |Network { flood_ports, .. }| flood_ports)
}

/// As in `endpoint`: never beyond the linear part of a super-packet.
#[inline(always)]
fn pull_headers(ctx: &TcContext) {
    let wanted = if ctx.len() < tunnel::READ { ctx.len() } else { tunnel::READ };
    // SAFETY: a field of the context.
    let segment = unsafe { (*ctx.skb.skb).gso_size };
    if ctx.data() + wanted as usize > ctx.data_end() && segment == 0 {
        // If it fails, the checks that follow see too short a packet.
        let _ = ctx.pull_data(wanted);
    }
}

/// Takes the outer headers off and delivers. An error before anything is changed leaves the packet to
/// the kernel's VXLAN device.
#[inline(always)]
fn strip(ctx: &TcContext, arrival: &Arrival) -> Step<Delivery> {
    let flags = match arrival.kind {
        inner::Kind::Ipv4 => u64::from(BPF_F_ADJ_ROOM_FIXED_GSO),
        inner::Kind::Ipv6 => u64::from(BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_DECAP_L3_IPV6),
        inner::Kind::Arp | inner::Kind::Other => return Err(Outcome::SlowNotIp),
    };
    let eth = *packet::at::<[u8; ETH_LEN]>(ctx, INNER).ok_or(Outcome::Truncated)?;
    ctx.adjust_room(-(OUTER_LEN as i32), BPF_ADJ_ROOM_MAC, flags).map_err(|_| Outcome::SlowEncapsulated)?;
    ctx.store(0, &eth, 0).map_err(|_| Outcome::HelperFailed)?;
    if let Some(bits) = arrival.ecn {
        set_ecn(ctx, arrival.kind, bits)?;
    }
    let outcome = arrived(arrival, ctx.len());
    let action = match arrival.target {
        Target::Endpoint(endpoint) => deliver::to_endpoint(ctx, endpoint.ifindex),
        Target::All => {
            deliver::to_all(ctx, arrival.vni, flood_ports(arrival.vni), 0);
            deliver::DONE
        }
    };
    Ok(Delivery { outcome, action })
}

#[inline(always)]
fn set_ecn(ctx: &TcContext, kind: inner::Kind, bits: u8) -> Step<()> {
    if matches!(kind, inner::Kind::Ipv4) {
        let ip = packet::at_mut::<Ipv4Hdr>(ctx, ETH_LEN).ok_or(Outcome::HelperFailed)?;
        ecn::set_ipv4(&mut ip.tos, ip.vihl, &mut ip.check, bits);
    } else {
        let ip = packet::at_mut::<Ipv6Hdr>(ctx, ETH_LEN).ok_or(Outcome::HelperFailed)?;
        ecn::set_ipv6(&mut ip.vcf, bits);
    }
    Ok(())
}
