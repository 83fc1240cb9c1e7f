//! XDP on the uplink: strips the outer headers before an skb exists, so that the driver builds it
//! from the inner frame. What GRO may merge stays whole, for tc. Delivery is left to tc, which metadata in front of
//! the packet tells where; an endpoint that asked for it gets the frame redirected instead, and no
//! skb is ever built.

use aya_ebpf::{
    bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_REDIRECT},
    helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_meta, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};
use overlay_ebpf::{
    abi::{
        Class, Config, ENDPOINT_REDIRECT, Hook, META_MAGIC, OUTER_LEN, OUTER_LEN_V6, Outcome, UNDERLAY_V6,
        XdpMeta,
    },
    wire::{ETH_LEN, ecn, inner},
};

use super::{arrived, count_both};
use crate::program::{
    config,
    count::{self, Direction},
    dropped, maps,
    packet::{self, Packet},
    tunnel::{self, Arrival},
};

/// Judges one packet and strips it if it is to be delivered.
#[inline(always)]
pub fn run(ctx: &XdpContext) -> u32 {
    let Some(config) = config() else { return XDP_PASS };
    if config.flags & UNDERLAY_V6 == 0 {
        judge::<OUTER_LEN>(ctx, config)
    } else {
        judge::<OUTER_LEN_V6>(ctx, config)
    }
}

#[inline(always)]
fn judge<const N: usize>(ctx: &XdpContext, config: &Config) -> u32 {
    let bytes = ctx.length();
    match tunnel::inspect::<N>(ctx, config, bytes) {
        // A tag would be taken out of the stripped frame before tc sees it, and look like one of the
        // underlay's: tc counts the packet, and leaves it to the kernel's VXLAN device.
        Ok(Arrival { kind: inner::Kind::Tagged, .. }) => XDP_PASS,
        Ok(arrival) => strip::<N>(ctx, &arrival, bytes),
        // Headers behind the first buffer: tc can pull them, and counts the packet.
        Err(Outcome::Truncated | Outcome::InnerMalformed) if hidden::<N>(ctx, bytes) => XDP_PASS,
        Err(reason) if reason.class() as u32 == Class::Passed as u32 => {
            count_both(reason, bytes);
            XDP_PASS
        }
        Err(reason) => {
            count::outcome(Hook::Uplink, Outcome::Received, bytes);
            dropped(ctx, Hook::Uplink, reason, bytes);
            XDP_DROP
        }
    }
}

/// Whether the kernel may take the inner checksum for verified though only the outer one was. A card that
/// does not look into VXLAN, or a host's bridge that merges for its guest, says of an outer UDP header that
/// it was verified, also of one without a checksum. With that header gone, GRO believes it of the inner one,
/// before tc can take it back. With the header on, the kernel's GRO for tunnels knows better.
#[inline(always)]
fn may_be_believed<const N: usize>(ctx: &XdpContext, arrival: &Arrival) -> bool {
    if arrival.summed {
        return true;
    }
    let protocol = match arrival.kind {
        inner::Kind::Ipv4 => packet::at::<Ipv4Hdr>(ctx, N + ETH_LEN).map(|ip| ip.proto),
        inner::Kind::Ipv6 => packet::at::<Ipv6Hdr>(ctx, N + ETH_LEN).map(|ip| ip.next_hdr),
        inner::Kind::Tagged | inner::Kind::Arp | inner::Kind::Other => return false,
    };
    !protocol.is_some_and(inner::is_never_merged)
}

/// Whether part of what the checks read lies where XDP cannot read it directly.
#[inline(always)]
fn hidden<const N: usize>(ctx: &XdpContext, bytes: u32) -> bool {
    let wanted = if bytes < tunnel::read::<N>() { bytes } else { tunnel::read::<N>() };
    ctx.data() + wanted as usize > ctx.data_end()
}

