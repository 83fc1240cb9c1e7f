//! The records of the store, decoded as they come, and the state they make together.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
};

use super::{
    Endpoint, EndpointId, InterfaceName, LearnedMac, MetaRecord, Network, NetworkName, Node, NodeName, Port,
    Record, RecordError, RecordKey, State, decode, shown::shown_key,
};
use crate::{MacAddr, Vni};

/// One key of the store with its value.
#[derive(Clone, Copy, Debug)]
pub struct RawRecord<'a> {
    /// The key, relative to the cluster's prefix.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// The store's revision when the key was made: who of two that cannot both be was first.
    pub create_revision: i64,
}

/// The records held, each decoded once.
///
/// It does not matter in which order records come: equal records make equal states.
#[derive(Clone, Debug, Default)]
pub struct RecordSet {
    meta: Option<MetaRecord>,
    networks: BTreeMap<NetworkName, Held<Network>>,
    nodes: BTreeMap<NodeName, Held<Node>>,
    alive: BTreeSet<NodeName>,
    endpoints: BTreeMap<(NetworkName, EndpointId), Held<Endpoint>>,
    ports: BTreeMap<(NetworkName, EndpointId), Held<Port>>,
    learned: BTreeMap<(NetworkName, MacAddr), Held<LearnedMac>>,
    /// Records that do not hold up by themselves, and why.
    bad: BTreeMap<Vec<u8>, RecordError>,
}

/// A record that holds up by itself.
#[derive(Clone, Debug)]
struct Held<T> {
    created: i64,
    record: T,
}

/// Why a record that holds up by itself does not stand beside the others.
#[derive(Debug, thiserror::Error)]
enum Clash {
    #[error("VNI {0} is network {1}'s")]
    Vni(Vni, NetworkName),
    #[error("the tunnel address {0} is node {1}'s")]
    Vtep(IpAddr, NodeName),
    #[error("there is no network {0}")]
    NoNetwork(NetworkName),
    #[error("its network {0} was left out")]
    NetworkLeftOut(NetworkName),
    #[error("waiting for a usable record of its node {0}")]
    NoNode(NodeName),
    #[error("its address is not usable: {0}")]
    Address(#[from] super::AddressError),
    #[error("there is an endpoint with this identity in network {0}")]
    Identity(NetworkName),
    #[error("the MAC address {0} is endpoint {1}'s")]
    Mac(MacAddr, EndpointId),
    #[error("the address {0} is endpoint {1}'s")]
    AddressTaken(IpAddr, EndpointId),
    #[error("interface {0} of node {1} is port {2} already")]
    Device(InterfaceName, NodeName, EndpointId),
    #[error("there is no port {0} on node {1}")]
    NoPort(EndpointId, NodeName),
    #[error("the MAC address is an endpoint's")]
    Endpoints,
    #[error("port {0} may learn only {1} MAC addresses")]
    PortFull(EndpointId, u32),
}

// === impl RecordSet ===

impl RecordSet {
    /// Takes a record that is new or was changed. Returns whether that can change the state.
    pub fn put(&mut self, raw: RawRecord<'_>) -> bool {
        let RawRecord { key, value, create_revision: created } = raw;
        let decoded = RecordKey::parse(key).map_err(RecordError::from).and_then(|key| decode(key, value));
        match decoded {
            Ok(Record::Meta(meta)) => self.meta = Some(meta),
            Ok(Record::Network(name, record)) => {
                self.networks.insert(name, Held { created, record });
            }
            Ok(Record::Node(name, record)) => {
                self.nodes.insert(name, Held { created, record });
            }
            Ok(Record::Alive(node, _)) => {
                let was_bad = self.bad.remove(key).is_some();
                return self.alive.insert(node) || was_bad;
            }
            Ok(Record::Endpoint(network, id, record)) => {
                self.endpoints.insert((network, id), Held { created, record });
            }
            Ok(Record::Port(network, id, record)) => {
                self.ports.insert((network, id), Held { created, record });
            }
            Ok(Record::Learned(network, mac, record)) => {
                self.learned.insert((network, mac), Held { created, record });
            }
            Ok(Record::Allocation) => return false,
            Err(error) => {
                self.delete(key);
                self.bad.insert(key.to_vec(), error);
                return true;
            }
        }
        self.bad.remove(key);
        true
    }

