//! Token buckets in maps.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use overlay_ebpf::{abi::Bucket, wire::bucket};

/// Takes a token, if there is one. CPUs that do so at the same moment may take the same one, so that as
/// many times the rate as there are CPUs is the most that ever passes: a lock would cost more than it saves.
#[inline(always)]
pub fn take(row: *mut Bucket, rate: u32) -> bool {
    // SAFETY: plain helper call.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: a row of a map, which other CPUs may write too: both words are read and written whole, and
    // any mixture of them is a bucket.
    unsafe {
        if let Some(fuller) = bucket::refilled(*row, now, rate) {
            *row = fuller;
        }
        if (*row).tokens <= 0 {
            return false;
        }
        (*row).tokens -= 1;
    }
    true
}
