//! What the loader found out about the kernel. To the verifier these are constants: what they rule out
//! it does not look at, so that a helper the kernel has not may stand there.

/// XDP programs see packets of several buffers (Linux 5.18).
#[unsafe(no_mangle)]
static XDP_FRAGS: u8 = 1;

/// Whether XDP programs see packets of several buffers.
#[inline(always)]
pub fn xdp_frags() -> bool {
    // SAFETY: a static of this object. Volatile, for the compiler must not believe the initial value.
    unsafe { core::ptr::read_volatile(&raw const XDP_FRAGS) != 0 }
}
