//! Which records that hold up by themselves stand beside the others.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    hash::Hash,
    sync::Arc,
};

use imbl::{OrdMap, ordmap::DiffItem};

use super::{Clash, Held, Judged, LeftOut, RecordSet, holdings::Change};
use crate::state::{
    Endpoint, EndpointId, InterfaceName, MOST_REJECTED, Network, NetworkName, Node, NodeName, RecordError,
    RecordKey, State, shown::shown_key,
};

// === impl RecordSet ===

impl RecordSet {
    pub(super) fn judge_networks(&mut self) {
        let Self { networks, state, left_out, .. } = self;
        let vni = |network: &Network| network.vni;
        let standing = &mut state.networks;
        first_stands(networks, standing, &mut left_out.networks, RecordKey::of_network, vni, Clash::Vni);
    }

    pub(super) fn judge_nodes(&mut self) {
        let Self { nodes, state, left_out, .. } = self;
        let vtep = |node: &Node| node.vtep;
        first_stands(nodes, &mut state.nodes, &mut left_out.nodes, RecordKey::of_node, vtep, Clash::Vtep);
    }

    /// Brings the state's endpoints up to their records, of which `changes` are known, and to the networks and
    /// nodes that stand now and stood `before`.
    pub(super) fn judge_endpoints(
        &mut self,
        changes: Vec<Change>,
        networks: &BTreeSet<NetworkName>,
        before: &(OrdMap<NetworkName, Network>, OrdMap<NodeName, Node>),
    ) -> Judged {
        let Self { state, endpoints, left_out, networks: records, bad, .. } = self;
        let State { networks: standing, nodes, endpoints: stand, .. } = state;
        let mut moved = networks.clone();
        moved.extend(before.0.diff(standing).map(|item| item_key(&item).clone()));
        let came_or_went = before.1.diff(nodes).filter(|item| !matches!(item, DiffItem::Update { .. }));
        let came_or_went: HashSet<NodeName> = came_or_went.map(|item| item_key(&item).clone()).collect();
        if !moved.is_empty() || !came_or_went.is_empty() {
            endpoints.review(|network, e| moved.contains(network) || came_or_went.contains(&e.node));
        }
        let fit = |network: &NetworkName, endpoint: &Endpoint| {
            let Some(standing) = standing.get(network) else {
                return Err(no_network(network, records, bad));
            };
            for &address in &endpoint.addresses {
                standing.check_address(address)?;
            }
            if nodes.contains_key(&endpoint.node) {
                Ok(())
            } else {
                Err(Clash::NoNode(endpoint.node.clone()))
            }
        };
        let mut judged = Judged::default();
        let mut take = |change| {
            judged.changed = true;
            match change {
                Change::Stands(network, endpoint) => stand.insert(&network, endpoint),
                Change::Falls(network, endpoint) => drop(stand.remove(&network, endpoint.mac)),
                Change::LeftOut(network, id, clash) => {
                    judged.left_out = true;
                    left_out.endpoints.insert((network, id), clash.to_string());
                }
                Change::Settled(network, id) => {
                    judged.left_out = true;
                    left_out.endpoints.remove(&(network, id));
                }
            }
        };
        changes.into_iter().for_each(&mut take);
        endpoints.judge(fit, take);
        judged
    }

    pub(super) fn judge_ports(&mut self) {
        let mut devices: HashMap<(&NodeName, &InterfaceName), &EndpointId> = HashMap::new();
        let mut identities: HashSet<&EndpointId> = HashSet::new();
        self.left_out.ports.clear();
        self.state.ports.clear();
        for ((network, id), port) in by_age(&self.ports) {
            let device = (&port.node, &port.device);
            let clash = if !self.state.networks.contains_key(network) {
                Some(no_network(network, &self.networks, &self.bad))
            } else if !self.state.nodes.contains_key(&port.node) {
                Some(Clash::NoNode(port.node.clone()))
            } else if self.endpoints.has_identity(id) || identities.contains(id) {
                Some(Clash::Identity(network.clone()))
            } else {
                let taken = devices.get(&device);
                taken.map(|&other| Clash::Device(port.device.clone(), port.node.clone(), other.clone()))
            };
            if let Some(clash) = clash {
                self.left_out.ports.insert(RecordKey::of_port(network, id), clash.to_string());
                continue;
            }
            devices.insert(device, id);
            identities.insert(id);
            self.state.ports.insert((network.clone(), id.clone()), port.clone());
        }
    }

