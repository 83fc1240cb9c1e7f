//! Out to another node: outer headers in front of the frame, and on to the uplink.

use aya_ebpf::{
    bindings::{
        BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6,
        BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET,
        bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, bpf_redir_neigh,
    },
    helpers::generated::{bpf_redirect, bpf_redirect_neigh, bpf_set_hash},
    programs::TcContext,
};
use network_types::{
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};
use overlay_ebpf::{
    abi::{
        FloodKey, MAX_FLOOD_VTEPS, Network, OUTER_LEN, OUTER_LEN_V6, Outcome, VTEP_CHECKSUM, VTEP_RESOLVED,
        VTEP_V6, Vtep,
    },
    wire::{
        ETH_LEN, IPV6_LEN, PROTO_TCP, UDP_LEN,
        encap::{self, Fields},
        inner::Kind,
        inner_sum, source_port,
    },
};

use super::{
    Step, Verdict,
    count::{self, Direction},
    flow, maps, packet,
};

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
/// `BPF_F_ADJ_ROOM_ENCAP_L2(14)`: with `ENCAP_L2_ETH` it leaves `inner_mac` 16 bytes behind the
/// transport header, which `vxlan_features_check` (include/net/vxlan.h) wants for a card's TSO.
const ENCAP_L2: u64 = (ETH_LEN as u64) << 56;
const L2_ETH: u64 = BPF_F_ADJ_ROOM_ENCAP_L2_ETH as u64;
const FLAGS: u64 = BPF_F_ADJ_ROOM_ENCAP_L4_UDP as u64
    | L2_ETH
    | BPF_F_ADJ_ROOM_FIXED_GSO as u64
    | BPF_F_ADJ_ROOM_NO_CSUM_RESET as u64
    | ENCAP_L2;
/// The least a segment carries in front of its payload: IPv4 and UDP headers.
const LEAST_SEGMENT_HEADERS: u32 = 28;
/// Length of a VLAN tag, which the kernel keeps beside the frame.
const TAG_LEN: u32 = 4;

/// No 16-bit sum.
const NO_SUM: u32 = u32::MAX;

/// What of an inner frame goes into its outer headers.
#[derive(Clone, Copy)]
pub struct Inner {
    /// The network.
    pub vni: u32,
    /// What is in it.
    pub kind: Kind,
    /// The outer traffic class for it.
    pub tos: u8,
    /// The largest packet the network's owner has carried, in bytes.
    pub mtu: u32,
}

/// What of the frame is kept over the change of its length, and what is written in front of it.
struct Front {
    inner_eth: [u8; ETH_LEN],
    source_port: u16,
    /// Sum of the inner packet for the outer checksum, or [`NO_SUM`]. No option: what that leaves unset may
    /// not be read back after a helper call before Linux 6.3.
    inner_sum: u32,
}

/// The outer headers and the inner Ethernet header behind them, as they are stored. Aligned, so that the
/// template is copied by words: without, the compiler calls a function that does it byte by byte.
#[repr(C, align(4))]
struct Headers<const N: usize> {
    outer: [u8; N],
    inner_eth: [u8; ETH_LEN],
}

/// Sends the frame to the node in row `index` of `vteps`.
#[inline(always)]
pub fn to_vtep(ctx: &TcContext, inner: Inner, index: u32) -> Step<Verdict> {
    let vtep = maps::vteps.get(index).filter(|vtep| vtep.ifindex != 0).ok_or(Outcome::NoRoute)?;
    if vtep.flags & VTEP_V6 == 0 {
        send::<OUTER_LEN>(ctx, inner, index, vtep)
    } else {
        send::<OUTER_LEN_V6>(ctx, inner, index, vtep)
    }
}