    /// Forgets a record that was deleted; the key is relative to the cluster's prefix. Returns
    /// whether that can change the state.
    pub fn delete(&mut self, key: &[u8]) -> bool {
        let was_bad = self.bad.remove(key).is_some();
        let was_good = RecordKey::parse(key).is_ok_and(|key| self.remove(&key));
        was_bad || was_good
    }

    /// The cluster's own record.
    #[must_use]
    pub fn meta(&self) -> Option<&MetaRecord> {
        self.meta.as_ref()
    }

    /// The state the records make. Of two that cannot both be, the one made first stands.
    #[must_use]
    pub fn state(&self, revision: i64) -> State {
        let mut state = State { revision, alive: self.alive.clone(), ..State::default() };
        // Records of ours that clash come before what may be junk: there is not room for all.
        self.add_networks(&mut state);
        self.add_nodes(&mut state);
        self.add_endpoints(&mut state);
        self.add_ports(&mut state);
        self.add_learned(&mut state);
        for (key, error) in &self.bad {
            state.reject(|| shown_key(key), error);
        }
        state
    }

    fn remove(&mut self, key: &RecordKey) -> bool {
        match key {
            RecordKey::Meta => self.meta.take().is_some(),
            RecordKey::Network(name) => self.networks.remove(name).is_some(),
            RecordKey::Node(name) => self.nodes.remove(name).is_some(),
            RecordKey::Alive(name) => self.alive.remove(name),
            RecordKey::Endpoint(network, id) => {
                self.endpoints.remove(&(network.clone(), id.clone())).is_some()
            }
            RecordKey::Port(network, id) => self.ports.remove(&(network.clone(), id.clone())).is_some(),
            RecordKey::Learned(network, mac) => self.learned.remove(&(network.clone(), *mac)).is_some(),
            RecordKey::Allocation => false,
        }
    }

    fn add_networks(&self, state: &mut State) {
        let mut taken: HashMap<Vni, &NetworkName> = HashMap::new();
        for (name, record) in by_age(&self.networks) {
            if let Some(&other) = taken.get(&record.vni) {
                let clash = Clash::Vni(record.vni, other.clone());
                state.reject(|| RecordKey::of_network(name), &clash);
                continue;
            }
            taken.insert(record.vni, name);
            state.networks.insert(name.clone(), record.clone());
        }
    }

    fn add_nodes(&self, state: &mut State) {
        let mut taken: HashMap<IpAddr, &NodeName> = HashMap::new();
        for (name, record) in by_age(&self.nodes) {
            if let Some(&other) = taken.get(&record.vtep) {
                let clash = Clash::Vtep(record.vtep, other.clone());
                state.reject(|| RecordKey::of_node(name), &clash);
                continue;
            }
            taken.insert(record.vtep, name);
            state.nodes.insert(name.clone(), record.clone());
        }
    }

    fn add_endpoints(&self, state: &mut State) {
        let mut claims = Claims::default();
        for (key @ (network, id), record) in by_age(&self.endpoints) {
            let checked =
                self.stands(state, network, record).and_then(|()| claims.claim(network, id, record));
            match checked {
                Ok(()) => {
                    state.endpoints.insert(key.clone(), record.clone());
                }
                Err(clash) => {
                    state.reject(|| RecordKey::of_endpoint(network, id), &clash);
                }
            }
        }
    }

    fn add_ports(&self, state: &mut State) {
        let mut devices: HashMap<(&NodeName, &InterfaceName), &EndpointId> = HashMap::new();
        let identities: HashSet<_> = state.endpoints.keys().map(|(_, id)| id.clone()).collect();
        for ((network, id), port) in by_age(&self.ports) {
            let device = (&port.node, &port.device);
            let clash = if let Err(clash) = self.network_stands(state, network) {
                Some(clash)
            } else if !state.nodes.contains_key(&port.node) {
                Some(Clash::NoNode(port.node.clone()))
            } else if identities.contains(id) || devices.values().any(|other| *other == id) {
                Some(Clash::Identity(network.clone()))
            } else {
                let taken = devices.get(&device);
                taken.map(|&other| Clash::Device(port.device.clone(), port.node.clone(), other.clone()))
            };
            if let Some(clash) = clash {
                state.reject(|| RecordKey::of_port(network, id), &clash);
                continue;
            }
            devices.insert(device, id);
            state.ports.insert((network.clone(), id.clone()), port.clone());
        }
    }

