//! What the benchmark's own programs (`programs.rs`) share with the benchmark.

/// Bytes of a frame that the generator writes anew each time: whatever forwards a frame may have
/// changed them. With an outer header they end behind the inner Ethernet header.
pub const REWRITTEN: usize = 64;

/// `stream`, one row: what the generator sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Stream {
    /// The first bytes of each frame.
    pub head: [u64; REWRITTEN / 8],
    /// The interface that sends it.
    pub ifindex: u32,
    /// How many flows; a power of two, at most 2^14.
    pub flows: u32,
    /// How many endpoints are chosen from at random.
    pub endpoints: u32,
    /// How many endpoints the receiving node has of its own.
    pub local: u32,
    /// How many frames were sent.
    pub sent: u64,
    /// State of the random numbers.
    pub random: u64,
}

// SAFETY: `#[repr(C)]` of integers without padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Stream {}

const _: () = assert!(size_of::<Stream>() == REWRITTEN + 4 * 4 + 2 * 8);

/// `peer`, one row: the one other node of the contender that is built as Cilium builds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Tunnel {
    /// The `external` VXLAN device.
    pub ifindex: u32,
    /// The network.
    pub vni: u32,
}

// SAFETY: `#[repr(C)]` of integers without padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Tunnel {}

/// The first four of the six bytes of the MAC address of endpoint `index` are these and its number
/// follows: no two numbers of up to 2^24 share one.
#[inline(always)]
#[must_use]
pub const fn mac(index: u32) -> [u8; 6] {
    let [a, b, c, d] = index.to_be_bytes();
    [0x02, 0x4b, a, b, c, d]
}

/// The IPv4 address of endpoint `index`, which is below 2^24.
#[inline(always)]
#[must_use]
pub const fn addr(index: u32) -> [u8; 4] {
    let [_, b, c, d] = index.to_be_bytes();
    [10, b, c, d]
}
