//! What the kernel can do, asked by doing it in a test run.

use aya_ebpf::{
    bindings::{
        BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET, TC_ACT_OK, TC_ACT_SHOT,
        bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    programs::TcContext,
};
use overlay_ebpf::abi::OUTER_LEN;

/// `TC_ACT_OK` if the kernel strips a packet with the flags in its mark, else `TC_ACT_SHOT`.
#[inline(always)]
pub fn decap(ctx: &TcContext) -> i32 {
    // SAFETY: a field of the context.
    let asked = unsafe { (*ctx.skb.skb).mark };
    let flags = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET | asked);
    let stripped = ctx.adjust_room(-(OUTER_LEN as i32), BPF_ADJ_ROOM_MAC, flags);
    if stripped.is_ok() { TC_ACT_OK } else { TC_ACT_SHOT }
}
