//! Access to packet bytes: the one place that turns an offset into a reference.

use aya_ebpf::{
    helpers::generated::bpf_xdp_get_buff_len,
    programs::{TcContext, XdpContext},
};

use super::kernel;

/// Behind all that is ever read by a computed offset.
const FAR: usize = 0xfff;

/// A packet whose first bytes lie between two addresses.
pub trait Packet {
    /// Address of the first byte.
    fn start(&self) -> usize;
    /// Address behind the last byte that can be read directly.
    fn end(&self) -> usize;
    /// Length of the whole packet, in bytes.
    fn length(&self) -> u32;
}

impl Packet for TcContext {
    #[inline(always)]
    fn start(&self) -> usize {
        self.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.data_end()
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        self.len()
    }
}

impl Packet for XdpContext {
    #[inline(always)]
    fn start(&self) -> usize {
        self.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.data_end()
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        if !kernel::xdp_frags() {
            return (self.data_end() - self.data()) as u32;
        }
        // SAFETY: `ctx` is the context the kernel called the program with (Linux 5.18).
        unsafe { bpf_xdp_get_buff_len(self.ctx) as u32 }
    }
}

/// The header at `offset`, if the packet has that many directly readable bytes.
///
/// The reference must not outlive a change of the packet's length: take it anew after one.
#[inline(always)]
pub fn at<T: Header>(packet: &impl Packet, offset: usize) -> Option<&T> {
    let start = packet.start() + offset;
    if start + size_of::<T>() > packet.end() {
        return None;
    }
    // SAFETY: the bytes lie within the packet, and a `Header` has no alignment and no invalid values.
    Some(unsafe { &*(start as *const T) })
}

/// [`at`], for an offset that was computed some helper calls ago. The verifier of older kernels (5.10)
/// knows no more of a number that was kept on the stack meanwhile, and refuses to add it to a packet's
/// address unless it is compared again.
#[inline(always)]
pub fn at_computed<T: Header>(packet: &impl Packet, offset: usize) -> Option<&T> {
    // SAFETY: a local variable. Volatile, for the compiler knows the bound and would not compare.
    let offset = unsafe { core::ptr::read_volatile(&raw const offset) };
    if offset > FAR { None } else { at(packet, offset) }
}

/// [`at`], for writing.
#[inline(always)]
#[expect(clippy::mut_from_ref, reason = "the packet is the kernel's; the context only points to it")]
pub fn at_mut<T: Header>(packet: &impl Packet, offset: usize) -> Option<&mut T> {
    let start = packet.start() + offset;
    if start + size_of::<T>() > packet.end() {
        return None;
    }
    // SAFETY: as in `at`; the callers hold no other reference to the same header.
    Some(unsafe { &mut *(start as *mut T) })
}

/// Copies bytes as the compiler does not for more than a few: by words, and in place.
#[inline(always)]
pub fn copy_by_words<const N: usize>(from: &[u8; N], to: &mut [u8; N]) {
    let (words, rest) = from.as_chunks::<8>();
    let (to_words, to_rest) = to.as_chunks_mut::<8>();
    for (to, word) in to_words.iter_mut().zip(words) {
        *to = *word;
    }
    for (to, byte) in to_rest.iter_mut().zip(rest) {
        *to = *byte;
    }
}

/// Makes the first `wanted` bytes, or all there are, directly readable. References taken before are
/// void.
///
/// A super-packet's headers always are, and pulling one beyond its linear part has crashed kernels
/// (fraglist GSO, before 6.16).
#[inline(always)]
pub fn pull(ctx: &TcContext, wanted: u32) {
    let wanted = if ctx.len() < wanted { ctx.len() } else { wanted };
    // SAFETY: a field of the context.
    let segment = unsafe { (*ctx.skb.skb).gso_size };
    if ctx.data() + wanted as usize > ctx.data_end() && segment == 0 {
        // If it fails, the checks that follow see too short a packet.
        let _ = ctx.pull_data(wanted);
    }
}

/// Types that any bytes at any address are a value of.
///
/// # Safety
/// Alignment 1 and no invalid bit patterns.
pub unsafe trait Header: Copy {}

macro_rules! headers {
    ($($type:ty),+) => {$(
        const _: () = assert!(align_of::<$type>() == 1);
        // SAFETY: alignment asserted; made of integers and byte arrays.
        unsafe impl Header for $type {}
    )+};
}

headers! {
    overlay_ebpf::wire::ethernet::Ethernet,
    overlay_ebpf::wire::nd::Frame,
    network_types::ip::Ipv4Hdr,
    network_types::ip::Ipv6Hdr,
    network_types::udp::UdpHdr,
    network_types::vxlan::VxlanHdr,
    network_types::arp::ArpHdr,
    [u8; 2],
    [u8; 4],
    [u8; 8],
    [u8; 14],
    [u8; 16],
    [u8; 50],
    [u8; overlay_ebpf::wire::icmp::LEN_V4],
    [u8; overlay_ebpf::wire::icmp::LEN_V6]
}
