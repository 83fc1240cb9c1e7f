//! From the wire: two ways in, one judgement ([`super::tunnel`]).

pub mod tc;
pub mod xdp;

use overlay_ebpf::abi::{Hook, Outcome};

use super::{
    count::{self, Direction},
    tunnel::Arrival,
};

/// Counts what is about to be delivered; returns its outcome. A broadcast is counted for each endpoint
/// as it is copied.
#[inline(always)]
fn arrived(arrival: &Arrival, frame_len: u32) -> Outcome {
    match arrival.target {
        Some(endpoint) => {
            count::endpoint(u32::from(endpoint.slot), Direction::Rx, frame_len);
            Outcome::Delivered
        }
        None => Outcome::Flooded,
    }
}

#[inline(always)]
fn count_both(outcome: Outcome, bytes: u32) {
    count::outcome(Hook::Uplink, Outcome::Received, bytes);
    count::outcome(Hook::Uplink, outcome, bytes);
}