    /// An endpoint's MAC address is never a port's, whoever came first: it was given, not heard.
    pub(super) fn judge_learned(&mut self) {
        let mut counts: HashMap<&EndpointId, u32> = HashMap::new();
        self.left_out.learned.clear();
        self.state.learned.clear();
        for (key @ (network, mac), learned) in by_age(&self.learned) {
            let port = self.state.ports.get(&(network.clone(), learned.port.clone()));
            let clash = match port.filter(|port| port.node == learned.node) {
                None => Clash::NoPort(learned.port.clone(), learned.node.clone()),
                Some(_) if self.state.endpoints.get(network, *mac).is_some() => Clash::Endpoints,
                Some(port) => {
                    let count = counts.entry(&learned.port).or_default();
                    if *count < port.max_macs {
                        *count += 1;
                        self.state.learned.insert(key.clone(), learned.clone());
                        continue;
                    }
                    Clash::PortFull(learned.port.clone(), port.max_macs)
                }
            };
            self.left_out.learned.insert(RecordKey::of_learned(network, *mac), clash.to_string());
        }
    }

    /// Names what is left out. Records of ours that clash come before what may be junk: there is not room
    /// for all.
    pub(super) fn name_rejected(&mut self) {
        let LeftOut { networks, nodes, endpoints, ports, learned } = &self.left_out;
        let ours = networks.len() + nodes.len() + endpoints.len() + ports.len() + learned.len();
        let owned = |(key, why): (&String, &String)| (key.clone(), why.clone());
        let rejected: BTreeMap<_, _> = (networks.iter().chain(nodes).map(owned))
            .chain(
                endpoints
                    .iter()
                    .map(|((network, id), why)| (RecordKey::of_endpoint(network, id), why.clone())),
            )
            .chain(ports.iter().chain(learned).map(owned))
            .chain(self.bad.iter().map(|(key, error)| (shown_key(key), error.to_string())))
            .take(MOST_REJECTED)
            .collect();
        self.state.rejected_more = (ours + self.bad.len()).saturating_sub(MOST_REJECTED);
        if *self.state.rejected != rejected {
            self.state.rejected = Arc::new(rejected);
        }
    }
}

/// Has those of the records stand that were made before all others that want the same.
fn first_stands<K: Ord + Clone, T: Clone + PartialEq, W: Copy + Eq + Hash>(
    records: &BTreeMap<K, Held<T>>,
    standing: &mut OrdMap<K, T>,
    left_out: &mut BTreeMap<String, String>,
    key: fn(&K) -> String,
    wants: fn(&T) -> W,
    clash: fn(W, K) -> Clash,
) {
    let before = standing.clone();
    let mut taken: HashMap<W, &K> = HashMap::new();
    left_out.clear();
    for (name, record) in by_age(records) {
        let wanted = wants(record);
        if let Some(&other) = taken.get(&wanted) {
            left_out.insert(key(name), clash(wanted, other.clone()).to_string());
            standing.remove(name);
            continue;
        }
        taken.insert(wanted, name);
        if standing.get(name) != Some(record) {
            standing.insert(name.clone(), record.clone());
        }
    }
    for name in before.keys().filter(|name| !records.contains_key(*name)) {
        standing.remove(name);
    }
}

/// Why there is no such network.
fn no_network(
    name: &NetworkName,
    records: &BTreeMap<NetworkName, Held<Network>>,
    bad: &BTreeMap<Vec<u8>, RecordError>,
) -> Clash {
    let left_out = records.contains_key(name) || bad.contains_key(RecordKey::of_network(name).as_bytes());
    if left_out { Clash::NetworkLeftOut(name.clone()) } else { Clash::NoNetwork(name.clone()) }
}

fn item_key<'a, K, V>(item: &DiffItem<'a, 'a, K, V>) -> &'a K {
    match item {
        DiffItem::Add(key, _) | DiffItem::Update { new: (key, _), .. } | DiffItem::Remove(key, _) => key,
    }
}

/// Records with those made first before the others.
fn by_age<K: Ord, T>(records: &BTreeMap<K, Held<T>>) -> Vec<(&K, &T)> {
    let mut sorted: Vec<_> = records.iter().collect();
    sorted.sort_by_key(|&(key, held)| (held.created, key));
    sorted.into_iter().map(|(key, held)| (key, &held.record)).collect()
}
