//! Counters: what became of every packet, and traffic by endpoint and by peer.

use overlay_ebpf::abi::{Hook, Outcome, Traffic};

use super::maps;

/// Which side of a [`Traffic`] row.
#[derive(Clone, Copy)]
pub enum Direction {
    /// To the endpoint or peer.
    Rx,
    /// From it.
    Tx,
}

/// Counts one packet of `bytes` under an outcome.
#[inline(always)]
pub fn outcome(hook: Hook, outcome: Outcome, bytes: u32) {
    add(maps::counters.get_ptr_mut(hook.counter(outcome)), Direction::Rx, bytes);
}

/// Counts one inner frame of the local endpoint with this slot.
#[inline(always)]
pub fn endpoint(slot: u32, direction: Direction, bytes: u32) {
    add(maps::endpoint_stats.get_ptr_mut(slot), direction, bytes);
}

/// Counts one inner frame to or from the node in this row of `vteps`.
#[inline(always)]
pub fn peer(vtep: u32, direction: Direction, bytes: u32) {
    add(maps::peer_stats.get_ptr_mut(vtep), direction, bytes);
}

#[inline(always)]
fn add(row: Option<*mut Traffic>, direction: Direction, bytes: u32) {
    let Some(row) = row else { return };
    // SAFETY: a row of a per-CPU array, which no other CPU writes; programs of one CPU do not
    // interrupt each other in softirq context.
    let row = unsafe { &mut *row };
    match direction {
        Direction::Rx => {
            row.rx_packets += 1;
            row.rx_bytes += u64::from(bytes);
        }
        Direction::Tx => {
            row.tx_packets += 1;
            row.tx_bytes += u64::from(bytes);
        }
    }
}
