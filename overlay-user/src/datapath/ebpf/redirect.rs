//! Frames that XDP redirected and the other interface did not take. The program has counted them as
//! delivered by then: only the interface's statistics tell.

use overlay_ebpf::abi::{ENDPOINT_PORT, ENDPOINT_REDIRECT, Hook, Outcome};

use super::tables::Tables;
use crate::{
    datapath::{Count, Counters, DatapathError},
    netlink::{self, Connection},
};

/// Moves what endpoints' interfaces that take redirects dropped from `delivered` to `redirect_lost`. Its bytes are not
/// known.
///
/// # Errors
/// If the kernel does not hand the statistics out.
pub async fn count_lost(
    kernel: &Connection,
    tables: &Tables,
    counters: &mut Counters,
) -> Result<(), DatapathError> {
    let mut lost = 0;
    let endpoints = tables.endpoints.rows().values();
    let redirected = endpoints.filter(|e| e.flags & (ENDPOINT_REDIRECT | ENDPOINT_PORT) == ENDPOINT_REDIRECT);
    for ifindex in redirected.map(|endpoint| endpoint.ifindex) {
        let link = netlink::link_at(kernel, ifindex).await.map_err(|cause| DatapathError::Io {
            what: format!("cannot read the statistics of interface {ifindex}"),
            cause,
        })?;
        lost += link.map_or(0, |link| link.stats.tx_dropped);
    }
    let uplink = counters.outcomes.entry(Hook::Uplink.name().to_owned()).or_default();
    if lost > 0
        && let Some(delivered) = uplink.get_mut(Outcome::Delivered.name())
    {
        delivered.packets = delivered.packets.saturating_sub(lost);
        uplink.insert(Outcome::RedirectLost.name().to_owned(), Count { packets: lost, bytes: 0 });
    }
    Ok(())
}
