//! What the kernel can do, asked by doing it in a test run.

use aya_ebpf::{
    bindings::{
        BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET, TC_ACT_OK, TC_ACT_SHOT,
        bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    programs::TcContext,
};
use overlay_ebpf::abi::{DECAP_L4_UDP, OUTER_LEN};

/// `TC_ACT_OK` if the kernel strips the packet with [`DECAP_L4_UDP`], else `TC_ACT_SHOT`.
#[inline(always)]
pub fn decap(ctx: &TcContext) -> i32 {
    let flags = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET) | DECAP_L4_UDP;
    let stripped = ctx.adjust_room(-(OUTER_LEN as i32), BPF_ADJ_ROOM_MAC, flags);
    if stripped.is_ok() { TC_ACT_OK } else { TC_ACT_SHOT }
}
