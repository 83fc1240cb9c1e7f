//! Answers in place of the endpoint that is asked for: back out of the interface the question came
//! from, so that nothing is flooded for it.

use aya_ebpf::{
    helpers::generated::{bpf_redirect, bpf_skb_change_tail},
    programs::TcContext,
};
use network_types::arp::ArpHdr;
use overlay_ebpf::{
    abi::{Addr, Outcome},
    wire::{ETH_LEN, arp, ethernet::Ethernet, nd},
};

use super::{
    Step, Verdict,
    claims::{self, Sender},
    packet,
};

const FRAME_LEN: u32 = size_of::<nd::Frame>() as u32;

/// Answers an ARP request.
#[inline(never)]
pub fn arp(ctx: &TcContext, asker: &Sender, ifindex: u32) -> Step<Verdict> {
    let wanted = packet::at::<ArpHdr>(ctx, ETH_LEN).ok_or(Outcome::Truncated)?.tpa;
    let mac = claims::neighbour(asker.vni, Addr::from_v4(wanted)).ok_or(Outcome::ArpUnknown)?;
    let eth = packet::at_mut::<Ethernet>(ctx, 0).ok_or(Outcome::Truncated)?;
    let arp = packet::at_mut::<ArpHdr>(ctx, ETH_LEN).ok_or(Outcome::Truncated)?;
    arp::reply(eth, arp, mac);
    Ok(back(ifindex, Outcome::ArpAnswered))
}

/// Answers a neighbour solicitation.
#[inline(never)]
pub fn nd(ctx: &TcContext, asker: &Sender, ifindex: u32) -> Step<Verdict> {
    let wanted = packet::at::<[u8; 16]>(ctx, nd::TARGET).ok_or(Outcome::Truncated)?;
    let mac = claims::neighbour6(asker.vni, *wanted).ok_or(Outcome::NdUnknown)?;
    // Without options, or with a longer one, the question has another length than the answer.
    // SAFETY: plain helper call.
    if ctx.len() != FRAME_LEN && unsafe { bpf_skb_change_tail(ctx.skb.skb, FRAME_LEN, 0) } != 0 {
        return Err(Outcome::HelperFailed);
    }
    let frame = packet::at_mut::<nd::Frame>(ctx, 0).ok_or(Outcome::HelperFailed)?;
    nd::reply(frame, mac);
    Ok(back(ifindex, Outcome::NdAnswered))
}

#[inline(always)]
fn back(ifindex: u32, outcome: Outcome) -> Verdict {
    // SAFETY: plain helper call.
    Verdict { outcome, action: unsafe { bpf_redirect(ifindex, 0) } as i32 }
}
