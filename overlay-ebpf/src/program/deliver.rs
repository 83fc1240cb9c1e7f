//! The last step on this node: into the endpoint's namespace, or out of a gateway port.

use aya_ebpf::{
    bindings::TC_ACT_SHOT,
    helpers::generated::{bpf_redirect, bpf_redirect_peer, bpf_skb_change_type},
    programs::TcContext,
};
use overlay_ebpf::abi::{ENDPOINT_PORT, FloodKey, MAX_FLOOD_PORTS};

use super::{
    bound,
    count::{self, Direction},
    maps,
};

const PACKET_HOST: u32 = 0;

/// Puts the packet on the far side of the endpoint's interface, without a queue in between
/// (Linux 5.10); or out of a gateway port, if it is behind one. `flags` are those of its row.
#[inline(always)]
pub fn to_endpoint(ctx: &TcContext, ifindex: u32, flags: u16) -> i32 {
    if flags & ENDPOINT_PORT != 0 {
        // SAFETY: plain helper call.
        return unsafe { bpf_redirect(ifindex, 0) as i32 };
    }
    // SAFETY: the context is the one the kernel called the program with. The packet's type must be
    // set by us before Linux 6.15; later kernels set it again.
    unsafe {
        bpf_skb_change_type(ctx.skb.skb, PACKET_HOST);
        bpf_redirect_peer(ifindex, 0) as i32
    }
}

/// Copies the packet to every endpoint of the network on this node but `except`.
#[inline(always)]
pub fn to_all(ctx: &TcContext, vni: u32, count: u32, except: u32) {
    for slot in 0..MAX_FLOOD_PORTS {
        if slot >= count {
            break;
        }
        // SAFETY: the value is copied at once.
        let Some(ifindex) = (unsafe { maps::flood_ports.get(FloodKey { vni, slot }).copied() }) else {
            continue;
        };
        // A copy that fails is the target's loss alone (its device is going away).
        if ifindex != except
            && ctx.clone_redirect(ifindex, 0).is_ok()
            && let Some(port) = bound(ifindex)
        {
            count::endpoint(port.slot, Direction::Rx, ctx.len());
        }
    }
}

/// What ends a packet whose copies are on their way.
pub const DONE: i32 = TC_ACT_SHOT;