    /// An endpoint's MAC address is never a port's, whoever came first: it was given, not heard.
    fn add_learned(&self, state: &mut State) {
        let taken: HashSet<_> =
            state.endpoints.iter().map(|((network, _), e)| (network.clone(), e.mac)).collect();
        let mut counts: HashMap<&EndpointId, u32> = HashMap::new();
        for (key @ (network, mac), learned) in by_age(&self.learned) {
            let port = state.ports.get(&(network.clone(), learned.port.clone()));
            let clash = match port.filter(|port| port.node == learned.node) {
                None => Clash::NoPort(learned.port.clone(), learned.node.clone()),
                Some(_) if taken.contains(key) => Clash::Endpoints,
                Some(port) => {
                    let count = counts.entry(&learned.port).or_default();
                    if *count < port.max_macs {
                        *count += 1;
                        state.learned.insert(key.clone(), learned.clone());
                        continue;
                    }
                    Clash::PortFull(learned.port.clone(), port.max_macs)
                }
            };
            state.reject(|| RecordKey::of_learned(network, *mac), &clash);
        }
    }

    fn network_stands<'a>(&self, state: &'a State, network: &NetworkName) -> Result<&'a Network, Clash> {
        state.networks.get(network).ok_or_else(|| {
            let left_out = self.networks.contains_key(network)
                || self.bad.contains_key(RecordKey::of_network(network).as_bytes());
            if left_out { Clash::NetworkLeftOut(network.clone()) } else { Clash::NoNetwork(network.clone()) }
        })
    }

    /// Checks an endpoint against the networks and nodes that stand.
    fn stands(&self, state: &State, network: &NetworkName, endpoint: &Endpoint) -> Result<(), Clash> {
        let standing = self.network_stands(state, network)?;
        for &address in &endpoint.addresses {
            standing.check_address(address)?;
        }
        if !state.nodes.contains_key(&endpoint.node) {
            return Err(Clash::NoNode(endpoint.node.clone()));
        }
        Ok(())
    }
}

/// Records with those made first before the others.
fn by_age<K: Ord, T>(records: &BTreeMap<K, Held<T>>) -> Vec<(&K, &T)> {
    let mut sorted: Vec<_> = records.iter().collect();
    sorted.sort_by_key(|&(key, held)| (held.created, key));
    sorted.into_iter().map(|(key, held)| (key, &held.record)).collect()
}

/// What endpoints that stand have for themselves.
#[derive(Default)]
struct Claims<'a> {
    identities: HashMap<&'a EndpointId, &'a NetworkName>,
    macs: HashMap<(&'a NetworkName, MacAddr), &'a EndpointId>,
    addresses: HashMap<(&'a NetworkName, IpAddr), &'a EndpointId>,
}

// === impl Claims ===

impl<'a> Claims<'a> {
    /// Claims all an endpoint has, or nothing.
    fn claim(
        &mut self,
        network: &'a NetworkName,
        id: &'a EndpointId,
        endpoint: &Endpoint,
    ) -> Result<(), Clash> {
        if let Some(&other) = self.identities.get(id) {
            return Err(Clash::Identity(other.clone()));
        }
        if let Some(&other) = self.macs.get(&(network, endpoint.mac)) {
            return Err(Clash::Mac(endpoint.mac, other.clone()));
        }
        for &address in &endpoint.addresses {
            if let Some(&other) = self.addresses.get(&(network, address)) {
                return Err(Clash::AddressTaken(address, other.clone()));
            }
        }
        self.identities.insert(id, network);
        self.macs.insert((network, endpoint.mac), id);
        self.addresses.extend(endpoint.addresses.iter().map(|&address| ((network, address), id)));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
