//! Counters of the kernel data path: outcomes and peers from the guard's named counters, endpoints
//! from their interfaces.

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    super::{Count, Counters, Traffic},
    guard::{Peer, outcome_of, peer_of},
};
use crate::{
    netlink::Link,
    state::{EndpointId, NodeName},
};

/// Sorts `named` (the guard's counters), the interfaces' own counters and the nodes' names into
/// what `status` shows.
pub(super) fn collect(
    named: &BTreeMap<String, Count>,
    links: &[Link],
    peers: &BTreeMap<IpAddr, NodeName>,
) -> Counters {
    let mut counters = Counters::default();
    for (name, count) in named.iter().filter(|(_, count)| count.packets != 0) {
        if let Some((hook, outcome)) = outcome_of(name) {
            counters.outcomes.entry(hook.into()).or_default().insert(outcome.into(), *count);
        } else if let Some((peer, addr)) = peer_of(name)
            && let Some(node) = peers.get(&addr)
        {
            let traffic = counters.peers.entry(node.clone()).or_default();
            match peer {
                Peer::To => traffic.rx = *count,
                Peer::From => traffic.tx = *count,
            }
        }
    }
    counters.endpoints = links.iter().filter_map(endpoint).collect();
    counters
}

/// Traffic of the endpoint behind a host side interface, whose directions are the other way round.
fn endpoint(link: &Link) -> Option<(EndpointId, Traffic)> {
    let id: EndpointId = link.name.strip_prefix("ov")?.parse().ok()?;
    let stats = &link.stats;
    let rx = Count { packets: stats.tx_packets, bytes: stats.tx_bytes };
    let tx = Count { packets: stats.rx_packets, bytes: stats.rx_bytes };
    Some((id, Traffic { rx, tx }))
}
