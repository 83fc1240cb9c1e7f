//! Whether a frame for everybody is let through: by the network's policy, then by its token bucket.

use overlay_ebpf::abi::{
    MacAddr, NETWORK_DROPS_BROADCAST, NETWORK_DROPS_MULTICAST, NETWORK_FLOODS_UNKNOWN, Network, Outcome,
};

use super::{Step, bucket, maps};

/// Whether the network's owner has frames to `destination`, which is no endpoint's, flooded.
///
/// # Errors
/// [`Outcome::BumPolicy`], or [`Outcome::UnknownDestination`] for a unicast address.
#[inline(always)]
pub fn allowed(network: &Network, destination: MacAddr) -> Step<()> {
    let has = |flag| network.flags & flag != 0;
    if destination.0 == MacAddr::BROADCAST.0 {
        if has(NETWORK_DROPS_BROADCAST) { Err(Outcome::BumPolicy) } else { Ok(()) }
    } else if destination.is_multicast() {
        if has(NETWORK_DROPS_MULTICAST) { Err(Outcome::BumPolicy) } else { Ok(()) }
    } else if has(NETWORK_FLOODS_UNKNOWN) {
        Ok(())
    } else {
        Err(Outcome::UnknownDestination)
    }
}

/// Takes a token from the network's bucket.
///
/// # Errors
/// [`Outcome::BumRate`] if there is none.
#[inline(always)]
pub fn within_rate(vni: u32, network: &Network) -> Step<()> {
    let row = maps::bum_buckets.get_ptr_mut(vni).ok_or(Outcome::BumRate)?;
    if bucket::take(row, network.bum_rate) { Ok(()) } else { Err(Outcome::BumRate) }
}
