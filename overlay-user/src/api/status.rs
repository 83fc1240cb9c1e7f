//! How the node is, and whether that is well.

use std::sync::Arc;

use axum::{Json, extract::State as Shared};
use overlay_ebpf::abi::{Class, OUTCOMES};

use super::{
    Context, Counter, DatapathStatus, DnsStatus, DockerState, DockerStatus, Health, Liveness, Peer, Status,
    StoreState, StoreStatus, Uplink,
};
use crate::{
    daemon::Membership,
    datapath::{Counters, Underlay},
    dns::{Outcome, Resolver},
    docker::{EngineReport, Reach, View, engine::EngineVersion},
    plan::{self, Plan},
    state::{NodeName, RecordKey, State},
    store::{Followed, StoreHealth},
};

pub async fn show(Shared(context): Shared<Arc<Context>>) -> Json<Status> {
    let counters = context.counters().await;
    let state = context.state();
    let followed = context.followed.borrow().clone();
    let underlay = context.underlay.borrow().clone();
    let progress = context.progress.borrow().clone();
    let plan = plan::plan(&state, &context.node);

    let mut degraded = Vec::new();
    let store = store(&followed, progress.applied);
    if let Some(reason) = &store.reason {
        degraded.push(format!("etcd: {reason}"));
    }
    // Without the store nobody joins: said once is enough.
    if store.reason.is_none() {
        degraded.extend(not_in_cluster(&context.node, &context.membership.borrow(), &state));
    }
    degraded.extend(context.store.awaited().iter().map(not_republished));
    if let Some(error) = &progress.last_error {
        degraded.push(format!("the data path could not be brought up to date: {error}"));
    } else if progress.applied.is_none() {
        degraded.push("nothing is forwarded yet: no state was read".to_owned());
    }
    degraded.extend(progress.problems.iter().cloned());
    degraded.extend(context.docker.iter().flat_map(|docker| docker.report.borrow().severe()));
    let counters = counters.unwrap_or_else(|error| {
        degraded.push(error.to_string());
        Counters::default()
    });
    let peers = peers(&context, &state, &plan, &underlay, &counters);
    // To an address of the other family there is none, which is a problem of the data path's already.
    let unrouted =
        peers.iter().filter(|p| p.routed == Some(false) && p.address.is_ipv6() == underlay.addr.is_ipv6());
    degraded.extend(unrouted.map(|p| no_route(p, &underlay.name)));
    degraded.extend(context.dns.iter().flat_map(|resolver| resolver.problems()));
    degraded.dedup();

    let local =
        state.endpoints.by_node().filter(|(node, _)| **node == context.node).map(|(_, count)| count).sum();
    Json(Status {
        health: if degraded.is_empty() { Health::Healthy } else { Health::Degraded },
        degraded,
        node: context.node.clone(),
        drained: state.nodes.get(&context.node).is_some_and(|node| node.drained),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster: context.cluster.clone(),
        uplink: Uplink {
            name: underlay.name,
            address: underlay.addr,
            driver: underlay.driver,
            mtu: underlay.mtu,
            port: underlay.port,
        },
        datapath: DatapathStatus {
            mode: context.mode,
            reason: context.reason.clone(),
            apply_ms: progress.took.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
            rows_changed: progress.changed,
        },
        store,
        networks: state.networks.len(),
        endpoints_local: local,
        endpoints_remote: state.endpoints.len() - local,
        peers,
        problems: progress.problems,
        docker: context.docker.as_ref().map(docker),
        rejected: (*state.rejected).clone(),
        rejected_more: state.rejected_more,
        dns: context.dns.as_deref().map(names),
        counters: outcomes(&counters),
    })
}

/// Why this node takes no part, if it does not.
fn not_in_cluster(node: &NodeName, membership: &Membership, state: &State) -> Option<String> {
    match membership {
        Membership::Joining(reason) => {
            let reason = reason.as_deref().unwrap_or("under way");
            Some(format!("this node is not in the cluster yet: {reason}"))
        }
        Membership::Joined(_) if state.nodes.contains_key(node) => None,
        Membership::Joined(_) => {
            let why = state.rejected.get(&RecordKey::of_node(node));
            let why = why.map_or("it was not read yet", String::as_str);
            Some(format!("this node's record is left out, so nothing is forwarded: {why}"))
        }
    }
}

fn store(followed: &Followed, applied: Option<i64>) -> StoreStatus {
    let (state, reason) = match &followed.health {
        StoreHealth::Connecting(None) => (StoreState::Connecting, Some("no answer yet".to_owned())),
        StoreHealth::Connecting(Some(reason)) => (StoreState::Connecting, Some(reason.clone())),
        StoreHealth::Synced => (StoreState::Synced, None),
        StoreHealth::Lost(reason) => (StoreState::Lost, Some(reason.clone())),
        StoreHealth::Frozen(reason) => (StoreState::Frozen, Some(reason.clone())),
    };
    StoreStatus { state, reason, revision: followed.state.revision, applied }
}

fn docker(view: &View) -> DockerStatus {
    let View { socket, plugin, report } = view;
    let EngineReport { reach, problems } = report.borrow().clone();
    let mut status = DockerStatus {
        socket: socket.clone(),
        plugin: plugin.clone(),
        state: DockerState::None,
        version: None,
        api: None,
        reason: None,
        away_seconds: None,
        problems: problems.into_iter().map(|problem| problem.text).collect(),
    };
    match reach {
        Reach::Never => {}
        Reach::Reached(EngineVersion { engine, api }) => {
            status.state = DockerState::Followed;
            (status.version, status.api) = (Some(engine), Some(api));
        }
        Reach::Away { since, why, lost: _ } => {
            status.state = DockerState::Away;
            (status.reason, status.away_seconds) = (Some(why), Some(since.elapsed().as_secs()));
        }
    }
    status
}

