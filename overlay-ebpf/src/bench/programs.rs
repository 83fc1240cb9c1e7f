//! The benchmark's own BPF programs: a frame generator, counting sinks, and the contenders that are
//! made of programs. Built by `cargo xtask bench` alone; overlayd does not have them.

#![no_std]
#![no_main]
#![expect(
    missing_docs,
    reason = "the program macros put an undocumented function beside each documented one"
)]
#![expect(non_upper_case_globals, reason = "a map's name in the kernel is its static's name")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the helpers take and return C integers"
)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the program macros call entry points with the context itself"
)]

use aya_ebpf::{
    bindings::{
        BPF_F_ZERO_CSUM_TX, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_tunnel_key,
        xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS},
    },
    btf_maps::{Array, DevMap, HashMap, PerCpuArray},
    helpers::generated::{bpf_redirect, bpf_redirect_peer, bpf_skb_get_tunnel_key, bpf_skb_set_tunnel_key},
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};
use overlay_ebpf::{
    bench::{REWRITTEN, Stream, Tunnel, addr, mac},
    wire::source_port,
};

#[btf_map]
pub static stream: Array<Stream, 1> = Array::new();

/// Frames that reached a sink.
#[btf_map]
pub static arrived: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Where [`redirect`] sends everything.
#[btf_map]
pub static target: DevMap<1> = DevMap::new();

/// Cilium's way: this node's tunnel device.
#[btf_map]
pub static tunnel: Array<Tunnel, 1> = Array::new();

/// Cilium's way: the node of a remote endpoint's address, host order.
#[btf_map]
pub static remote: HashMap<[u8; 4], u32, 1024> = HashMap::new();

/// Cilium's way: the interface of a local endpoint's address.
#[btf_map]
pub static local: HashMap<[u8; 4], u32, 1024> = HashMap::new();

const ETHERTYPE: usize = 12;
const IPV4: u16 = 0x0800_u16.to_be();
const PROTOCOL: usize = 14 + 9;
const UDP: u8 = 17;
const DESTINATION: usize = 14 + 16;
/// Offset of the UDP source port of a frame.
const SOURCE_PORT: usize = 14 + 20;
const DESTINATION_PORT: usize = SOURCE_PORT + 2;
/// The discard service: where all of the generator's datagrams go.
const DISCARD: u16 = 9_u16.to_be();
const VXLAN: u16 = 4789_u16.to_be();
/// Offset of the inner frame in VXLAN.
const INNER: usize = 50;

// === generator ===

/// VXLAN of many flows.
#[xdp]
pub fn generate_in(ctx: XdpContext) -> u32 {
    generate(&ctx, |frame, flow, _| {
        let port = source_port::of_hash(flow << 18).to_be();
        frame.put(SOURCE_PORT, port)?;
        frame.put(INNER + SOURCE_PORT, (flow as u16 | 0x4000).to_be())
    })
}

/// Plain frames of many flows.
#[xdp]
pub fn generate_out(ctx: XdpContext) -> u32 {
    generate(&ctx, |frame, flow, _| frame.put(SOURCE_PORT, (flow as u16 | 0x4000).to_be()))
}

/// VXLAN from remote endpoints at random to local endpoints at random.
#[xdp]
pub fn generate_in_keys(ctx: XdpContext) -> u32 {
    generate(&ctx, |frame, flow, row| {
        frame.put(SOURCE_PORT, source_port::of_hash(flow << 18).to_be())?;
        let (to, from) = (random(row, row.local), row.local + random(row, row.endpoints));
        frame.put(INNER, mac(to))?;
        frame.put(INNER + 6, mac(from))?;
        frame.put(INNER + 14 + 12, addr(from))
    })
}

/// Plain frames to remote endpoints at random.
#[xdp]
pub fn generate_out_keys(ctx: XdpContext) -> u32 {
    generate(&ctx, |frame, flow, row| {
        let to = row.local + random(row, row.endpoints);
        frame.put(SOURCE_PORT, (flow as u16 | 0x4000).to_be())?;
        frame.put(0, mac(to))?;
        frame.put(DESTINATION, addr(to))
    })
}

/// The bytes of a frame, for writing.
struct Frame {
    start: usize,
    end: usize,
}

impl Frame {
    #[inline(always)]
    fn put<T>(&self, offset: usize, value: T) -> Option<()> {
        let start = self.start + offset;
        if start + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: within the packet, by the check.
        unsafe { (start as *mut T).write_unaligned(value) };
        Some(())
    }
}

#[inline(always)]
fn generate(ctx: &XdpContext, vary: impl Fn(&Frame, u32, &mut Stream) -> Option<()>) -> u32 {
    let Some(row) = stream.get_ptr_mut(0) else { return XDP_ABORTED };
    // SAFETY: the generator runs on one CPU.
    let row = unsafe { &mut *row };
    let flow = row.sent as u32 & (row.flows - 1);
    let frame = Frame { start: ctx.data(), end: ctx.data_end() };
    if frame.start + REWRITTEN > frame.end {
        return XDP_ABORTED;
    }
    for (i, word) in row.head.iter().enumerate() {
        // SAFETY: within the packet, by the check. The kernel lays a test run's frames out at multiples
        // of 8 (`struct xdp_page_head`, net/bpf/test_run.c).
        unsafe { *((frame.start + 8 * i) as *mut u64) = *word };
    }
    if vary(&frame, flow, row).is_none() {
        return XDP_ABORTED;
    }
    row.sent += 1;
    // SAFETY: plain helper call.
    unsafe { bpf_redirect(row.ifindex, 0) as u32 }
}

