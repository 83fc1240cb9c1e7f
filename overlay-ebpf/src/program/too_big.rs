//! A packet that is too large for its path is turned into the ICMP error about it, and sent back.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    helpers::generated::{bpf_redirect, bpf_skb_change_tail, bpf_skb_load_bytes},
    programs::TcContext,
};
use overlay_ebpf::{
    abi::{Outcome, Port},
    wire::{
        ETH_LEN,
        ethernet::Ethernet,
        icmp::{self, LEN_V4, LEN_V6, QUOTED},
        inner,
    },
};

use super::{Step, Verdict, bucket, config, fdb, maps, packet};

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
    let kind = inner::kind(&eth).map_err(|_| Outcome::TooBig)?;
    let quoted = quote(ctx)?;
    let answers = match kind {
        inner::Kind::Ipv4 => icmp::answers_v4(&quoted.0),
        inner::Kind::Ipv6 => icmp::answers_v6(&quoted.0),
        _ => false,
    };
    if !answers || !is_due(port) {
        return Err(Outcome::TooBig);
    }
    if matches!(kind, inner::Kind::Ipv4) {
        let frame = resized::<LEN_V4>(ctx, &quoted)?;
        icmp::fragmentation_needed(frame, eth.source, eth.destination, mtu);
    } else {
        let frame = resized::<LEN_V6>(ctx, &quoted)?;
        icmp::packet_too_big(frame, eth.source, eth.destination, mtu);
    }
    // SAFETY: plain helper call: back out of the interface it came from.
    let action = unsafe { bpf_redirect(ifindex, 0) } as i32;
    Ok(Verdict { outcome: Outcome::TooBigAnswered, action })
}

/// The beginning of a packet, aligned so that it is copied by words.
#[repr(C, align(8))]
struct Quote([u8; QUOTED]);

/// The largest inner packet that reaches the frame's destination.
#[inline(always)]
fn path_mtu(port: &Port, eth: &Ethernet) -> Step<u16> {
    let config = config().ok_or(Outcome::TooBig)?;
    let entry = fdb::find(config, port.vni, eth.destination).ok_or(Outcome::TooBig)?;
    let vtep = entry.vtep().and_then(|index| maps::vteps.get(index)).ok_or(Outcome::TooBig)?;
    let mtu = vtep.mtu as u16;
    Ok(if mtu < port.mtu { mtu } else { port.mtu })
}

#[inline(always)]
fn quote(ctx: &TcContext) -> Step<Quote> {
    // Not zeroed before: that would be a call, whose stack frame this function has no room for.
    let mut quote = MaybeUninit::<Quote>::uninit();
    // SAFETY: the buffer has `QUOTED` bytes.
    let copied = unsafe {
        bpf_skb_load_bytes(ctx.skb.skb.cast(), ETH_LEN as u32, quote.as_mut_ptr().cast(), QUOTED as u32)
    };
    // SAFETY: the helper wrote all of it (net/core/filter.c, `bpf_skb_load_bytes`).
    if copied == 0 { Ok(unsafe { quote.assume_init() }) } else { Err(Outcome::TooBig) }
}

#[inline(always)]
fn is_due(port: &Port) -> bool {
    maps::too_big_buckets.get_ptr_mut(port.slot).is_some_and(|row| bucket::take(row, RATE))
}

/// Makes the packet an answer's, with what it quotes at its end and all before still to be written.
#[inline(always)]
#[expect(clippy::mut_from_ref, reason = "the packet is the kernel's; the context only points to it")]
fn resized<'a, const N: usize>(ctx: &'a TcContext, quote: &Quote) -> Step<&'a mut [u8; N]>
where
    [u8; N]: packet::Header,
{
    // A super-packet becomes one that is none by this (`__bpf_skb_change_tail`).
    // SAFETY: plain helper call.
    if unsafe { bpf_skb_change_tail(ctx.skb.skb, N as u32 + PULLED, 0) } != 0 {
        return Err(Outcome::TooBig);
    }
    ctx.adjust_room(-(PULLED as i32), BPF_ADJ_ROOM_MAC, 0).map_err(|_| Outcome::HelperFailed)?;
    ctx.pull_data(N as u32).map_err(|_| Outcome::HelperFailed)?;
    let frame = packet::at_mut::<[u8; N]>(ctx, 0).ok_or(Outcome::HelperFailed)?;
    *frame.last_chunk_mut().ok_or(Outcome::HelperFailed)? = quote.0;
    Ok(frame)
}
