//! A packet that is too large for its path is turned into the ICMP error about it, and sent back.

use aya_ebpf::{
    bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    helpers::generated::{bpf_redirect, bpf_skb_change_tail, bpf_skb_load_bytes},
    programs::TcContext,
};
use overlay_ebpf::{
    abi::{EndpointKey, Outcome, Port},
    wire::{
        ETH_LEN,
        ethernet::Ethernet,
        icmp::{self, LEN_V4, LEN_V6, QUOTED},
        inner,
    },
};

use super::{Step, Verdict, bucket, maps, packet};

/// Answers for one endpoint in a second, and at once.
const RATE: u32 = 100;

/// Bytes that are pulled off the front on the way, more than lie before the inner packet's ports: the
/// kernel then forgets where a checksum is still to be filled in (`skb_postpull_rcsum`), which would
/// now be in the middle of what the error quotes.
const PULLED: u32 = 128;

/// Answers the packet, if it may be.
///
/// # Errors
/// [`Outcome::TooBig`] for what gets no answer.
#[inline(never)]
pub fn answer(ctx: &TcContext, port: &Port, ifindex: u32) -> Step<Verdict> {
    // SAFETY: a field of the context.
    if unsafe { (*ctx.skb.skb).vlan_present } != 0 {
        return Err(Outcome::TooBig);
    }
    let eth = *packet::at::<Ethernet>(ctx, 0).ok_or(Outcome::TooBig)?;
    let mtu = path_mtu(port, &eth)?;
    match inner::kind(&eth).map_err(|_| Outcome::TooBig)? {
        inner::Kind::Ipv4 => {
            let mut frame = [0; LEN_V4];
            if !icmp::answers_v4(quote(ctx, &mut frame)?) || !is_due(port) {
                return Err(Outcome::TooBig);
            }
            icmp::fragmentation_needed(&mut frame, eth.source, eth.destination, mtu);
            reply(ctx, &frame, ifindex)
        }
        inner::Kind::Ipv6 => {
            let mut frame = [0; LEN_V6];
            if !icmp::answers_v6(quote(ctx, &mut frame)?) || !is_due(port) {
                return Err(Outcome::TooBig);
            }
            icmp::packet_too_big(&mut frame, eth.source, eth.destination, mtu);
            reply(ctx, &frame, ifindex)
        }
        _ => Err(Outcome::TooBig),
    }
}

/// The largest inner packet that reaches the frame's destination.
#[inline(always)]
fn path_mtu(port: &Port, eth: &Ethernet) -> Step<u16> {
    // SAFETY: read at once.
    let index = unsafe { maps::endpoints.get(EndpointKey::new(port.vni, eth.destination)).map(|e| e.vtep) };
    let vtep = index.and_then(|index| maps::vteps.get(index)).ok_or(Outcome::TooBig)?;
    let mtu = vtep.mtu as u16;
    Ok(if mtu < port.mtu { mtu } else { port.mtu })
}

/// Copies the beginning of the packet to the end of the answer.
#[inline(always)]
fn quote<'a, const N: usize>(ctx: &TcContext, frame: &'a mut [u8; N]) -> Step<&'a [u8; QUOTED]> {
    let end = frame.last_chunk_mut::<QUOTED>().ok_or(Outcome::TooBig)?;
    // SAFETY: the buffer has `QUOTED` bytes.
    let copied = unsafe {
        bpf_skb_load_bytes(ctx.skb.skb.cast(), ETH_LEN as u32, end.as_mut_ptr().cast(), QUOTED as u32)
    };
    if copied == 0 { Ok(end) } else { Err(Outcome::TooBig) }
}

#[inline(always)]
fn is_due(port: &Port) -> bool {
    maps::too_big_buckets.get_ptr_mut(port.slot).is_some_and(|row| bucket::take(row, RATE))
}

/// Puts the answer in the packet's place and sends it back.
#[inline(always)]
fn reply<const N: usize>(ctx: &TcContext, frame: &[u8; N], ifindex: u32) -> Step<Verdict> {
    // A super-packet becomes one that is none by this (`__bpf_skb_change_tail`).
    // SAFETY: plain helper call.
    if unsafe { bpf_skb_change_tail(ctx.skb.skb, N as u32 + PULLED, 0) } != 0 {
        return Err(Outcome::TooBig);
    }
    ctx.adjust_room(-(PULLED as i32), BPF_ADJ_ROOM_MAC, 0).map_err(|_| Outcome::HelperFailed)?;
    ctx.store(0, frame, 0).map_err(|_| Outcome::HelperFailed)?;
    // SAFETY: plain helper call: back out of the interface it came from.
    let action = unsafe { bpf_redirect(ifindex, 0) } as i32;
    Ok(Verdict { outcome: Outcome::TooBigAnswered, action })
}