/// Sends the frame behind outer headers of `N` bytes. A function of its own for each length, so that
/// both have not their headers on the one stack of 512 bytes.
#[inline(never)]
fn send<const N: usize>(ctx: &TcContext, inner: Inner, index: u32, vtep: &Vtep) -> Step<Verdict> {
    let bytes = ctx.len();
    check_size::<N>(ctx, inner.kind, if vtep.mtu < inner.mtu { vtep.mtu } else { inner.mtu })?;
    // Also for what is left to the slow path now.
    count::peer(index, Direction::Rx, bytes);
    let front = make_room::<N>(ctx, inner.kind, vtep.flags & VTEP_CHECKSUM != 0)?;
    write_headers::<N>(ctx, &front, vtep, inner, bytes)?;

    // SAFETY: plain helper calls; the parameters live on the stack for the call.
    let action = unsafe {
        if vtep.flags & VTEP_RESOLVED != 0 {
            bpf_redirect(vtep.ifindex, 0)
        } else {
            let mut next_hop: bpf_redir_neigh = core::mem::zeroed();
            if N == OUTER_LEN_V6 {
                next_hop.nh_family = AF_INET6;
                next_hop.__bindgen_anon_1.ipv6_nh =
                    core::mem::transmute::<[u8; 16], [u32; 4]>(vtep.next_hop.0);
            } else {
                next_hop.nh_family = AF_INET;
                let [.., a, b, c, d] = vtep.next_hop.0;
                next_hop.__bindgen_anon_1.ipv4_nh = u32::from_ne_bytes([a, b, c, d]);
            }
            bpf_redirect_neigh(vtep.ifindex, &raw mut next_hop, size_of::<bpf_redir_neigh>() as i32, 0)
        }
    };
    Ok(Verdict { outcome: Outcome::Encapsulated, action: action as i32 })
}

/// Sends a copy of the frame to each of the network's VTEPs (RFC 7348 section 4.2 has
/// multicast for this; head-end replication needs none in the underlay). Over IPv4 only: a second such
/// loop would be too much for the verifier, so over IPv6 `networks` counts more VTEPs than there may be.
#[inline(always)]
pub fn to_all(ctx: &TcContext, inner: Inner, network: &Network) -> Step<()> {
    let count = network.flood_vteps;
    if count > MAX_FLOOD_VTEPS {
        return Err(Outcome::SlowFanout);
    }
    let bytes = ctx.len();
    check_size::<OUTER_LEN>(ctx, inner.kind, network.flood_mtu)?;
    let front = make_room::<OUTER_LEN>(ctx, inner.kind, false)?;
    for slot in 0..MAX_FLOOD_VTEPS {
        if slot >= count {
            break;
        }
        // SAFETY: the value is copied at once.
        let Some(index) = (unsafe { maps::flood_vteps.get(FloodKey { vni: inner.vni, slot }).copied() })
        else {
            continue;
        };
        let Some(vtep) = maps::vteps.get(index).filter(|vtep| vtep.flags & VTEP_V6 == 0) else { continue };
        write_headers::<OUTER_LEN>(ctx, &front, vtep, inner, bytes)?;
        if ctx.clone_redirect(vtep.ifindex, 0).is_ok() {
            count::peer(index, Direction::Rx, bytes);
        }
    }
    Ok(())
}

/// Refuses what is larger than `mtu`, judged by the segment, not the super-packet.
#[inline(always)]
fn check_size<const N: usize>(ctx: &TcContext, kind: Kind, mtu: u32) -> Step<()> {
    // What is added to the inner frame's length in the outer IP packet.
    let extra = (N - ETH_LEN) as u32;
    // SAFETY: fields of the context.
    let (segment, tagged) = unsafe { ((*ctx.skb.skb).gso_size, (*ctx.skb.skb).vlan_present != 0) };
    let mut len =
        if segment == 0 { ctx.len() - ETH_LEN as u32 } else { segment + segment_headers(ctx, kind) };
    if tagged {
        len += TAG_LEN;
    }
    if len > mtu {
        return Err(Outcome::TooBig);
    }
    if ctx.len() + extra > u32::from(u16::MAX) {
        return Err(Outcome::SlowTooLong);
    }
    Ok(())
}

/// What each segment of a super-packet carries in front of its payload, as far as that can be read.
#[inline(always)]
fn segment_headers(ctx: &TcContext, kind: Kind) -> u32 {
    let network = match kind {
        Kind::Ipv4 => packet::at::<Ipv4Hdr>(ctx, ETH_LEN).map(|ip| (u32::from(ip.vihl & 0xf) * 4, ip.proto)),
        Kind::Ipv6 => packet::at::<Ipv6Hdr>(ctx, ETH_LEN).map(|ip| (IPV6_LEN as u32, ip.next_hdr)),
        _ => None,
    };
    let Some((len, proto)) = network else { return LEAST_SEGMENT_HEADERS };
    if proto != PROTO_TCP {
        return len + UDP_LEN as u32;
    }
    // The data offset (RFC 9293, section 3.1).
    let offset =
        packet::at_computed::<[u8; 2]>(ctx, ETH_LEN + len as usize + 12).map_or(5, |bytes| bytes[0] >> 4);
    len + u32::from(offset) * 4
}