fn peers(
    context: &Context,
    state: &State,
    plan: &Plan,
    underlay: &Underlay,
    counters: &Counters,
) -> Vec<Peer> {
    let others = state.nodes.iter().filter(|(name, _)| **name != context.node);
    let peers = others.map(|(name, node)| Peer {
        name: name.clone(),
        address: node.vtep,
        datapath: node.datapath.clone(),
        state: context.liveness(state, name),
        drained: node.drained,
        routed: plan.vteps.contains_key(name).then(|| underlay.routes.contains_key(&node.vtep)),
        traffic: counters.peers.get(name).copied().unwrap_or_default(),
    });
    peers.collect()
}

fn names(resolver: &Resolver) -> DnsStatus {
    let figures = resolver.figures();
    DnsStatus {
        address: resolver.address(),
        containers: figures.sandboxes(),
        answered: figures.of(Outcome::Answered),
        forwarded: figures.of(Outcome::Forwarded),
        unanswered: figures.of(Outcome::Unanswered),
        refused: figures.of(Outcome::Refused),
    }
}

/// That a node has not written its records into a store that was lost.
pub fn not_republished(node: &NodeName) -> String {
    format!(
        "{node} has not written its records into the store since that was lost, so what was known of it before stands: \
         `overlayctl repair --republish` there, or, if it is gone for good, `overlayctl node rm {node}`"
    )
}

fn no_route(peer: &Peer, uplink: &str) -> String {
    let Peer { name, address, state, .. } = peer;
    let alive = if *state == Liveness::Alive { ", which is alive," } else { "" };
    format!("{name}{alive} cannot be reached: no route to {address} from {uplink} (`ip route get {address}`)")
}

/// The counters in the order of the hooks and of the outcomes' numbers. What a data path counts under
/// names of its own comes last.
fn outcomes(counters: &Counters) -> Vec<Counter> {
    let mut list = Vec::new();
    for (hook, outcomes) in &counters.outcomes {
        let known = OUTCOMES.iter().filter_map(|outcome| {
            let count = *outcomes.get(outcome.name())?;
            Some(Counter {
                hook: hook.clone(),
                outcome: outcome.name().to_owned(),
                class: class(outcome.class()).to_owned(),
                count,
                explanation: outcome.explanation().to_owned(),
            })
        });
        list.extend(known);
        let own = outcomes.iter().filter(|(name, _)| OUTCOMES.iter().all(|known| known.name() != *name));
        list.extend(own.map(|(name, count)| Counter {
            hook: hook.clone(),
            outcome: name.clone(),
            class: "other".to_owned(),
            count: *count,
            explanation: String::new(),
        }));
    }
    list
}

const fn class(class: Class) -> &'static str {
    match class {
        Class::Received => "received",
        Class::Forwarded => "forwarded",
        Class::Passed => "passed",
        Class::SlowPath => "slowpath",
        Class::Drop => "drop",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        datapath::Count,
        state::{RawRecord, RecordSet},
    };

    #[test]
    fn outcomes_come_in_the_order_of_a_packets_way_and_are_explained() {
        let count = |packets| Count { packets, bytes: packets * 100 };
        let uplink = BTreeMap::from([
            ("unknown_vtep".to_owned(), count(1)),
            ("received".to_owned(), count(3)),
            ("delivered".to_owned(), count(2)),
            ("br_own_drop".to_owned(), count(9)),
        ]);
        let outcomes = BTreeMap::from([("uplink".to_owned(), uplink)]);
        let listed = super::outcomes(&Counters { outcomes, ..Counters::default() });
        let shown: Vec<_> =
            listed.iter().map(|c| (c.outcome.as_str(), c.class.as_str(), c.count.packets)).collect();
        assert_eq!(
            shown,
            [
                ("received", "received", 3),
                ("delivered", "forwarded", 2),
                ("unknown_vtep", "drop", 1),
                ("br_own_drop", "other", 9)
            ]
        );
        assert_eq!(listed[2].explanation, "The outer source is not a VTEP of the network.");
    }

    #[test]
    fn a_node_whose_record_is_left_out_is_not_well() {
        let mut records = RecordSet::default();
        for (key, created) in [("nodes/n1", 2), ("nodes/n2", 1)] {
            let value = br#"{"vtep":"192.0.2.1","port":4789}"#;
            records.put(RawRecord { key: key.as_bytes(), value, create_revision: created });
        }
        let state = records.state(2);
        let says = |node: &str| not_in_cluster(&node.parse().unwrap(), &Membership::Joined(1), &state);
        assert_eq!(says("n2"), None);
        assert!(says("n1").unwrap().ends_with("the tunnel address 192.0.2.1 is node n2's"));
        assert!(says("n3").unwrap().ends_with("it was not read yet"));
    }

    #[test]
    fn a_store_that_is_not_synced_says_why() {
        let followed = |health| Followed { state: Arc::default(), health };
        assert_eq!(store(&followed(StoreHealth::Synced), Some(4)).reason, None);
        assert_eq!(
            store(&followed(StoreHealth::Connecting(None)), None).reason.as_deref(),
            Some("no answer yet")
        );
        let lost = store(&followed(StoreHealth::Lost("connection refused".into())), Some(4));
        assert_eq!((lost.state, lost.reason.as_deref()), (StoreState::Lost, Some("connection refused")));
    }
}
