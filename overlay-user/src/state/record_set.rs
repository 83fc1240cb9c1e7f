//! The records of the store, decoded as they come, and the state they make together.

mod holdings;
mod judge;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    mem,
    net::IpAddr,
};

use self::holdings::{Change, Holdings};
use super::{
    Endpoint, EndpointId, InterfaceName, LearnedMac, MetaRecord, Network, NetworkName, Node, NodeName, Port,
    Record, RecordError, RecordKey, State, decode,
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

/// The records held, each decoded once, and the state they make, kept up with them: an endpoint that
/// comes or goes costs the same however many there are.
///
/// It does not matter in which order records come: equal records make equal states.
#[derive(Clone, Debug, Default)]
pub struct RecordSet {
    meta: Option<MetaRecord>,
    networks: BTreeMap<NetworkName, Held<Network>>,
    nodes: BTreeMap<NodeName, Held<Node>>,
    endpoints: Holdings,
    ports: BTreeMap<(NetworkName, EndpointId), Held<Port>>,
    learned: BTreeMap<(NetworkName, MacAddr), Held<LearnedMac>>,
    /// Records that do not hold up by themselves, and why.
    bad: BTreeMap<Vec<u8>, RecordError>,
    /// Names of nodes that many records share.
    names: HashSet<NodeName>,
    state: State,
    /// Why records that hold up by themselves are left out, by their kinds.
    left_out: LeftOut,
    stale: Stale,
    /// The keys that have come since [`Self::begin`], but for those of endpoints.
    came: HashSet<Vec<u8>>,
    /// Between [`Self::begin`] and [`Self::end`].
    is_anew: bool,
}

/// Keys and reasons.
#[derive(Clone, Debug, Default)]
struct LeftOut {
    networks: BTreeMap<String, String>,
    nodes: BTreeMap<String, String>,
    endpoints: BTreeMap<(NetworkName, EndpointId), String>,
    ports: BTreeMap<String, String>,
    learned: BTreeMap<String, String>,
}

/// What of the state has not been brought up to the records.
#[derive(Clone, Debug, Default)]
struct Stale {
    /// Networks whose records came, went or are not usable any more, or again.
    networks: BTreeSet<NetworkName>,
    nodes: bool,
    /// Endpoints that have gone from the state, or are no longer left out.
    endpoints: Vec<Change>,
    ports: bool,
    rejected: bool,
}

/// What judging endpoints has changed.
#[derive(Clone, Copy, Debug, Default)]
struct Judged {
    /// Anything.
    changed: bool,
    /// Who is left out, or why.
    left_out: bool,
}

/// A record that holds up by itself.
#[derive(Clone, Debug, PartialEq)]
struct Held<T> {
    created: i64,
    record: T,
}

/// Why a record that holds up by itself does not stand beside the others.
#[derive(Clone, Debug, thiserror::Error)]
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
        if matches!(&decoded, Ok(record) if !matches!(record, Record::Endpoint(..))) {
            self.came(key);
        }
        match decoded {
            Ok(Record::Meta(meta)) => self.meta = Some(meta),
            Ok(Record::Network(name, record)) => {
                let held = Held { created, record };
                if self.networks.get(&name) == Some(&held) {
                    return self.mend(key);
                }
                self.stale.networks.insert(name.clone());
                self.networks.insert(name, held);
            }
            Ok(Record::Node(name, record)) => {
                let held = Held { created, record };
                if self.nodes.get(&name) == Some(&held) {
                    return self.mend(key);
                }
                self.stale.nodes = true;
                let name = self.shared(name);
                self.nodes.insert(name, held);
            }
            Ok(Record::Alive(node, _)) => {
                let was_bad = self.mend(key);
                let node = self.shared(node);
                return self.state.alive.insert(node).is_none() || was_bad;
            }
            Ok(Record::Endpoint(network, endpoint)) => {
                let network = self.networks.get_key_value(&network).map_or(network, |(name, _)| name.clone());
                let node = self.shared(endpoint.node.clone());
                let endpoint = Endpoint { node, ..endpoint };
                let changed = self.endpoints.put(network, endpoint, created, &mut self.stale.endpoints);
                return self.mend(key) || changed;
            }
            Ok(Record::Port(network, id, record)) => {
                self.stale.ports = true;
                self.ports.insert((network, id), Held { created, record });
            }
            Ok(Record::Learned(network, mac, record)) => {
                self.stale.ports = true;
                self.learned.insert((network, mac), Held { created, record });
            }
            Ok(Record::Allocation) => return false,
            Err(error) => {
                self.came(key);
                self.delete(key);
                self.bad.insert(key.to_vec(), error);
                self.badness_changed(key);
                return true;
            }
        }
        self.mend(key);
        true
    }

    /// Forgets a record that was deleted; the key is relative to the cluster's prefix. Returns
    /// whether that can change the state.
    pub fn delete(&mut self, key: &[u8]) -> bool {
        let was_bad = self.mend(key);
        let was_good = RecordKey::parse(key).is_ok_and(|key| self.remove(&key));
        was_bad || was_good
    }

    /// All records are taken anew from now on: those that are the same cost nothing later, and those that do
    /// not come until [`Self::end`] are forgotten then.
    pub fn begin(&mut self) {
        self.came.clear();
        self.is_anew = true;
        self.endpoints.begin();
    }

    /// Forgets the records that have not come since [`Self::begin`].
    pub fn end(&mut self) {
        self.is_anew = false;
        let came = mem::take(&mut self.came);
        self.endpoints.end(&mut self.stale.endpoints);
        let keys = (self.networks.keys().map(RecordKey::of_network))
            .chain(self.nodes.keys().map(RecordKey::of_node))
            .chain(self.state.alive.iter().map(RecordKey::of_alive))
            .chain(self.ports.keys().map(|(network, id)| RecordKey::of_port(network, id)))
            .chain(self.learned.keys().map(|(network, mac)| RecordKey::of_learned(network, *mac)))
            .chain(self.meta.is_some().then(|| "meta".to_owned()))
            .map(String::into_bytes)
            .chain(self.bad.keys().cloned());
        let gone: Vec<_> = keys.filter(|key| !came.contains(key)).collect();
        for key in gone {
            self.delete(&key);
        }
    }

    /// The cluster's own record.
    #[must_use]
    pub fn meta(&self) -> Option<&MetaRecord> {
        self.meta.as_ref()
    }

    /// How many nodes have records.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Judges the records that have come so far, for one who has time while waiting for more. [`Self::state`] does
    /// what is left.
    pub fn settle(&mut self) {
        let mut stale = mem::take(&mut self.stale);
        let standing = (self.state.networks.clone(), self.state.nodes.clone());
        if !stale.networks.is_empty() {
            self.judge_networks();
            stale.rejected = true;
        }
        if stale.nodes {
            self.judge_nodes();
            stale.rejected = true;
        }
        let Judged { changed, left_out } = self.judge_endpoints(stale.endpoints, &stale.networks, &standing);
        let around = !stale.networks.is_empty() || stale.nodes || changed;
        // What depends on endpoints is judged once, when all are there.
        self.stale.rejected = stale.rejected || left_out;
        self.stale.ports = stale.ports || (around && !(self.ports.is_empty() && self.learned.is_empty()));
    }

    /// The state the records make. Of two that cannot both be, the one made first stands.
    #[must_use]
    pub fn state(&mut self, revision: i64) -> State {
        self.settle();
        if mem::take(&mut self.stale.ports) {
            self.judge_ports();
            self.judge_learned();
            self.stale.rejected = true;
        }
        if mem::take(&mut self.stale.rejected) {
            self.name_rejected();
        }
        self.state.revision = revision;
        self.state.clone()
    }

    fn came(&mut self, key: &[u8]) {
        if self.is_anew {
            self.came.insert(key.to_vec());
        }
    }

    fn remove(&mut self, key: &RecordKey) -> bool {
        match key {
            RecordKey::Meta => self.meta.take().is_some(),
            RecordKey::Network(name) => {
                self.stale.networks.insert(name.clone());
                self.networks.remove(name).is_some()
            }
            RecordKey::Node(name) => {
                self.stale.nodes = true;
                self.nodes.remove(name).is_some()
            }
            RecordKey::Alive(name) => self.state.alive.remove(name).is_some(),
            RecordKey::Endpoint(network, id) => self.endpoints.remove(network, id, &mut self.stale.endpoints),
            RecordKey::Port(network, id) => {
                self.stale.ports = true;
                self.ports.remove(&(network.clone(), id.clone())).is_some()
            }
            RecordKey::Learned(network, mac) => {
                self.stale.ports = true;
                self.learned.remove(&(network.clone(), *mac)).is_some()
            }
            RecordKey::Allocation => false,
        }
    }

    /// Forgets that a record was bad. Returns whether it was.
    fn mend(&mut self, key: &[u8]) -> bool {
        let was_bad = self.bad.remove(key).is_some();
        if was_bad {
            self.badness_changed(key);
        }
        was_bad
    }

    /// What is in a network is told whether its record is bad or not there.
    fn badness_changed(&mut self, key: &[u8]) {
        self.stale.rejected = true;
        if let Ok(RecordKey::Network(name)) = RecordKey::parse(key) {
            self.stale.networks.insert(name);
        }
    }

    /// The same name, in the memory of the one that came first.
    fn shared(&mut self, name: NodeName) -> NodeName {
        if let Some(known) = self.names.get(&name) {
            return known.clone();
        }
        self.names.insert(name.clone());
        name
    }
}

#[cfg(test)]
mod tests;