/// Makes room behind the Ethernet header, after it took what the outer headers need from the inner
/// ones. An error leaves the packet untouched, for the slow path.
#[inline(always)]
fn make_room<const N: usize>(ctx: &TcContext, kind: Kind, checksum: bool) -> Step<Front> {
    match kind {
        Kind::Ipv4 | Kind::Ipv6 => {}
        Kind::Tagged => return Err(Outcome::SlowVlan),
        Kind::Arp | Kind::Other => return Err(Outcome::SlowNotIp),
    }
    let over_ipv6 = N == OUTER_LEN_V6;
    let inner_eth = *packet::at::<[u8; ETH_LEN]>(ctx, 0).ok_or(Outcome::Truncated)?;
    let inner_sum = if over_ipv6 && checksum { u32::from(sum(ctx, &inner_eth, kind)?) } else { NO_SUM };
    let hash = hash(ctx, kind)?;
    let family = if over_ipv6 { BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 } else { BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 };
    let flags = FLAGS | u64::from(family);
    ctx.adjust_room(N as i32, BPF_ADJ_ROOM_MAC, flags)
        // Before Linux 5.13, which then segments in software.
        .or_else(|_| ctx.adjust_room(N as i32, BPF_ADJ_ROOM_MAC, flags & !L2_ETH))
        .map_err(|_| Outcome::SlowEncapsulated)?;
    Ok(Front { inner_eth, source_port: source_port::of_hash(hash), inner_sum })
}

/// The hash of the frame's flow: the socket's or the card's, if the frame has one. One of our own costs a
/// sixth of what the kernel's flow dissector does; it is left with the packet for whoever chooses a
/// transmit queue.
#[inline(always)]
fn hash(ctx: &TcContext, kind: Kind) -> Step<u32> {
    // SAFETY: a field of the context.
    let known = unsafe { (*ctx.skb.skb).hash };
    if known != 0 {
        return Ok(known);
    }
    let hash = flow::hash(ctx, kind)?;
    // SAFETY: plain helper call, which does not fail.
    unsafe { bpf_set_hash(ctx.skb.skb, hash) };
    Ok(hash)
}

/// The sum of the frame for the outer checksum. The segments of a super-packet need one each: the
/// kernel computes it for those that its own device makes (`SKB_GSO_UDP_TUNNEL_CSUM`), which no
/// program can ask for.
#[inline(always)]
fn sum(ctx: &TcContext, eth: &[u8; ETH_LEN], kind: Kind) -> Step<u16> {
    let udp = |offset| packet::at_computed::<UdpHdr>(ctx, ETH_LEN + offset);
    // SAFETY: a field of the context.
    let sum = if unsafe { (*ctx.skb.skb).gso_size } != 0 {
        None
    } else if matches!(kind, Kind::Ipv4) {
        packet::at::<Ipv4Hdr>(ctx, ETH_LEN).and_then(|ip| inner_sum::of_ipv4(eth, ip, ctx.len(), udp))
    } else {
        packet::at::<Ipv6Hdr>(ctx, ETH_LEN).and_then(|ip| inner_sum::of_ipv6(eth, ip, ctx.len(), udp))
    };
    sum.ok_or(Outcome::SlowChecksum)
}

#[inline(always)]
fn write_headers<const N: usize>(
    ctx: &TcContext,
    front: &Front,
    vtep: &Vtep,
    inner: Inner,
    bytes: u32,
) -> Step<()> {
    let Front { inner_eth, source_port, inner_sum } = *front;
    let mut headers = Headers::<N> { outer: *vtep.header.first_chunk().ok_or(Outcome::NoRoute)?, inner_eth };
    let fields = Fields {
        inner_len: bytes as u16,
        tos: inner.tos,
        source_port,
        vni: inner.vni,
        inner_sum: if inner_sum == NO_SUM { None } else { Some(inner_sum as u16) },
    };
    encap::fill(&mut headers.outer, fields);
    ctx.store(0, &headers, 0).map_err(|_| Outcome::HelperFailed)
}
