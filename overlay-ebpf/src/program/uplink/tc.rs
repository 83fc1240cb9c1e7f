//! tc on the uplink: delivers what XDP stripped, and judges and strips what it did not.

use aya_ebpf::{
    bindings::{
        BPF_CSUM_LEVEL_DEC, BPF_F_ADJ_ROOM_DECAP_L3_IPV4, BPF_F_ADJ_ROOM_DECAP_L3_IPV6,
        BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET, BPF_F_RECOMPUTE_CSUM, TC_ACT_UNSPEC,
        bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    helpers::generated::{bpf_csum_level, bpf_skb_change_tail},
    programs::TcContext,
};
use network_types::ip::Ipv4Hdr;
use overlay_ebpf::{
    abi::{
        CHECKED_MARK, Class, Config, DECAP_CLEARS_TUNNEL, DECAP_L4_UDP, Hook, META_MAGIC, OUTER_LEN,
        OUTER_LEN_V6, Outcome, UNDERLAY_V6, XDP_ATTACHED, XdpMeta,
    },
    wire::{ETH_LEN, ecn, inner},
};

use super::{arrived, count_both};
use crate::program::{
    Step, config,
    count::{self, Direction},
    deliver, dropped, network, packet,
    tunnel::{self, Arrival},
};

/// Delivers or judges one packet.
#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    let bytes = ctx.len();
    if let Some(meta) = metadata(ctx) {
        if in_a_vlan(ctx) {
            // XDP has counted it as delivered already: here it enters once more.
            count::outcome(Hook::Uplink, Outcome::Received, bytes);
            return dropped(ctx, Hook::Uplink, Outcome::OuterVlan, bytes);
        }
        return deliver_stripped(ctx, &meta);
    }
    let Some(config) = config() else { return TC_ACT_UNSPEC };
    let delivery = if config.flags & UNDERLAY_V6 == 0 {
        take::<OUTER_LEN>(ctx, config)
    } else {
        take::<OUTER_LEN_V6>(ctx, config)
    };
    match delivery {
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

/// Judges a packet, strips its outer headers of `N` bytes and delivers it.
#[inline(always)]
fn take<const N: usize>(ctx: &TcContext, config: &Config) -> Step<Delivery> {
    if in_a_vlan(ctx) {
        return Err(Outcome::PassedUp);
    }
    packet::pull(ctx, tunnel::read::<N>());
    let arrival = tunnel::inspect::<N>(ctx, config, ctx.len())?;
    // Whichever way it goes from here.
    count::peer(arrival.vtep, Direction::Tx, ctx.len() - N as u32 - arrival.trailer);
    let clears = config.flags & DECAP_CLEARS_TUNNEL != 0;
    if !clears && stays_in_tunnel::<N>(ctx, &arrival) {
        return Err(Outcome::SlowForwarded);
    }
    strip::<N>(ctx, &arrival, if clears { u64::from(DECAP_L4_UDP) } else { 0 })
}

/// Whether the frame is in a VLAN, its tag taken off by the hardware: not the underlay's then, but
/// that of another interface on top of the uplink.
#[inline(always)]
fn in_a_vlan(ctx: &TcContext) -> bool {
    // SAFETY: fields of the context.
    unsafe { (*ctx.skb.skb).vlan_present != 0 && inner::names_vlan((*ctx.skb.skb).vlan_tci as u16) }
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
    forget_outer_checksum(ctx);
    if meta.ifindex != 0 {
        return deliver::to_endpoint(ctx, meta.ifindex, meta.flags as u16);
    }
    deliver::to_all(ctx, meta.vni, flood_ports(meta.vni), 0);
    deliver::DONE
}

#[inline(always)]
fn flood_ports(vni: u32) -> u32 {
    network(vni).map_or(0, |network| network.flood_ports)
}

/// Whether a packet, stripped, would still be marked as in a UDP tunnel where that matters. GRO and a
/// sender's `bpf_skb_adjust_room` mark super-packets so, and without [`DECAP_L4_UDP`] no helper undoes
/// it. It means nothing to a socket or to segmentation in software, but to a card or a tap device that
/// segments tunnels by itself.
#[inline(always)]
fn stays_in_tunnel<const N: usize>(ctx: &TcContext, arrival: &Arrival) -> bool {
    // SAFETY: a field of the context.
    let super_packet = unsafe { (*ctx.skb.skb).gso_size } != 0;
    super_packet && arrival.target.is_some_and(|endpoint| tunnel::goes_on::<N>(ctx, arrival, endpoint))
}

/// Takes back one of the checksums that the skb says were verified, as for the outer one, zero or not
/// (`csum_level` in include/linux/skbuff.h; Linux 5.8). If it was the only one, the inner checksum is
/// verified by whoever receives the packet.
#[inline(always)]
fn forget_outer_checksum(ctx: &TcContext) {
    // SAFETY: plain helper call, which does not fail for this argument.
    unsafe { bpf_csum_level(ctx.skb.skb, u64::from(BPF_CSUM_LEVEL_DEC)) };
}

/// Takes the outer headers off and delivers. An error before anything is changed leaves the packet to
/// the kernel's VXLAN device. So does a kernel that cannot go from one family to the other (before
/// Linux 6.3): it knows no such flag and refuses before it touches the packet.
#[inline(always)]
fn strip<const N: usize>(ctx: &TcContext, arrival: &Arrival, more_flags: u64) -> Step<Delivery> {
    let over_ipv6 = N == OUTER_LEN_V6;
    let other_family = match arrival.kind {
        inner::Kind::Ipv4 if over_ipv6 => BPF_F_ADJ_ROOM_DECAP_L3_IPV4,
        inner::Kind::Ipv6 if !over_ipv6 => BPF_F_ADJ_ROOM_DECAP_L3_IPV6,
        inner::Kind::Ipv4 | inner::Kind::Ipv6 => 0,
        inner::Kind::Tagged => return Err(Outcome::SlowVlan),
        inner::Kind::Arp | inner::Kind::Other => return Err(Outcome::SlowNotIp),
    };
    let flags =
        u64::from(BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET | other_family) | more_flags;
    if arrival.trailer != 0 {
        // SAFETY: plain helper call.
        let cut = unsafe { bpf_skb_change_tail(ctx.skb.skb, ctx.len() - arrival.trailer, 0) };
        if cut != 0 {
            return Err(Outcome::HelperFailed);
        }
    }
    let eth = *packet::at::<[u8; ETH_LEN]>(ctx, N).ok_or(Outcome::Truncated)?;
    ctx.adjust_room(-(N as i32), BPF_ADJ_ROOM_MAC, flags).map_err(|_| Outcome::SlowEncapsulated)?;
    forget_outer_checksum(ctx);
    ctx.store(0, &eth, 0).map_err(|_| Outcome::HelperFailed)?;
    if let Some(bits) = arrival.ecn {
        set_ecn(ctx, arrival.kind, bits)?;
    }
    let outcome = arrived(arrival, ctx.len());
    let action = if let Some(endpoint) = arrival.target {
        deliver::to_endpoint(ctx, endpoint.ifindex, endpoint.flags)
    } else {
        deliver::to_all(ctx, arrival.vni, flood_ports(arrival.vni), 0);
        deliver::DONE
    };
    Ok(Delivery { outcome, action })
}

#[inline(always)]
fn set_ecn(ctx: &TcContext, kind: inner::Kind, bits: u8) -> Step<()> {
    if matches!(kind, inner::Kind::Ipv4) {
        let ip = packet::at_mut::<Ipv4Hdr>(ctx, ETH_LEN).ok_or(Outcome::HelperFailed)?;
        ecn::set_ipv4(&mut ip.tos, ip.vihl, &mut ip.check, bits);
    } else {
        let mut first = *packet::at::<[u8; 4]>(ctx, ETH_LEN).ok_or(Outcome::HelperFailed)?;
        ecn::set_ipv6(&mut first, bits);
        // No checksum in the header makes up for the change in a sum that the card took.
        ctx.store(ETH_LEN, &first, u64::from(BPF_F_RECOMPUTE_CSUM)).map_err(|_| Outcome::HelperFailed)?;
    }
    Ok(())
}