#[inline(always)]
fn strip<const N: usize>(ctx: &XdpContext, arrival: &Arrival, bytes: u32) -> u32 {
    let redirected = redirect(arrival);
    // What is redirected takes nothing along that somebody could believe.
    if !redirected && may_be_believed::<N>(ctx, arrival) {
        return XDP_PASS;
    }
    // Metadata last: what is there already is moved along with the packet's beginning, which costs as
    // much as two lookups.
    // SAFETY: plain helper call.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, N as i32) } != 0 {
        return failed(ctx, bytes);
    }
    // SAFETY: plain helper call.
    if !redirected && unsafe { bpf_xdp_adjust_meta(ctx.ctx, -(size_of::<XdpMeta>() as i32)) } != 0 {
        // A driver without metadata: with its headers, which are still there, the packet is tc's.
        // SAFETY: plain helper call.
        return if unsafe { bpf_xdp_adjust_head(ctx.ctx, -(N as i32)) } == 0 {
            XDP_PASS
        } else {
            failed(ctx, bytes)
        };
    }
    // SAFETY: plain helper call.
    if arrival.trailer != 0 && unsafe { bpf_xdp_adjust_tail(ctx.ctx, -(arrival.trailer as i32)) } != 0 {
        return failed(ctx, bytes);
    }
    if let Some(bits) = arrival.ecn {
        set_ecn(ctx, arrival.kind, bits);
    }
    count::outcome(Hook::Uplink, Outcome::Received, bytes);
    let frame_len = bytes - N as u32 - arrival.trailer;
    count::peer(arrival.vtep, Direction::Tx, frame_len);
    count::outcome(Hook::Uplink, arrived(arrival, frame_len), bytes);
    if redirected {
        return XDP_REDIRECT;
    }
    let (ifindex, flags) = match arrival.target {
        Some(endpoint) => (endpoint.ifindex, u32::from(endpoint.flags)),
        None => (0, 0),
    };
    write_meta(ctx, XdpMeta { magic: META_MAGIC, vni: arrival.vni, ifindex, flags });
    XDP_PASS
}

/// Asks for a redirect to the endpoint's interface if the endpoint has them. `false` also where that
/// interface is not in the map (any more): tc delivers then.
#[inline(always)]
fn redirect(arrival: &Arrival) -> bool {
    arrival.target.is_some_and(|endpoint| {
        endpoint.flags & ENDPOINT_REDIRECT != 0
            && maps::redirect_targets.redirect(endpoint.ifindex, u64::from(XDP_PASS)).is_ok()
    })
}

#[inline(always)]
fn write_meta(ctx: &XdpContext, meta: XdpMeta) {
    let start = ctx.metadata();
    if start + size_of::<XdpMeta>() <= ctx.metadata_end() {
        // SAFETY: the bytes lie between metadata and packet; the metadata is 4-byte aligned by
        // `bpf_xdp_adjust_meta`'s rule.
        unsafe { *(start as *mut XdpMeta) = meta };
    }
}

/// Drops a packet that a helper failed on, half done.
#[inline(always)]
fn failed(ctx: &XdpContext, bytes: u32) -> u32 {
    count::outcome(Hook::Uplink, Outcome::Received, bytes);
    dropped(ctx, Hook::Uplink, Outcome::HelperFailed, bytes);
    XDP_ABORTED
}

#[inline(always)]
fn set_ecn(ctx: &XdpContext, kind: inner::Kind, bits: u8) {
    if matches!(kind, inner::Kind::Ipv4) {
        if let Some(ip) = packet::at_mut::<Ipv4Hdr>(ctx, ETH_LEN) {
            ecn::set_ipv4(&mut ip.tos, ip.vihl, &mut ip.check, bits);
        }
    } else if let Some(ip) = packet::at_mut::<Ipv6Hdr>(ctx, ETH_LEN) {
        ecn::set_ipv6(&mut ip.vcf, bits);
    }
}