/// A number below `bound`, by Knuth's linear congruence.
#[inline(always)]
fn random(row: &mut Stream, bound: u32) -> u32 {
    row.random = row.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (((row.random >> 32) * u64::from(bound)) >> 32) as u32
}

// === sinks ===

/// Counts and drops what the generator made.
#[classifier]
pub fn sink(ctx: TcContext) -> i32 {
    if count(ctx.data(), ctx.data_end()) { TC_ACT_SHOT } else { TC_ACT_UNSPEC }
}

/// [`sink`] as an XDP program.
#[xdp]
pub fn sink_xdp(ctx: XdpContext) -> u32 {
    if count(ctx.data(), ctx.data_end()) { XDP_DROP } else { XDP_PASS }
}

/// Counts a frame of the generator, in VXLAN or without, and tells whether it was one.
#[inline(always)]
fn count(start: usize, end: usize) -> bool {
    let datagram = port(start, end, 0) == Some(DISCARD)
        || port(start, end, 0) == Some(VXLAN) && port(start, end, INNER) == Some(DISCARD);
    if datagram && let Some(row) = arrived.get_ptr_mut(0) {
        // SAFETY: a row of a per-CPU array, which no other CPU writes.
        unsafe { *row += 1 };
    }
    datagram
}

/// The UDP destination port of the frame at `offset`, in network order.
#[inline(always)]
fn port(start: usize, end: usize, offset: usize) -> Option<u16> {
    let frame = start + offset;
    if frame + DESTINATION_PORT + 2 > end {
        return None;
    }
    // SAFETY: within the packet, by the check.
    unsafe {
        let udp = *((frame + ETHERTYPE) as *const u16) == IPV4 && *((frame + PROTOCOL) as *const u8) == UDP;
        udp.then(|| *((frame + DESTINATION_PORT) as *const u16))
    }
}

// === contenders ===

/// The least XDP can do with a frame that it forwards.
#[xdp]
pub fn redirect(_ctx: XdpContext) -> u32 {
    target.redirect(0, 0).unwrap_or(XDP_ABORTED)
}

/// Does nothing: what it takes to run a program.
#[classifier]
pub fn nothing(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// [`nothing`] as an XDP program.
#[xdp]
pub fn nothing_xdp(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

/// Cilium's way out of a container: the tunnel's metadata onto the packet, and the packet to the device.
#[classifier]
pub fn cilium_out(ctx: TcContext) -> i32 {
    let Some(destination) = destination(&ctx) else { return TC_ACT_UNSPEC };
    // SAFETY: the value is copied at once.
    let Some(node) = (unsafe { remote.get(destination).copied() }) else { return TC_ACT_UNSPEC };
    let Some(device) = tunnel.get(0) else { return TC_ACT_UNSPEC };
    // SAFETY: plain helper calls; the key lives on the stack for the call.
    unsafe {
        let mut key: bpf_tunnel_key = core::mem::zeroed();
        key.tunnel_id = device.vni;
        key.__bindgen_anon_1.remote_ipv4 = node;
        key.tunnel_ttl = 64;
        let size = size_of::<bpf_tunnel_key>() as u32;
        if bpf_skb_set_tunnel_key(ctx.skb.skb, &raw mut key, size, u64::from(BPF_F_ZERO_CSUM_TX)) < 0 {
            return TC_ACT_SHOT;
        }
        bpf_redirect(device.ifindex, 0) as i32
    }
}

/// Cilium's way into a container: from the device, by the metadata of the tunnel.
#[classifier]
pub fn cilium_in(ctx: TcContext) -> i32 {
    let Some(destination) = destination(&ctx) else { return TC_ACT_UNSPEC };
    // SAFETY: plain helper calls; the key lives on the stack for the call, and the value is copied.
    unsafe {
        let mut key: bpf_tunnel_key = core::mem::zeroed();
        let size = size_of::<bpf_tunnel_key>() as u32;
        if bpf_skb_get_tunnel_key(ctx.skb.skb, &raw mut key, size, 0) < 0 {
            return TC_ACT_SHOT;
        }
        match (tunnel.get(0), local.get(destination).copied()) {
            (Some(device), Some(ifindex)) if device.vni == key.tunnel_id => {
                bpf_redirect_peer(ifindex, 0) as i32
            }
            _ => TC_ACT_SHOT,
        }
    }
}

/// The destination of an IPv4 packet.
#[inline(always)]
fn destination(ctx: &TcContext) -> Option<[u8; 4]> {
    let start = ctx.data();
    if start + DESTINATION + 4 > ctx.data_end() {
        return None;
    }
    // SAFETY: within the packet, by the check.
    unsafe {
        (*((start + ETHERTYPE) as *const u16) == IPV4).then(|| *((start + DESTINATION) as *const [u8; 4]))
    }
}

/// Several helpers are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Every path to a panic is removed by the compiler, or the verifier refuses the endless loop.
    loop {}
}
