//! From one plan to the next: what did not change in the state is not looked at again.

use std::collections::{BTreeMap, BTreeSet};

use imbl::{OrdMap, OrdSet, ordmap::DiffItem};

use super::{Network, Plan, Port, Vtep};
use crate::state::{self, NetworkName, NodeName, Segment, State};

/// Computes a node's plans. What it remembers makes them cheaper and never different.
#[derive(Clone, Debug)]
pub struct Planner {
    node: NodeName,
    /// The last state and its plan.
    last: (State, Plan),
}

// === impl Planner ===

impl Planner {
    /// Computes plans for `node`.
    #[must_use]
    pub fn new(node: NodeName) -> Self {
        Self { node, last: Default::default() }
    }

    /// What the node must forward by `state`.
    pub fn plan(&mut self, state: &State) -> Plan {
        let plan = self.next(state);
        self.last = (state.clone(), plan.clone());
        plan
    }

    fn next(&self, state: &State) -> Plan {
        let (old, before) = &self.last;
        let same_nodes = old.nodes.ptr_eq(&state.nodes);
        let protected = if same_nodes {
            before.protected.clone()
        } else {
            state.nodes.values().map(|node| node.vtep).collect()
        };
        let mut networks = BTreeMap::new();
        if state.nodes.contains_key(&self.node) {
            for (name, network) in &state.networks {
                if self.carries(state, name) {
                    networks.insert(network.vni, self.network(state, name, network));
                }
            }
        }
        let members = |networks: &BTreeMap<_, Network>| {
            networks.iter().map(|(vni, network)| (*vni, network.members.clone())).collect::<Vec<_>>()
        };
        let vteps = if same_nodes && members(&networks) == members(&before.networks) {
            before.vteps.clone()
        } else {
            vteps(state, &networks)
        };
        Plan { vteps, networks, protected }
    }

    /// A node carries the networks it has endpoints or ports in.
    fn carries(&self, state: &State, name: &NetworkName) -> bool {
        state.endpoints.segment(name).is_some_and(|segment| segment.nodes().contains_key(&self.node))
            || state.ports_of(name).any(|(_, port)| port.node == self.node)
    }

    fn network(&self, state: &State, name: &NetworkName, network: &state::Network) -> Network {
        let (old, before) = &self.last;
        let before = before.networks.get(&network.vni).filter(|before| before.name == *name);
        let nobody = Segment::default();
        let segment = state.endpoints.segment(name).unwrap_or(&nobody);
        let old_segment = old.endpoints.segment(name).unwrap_or(&nobody);
        let mut next = Network::new(name.clone(), self.node.clone(), network.mtu, network.policy);
        next.stations = segment.endpoints().clone();
        let is_local = |endpoint: &state::Endpoint| endpoint.node == self.node;
        next.local = match before {
            Some(before) => {
                let mut local = before.local.clone();
                for item in old_segment.endpoints().diff(segment.endpoints()) {
                    if let DiffItem::Remove(mac, _) | DiffItem::Update { old: (mac, _), .. } = item {
                        local.remove(mac);
                    }
                    if let DiffItem::Add(mac, new) | DiffItem::Update { new: (mac, new), .. } = item
                        && is_local(new)
                    {
                        local.insert(*mac, new.clone());
                    }
                }
                local
            }
            None => segment
                .endpoints()
                .iter()
                .filter(|(_, e)| is_local(e))
                .map(|(m, e)| (*m, e.clone()))
                .collect(),
        };
        next.learned = state.learned_of(name).map(|(mac, learned)| (mac, learned.clone())).collect();
        let others = self.add_ports(state, &mut next);
        next.members = match before {
            Some(before)
                if same_keys(old_segment.nodes(), segment.nodes()) && old.ports.ptr_eq(&state.ports) =>
            {
                before.members.clone()
            }
            _ => {
                let nodes = segment.nodes().keys().filter(|node| **node != self.node).cloned();
                nodes.chain(others).collect()
            }
        };
        next
    }

    /// Adds the gateway ports of a network that are here. Returns the other nodes that have some: these are
    /// in the network whether or not they have endpoints.
    fn add_ports(&self, state: &State, network: &mut Network) -> BTreeSet<NodeName> {
        let mut others = BTreeSet::new();
        for (id, port) in state.ports_of(&network.name) {
            network.has_ports = true;
            if port.node == self.node {
                let learned = network.learned.values().filter(|learned| learned.port == *id).count();
                let full = learned >= port.max_macs as usize;
                let port = Port { device: port.device.clone(), datapath: port.datapath, full };
                network.ports.insert(id.clone(), port);
            } else {
                others.insert(port.node.clone());
            }
        }
        others
    }
}

/// The nodes that are members of networks, with their tunnel addresses.
fn vteps(state: &State, networks: &BTreeMap<crate::Vni, Network>) -> OrdMap<NodeName, Vtep> {
    let all: OrdSet<&NodeName> = networks.values().flat_map(|network| &network.members).collect();
    let vtep = |node: &NodeName| Some((node.clone(), Vtep { addr: state.nodes.get(node)?.vtep }));
    all.into_iter().filter_map(vtep).collect()
}

fn same_keys<V: PartialEq>(old: &OrdMap<NodeName, V>, new: &OrdMap<NodeName, V>) -> bool {
    old.diff(new).all(|item| matches!(item, DiffItem::Update { .. }))
}
