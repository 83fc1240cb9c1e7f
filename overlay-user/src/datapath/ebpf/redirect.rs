//! Endpoints that XDP redirects frames to. What their interfaces do not take the program has counted as
//! delivered by then: only the interfaces' statistics tell, or nothing does.

use std::collections::{BTreeMap, BTreeSet};

use overlay_ebpf::abi::{Hook, Outcome};

use crate::{
    datapath::{Count, Counters, DatapathError},
    netlink::{self, Connection, xdp_features},
    plan::Plan,
    state::{Delivery, EndpointId},
};

/// The endpoints among those with `devices` that are to get frames by redirect, with their interfaces.
pub fn asked(plan: &Plan, devices: &BTreeMap<EndpointId, u32>) -> BTreeMap<EndpointId, u32> {
    let endpoints = plan.networks.values().flat_map(|network| network.local.values());
    let asking = endpoints.filter(|endpoint| endpoint.delivery == Delivery::Xdp);
    asking.filter_map(|endpoint| Some((endpoint.id.clone(), *devices.get(&endpoint.id)?))).collect()
}

/// The interfaces among `asked` that take redirected frames; another is a problem to tell. Before Linux
/// 6.3 the kernel does not say, and all are taken to; so is one that is down, which a veth decides on when it
/// is set up (`veth_open`).
pub async fn taking(
    kernel: &Connection,
    asked: &BTreeMap<EndpointId, u32>,
    problems: &mut Vec<String>,
) -> BTreeSet<u32> {
    let mut taking = BTreeSet::new();
    for (id, ifindex) in asked {
        let up = netlink::link_at(kernel, *ifindex).await.is_ok_and(|link| link.is_some_and(|link| link.up));
        if up && xdp_features::takes_redirects(*ifindex) == Some(false) {
            problems.push(format!(
                "endpoint {id} takes no redirected frames, so they go by tc: turn GRO on in its container \
                 (`ethtool -K IFACE gro on`), or attach it without --deliver xdp"
            ));
        } else {
            taking.insert(*ifindex);
        }
    }
    taking
}

/// Moves what the interfaces in `asked` dropped from `delivered` to `redirect_lost`. Its bytes are not
/// known.
///
/// # Errors
/// If the kernel does not hand the statistics out.
pub async fn count_lost(
    kernel: &Connection,
    asked: &BTreeMap<EndpointId, u32>,
    counters: &mut Counters,
) -> Result<(), DatapathError> {
    let mut lost = 0;
    for ifindex in asked.values() {
        let link = netlink::link_at(kernel, *ifindex).await.map_err(|cause| DatapathError::Io {
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
