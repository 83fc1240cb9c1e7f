//! The BPF programs. Entry points only: the steps are in [`program`], the layouts and header codecs
//! in the library beside it.

#![no_std]
#![no_main]
#![expect(
    missing_docs,
    reason = "the program macros put an undocumented function beside each documented one"
)]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "packet lengths and header sizes are small, and the helpers take and return C integers"
)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the program macros call entry points with the context itself"
)]

mod program;

use aya_ebpf::{
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};

/// tc ingress on the host side of an endpoint's interface: from a container.
#[classifier]
pub fn endpoint_in(ctx: TcContext) -> i32 {
    program::endpoint::run(&ctx)
}

/// tc ingress on the uplink: from the wire.
#[classifier]
pub fn uplink_in(ctx: TcContext) -> i32 {
    program::uplink::tc::run(&ctx)
}

/// XDP on the uplink: from the wire, before an skb exists.
#[xdp(frags)]
pub fn uplink_xdp(ctx: XdpContext) -> u32 {
    program::uplink::xdp::run(&ctx)
}

/// tc ingress on a network's kernel VXLAN device: from the wire, by the slow path.
#[classifier]
pub fn slowpath_in(ctx: TcContext) -> i32 {
    program::slowpath::run(&ctx)
}

/// XDP on a gateway port: from the hosts behind it, before an skb exists.
#[xdp(frags)]
pub fn port_xdp(ctx: XdpContext) -> u32 {
    program::port::xdp::run(&ctx)
}

/// tc ingress on a gateway port: from the hosts behind it, what XDP has left.
#[classifier]
pub fn port_in(ctx: TcContext) -> i32 {
    program::port::tc::run(&ctx)
}

/// On no interface: the daemon runs it once to learn what the kernel can do.
#[classifier]
pub fn probe_decap(ctx: TcContext) -> i32 {
    program::probe::decap(&ctx)
}

/// Several helpers are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Every path to a panic is removed by the compiler: what is left of one, the verifier refuses as
    // an endless loop.
    loop {}
}
