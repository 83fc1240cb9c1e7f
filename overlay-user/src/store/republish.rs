//! Writing what this node knows into a store that was lost: wiped, made anew, or restored from an older copy.
//!
//! The store is believed again under an identity that it did not have before. The first node that writes gives it
//! one, every further node takes that; who has not written yet sees another cluster, and stays as it is. What
//! somebody else has made meanwhile is never written over: it is named, and nothing is believed until it is solved.

use std::collections::{BTreeMap, BTreeSet};

use etcd_client::{Compare, CompareOp, KeyValue, TxnOp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::{
    Seen, Store, StoreError,
    call::Call,
    holder,
    network::wait_in_a_race,
    value::{decoded, encoded, text},
};
use crate::{
    MacAddr, Vni,
    state::{
        AddressRecord, AddressState, EndpointId, EndpointRecord, LearnedRecord, MetaRecord, NetworkName,
        NetworkRecord, NodeName, NodeRecord, PortRecord, RecordKey, SCHEMA,
    },
};

/// How often a record that met another change is tried again.
const TRIES: u32 = 20;

/// What a node knew when the store was lost.
#[derive(Clone, Debug)]
pub struct Knowledge {
    /// The node.
    pub node: NodeName,
    /// As what it takes part in the cluster; `None`: it has not joined, and will by itself.
    pub incarnation: Option<u64>,
    /// Its endpoints that have their interfaces: others are not written.
    pub present: BTreeSet<EndpointId>,
    /// Every record it knew, by its key relative to the cluster's prefix.
    pub records: BTreeMap<String, Value>,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Republished {
    /// How many records were written.
    pub written: usize,
    /// How many were there already.
    pub there: usize,
    /// What is not written because its interface is gone.
    pub left_out: Vec<String>,
    /// What somebody else has made meanwhile. As long as there is any, the store is not believed.
    pub conflicts: Vec<String>,
    /// Nodes that have to do the same: what was known of them stands until they have.
    pub awaited: Vec<NodeName>,
}

/// What became of one record.
enum Outcome {
    Written,
    There,
    Conflict(String),
}

// === impl Store ===

impl Store {
    /// Writes what a node knows, its own and what belongs to nobody, and then believes the store.
    ///
    /// # Errors
    /// If the store does not answer, or its own record is of another version.
    pub async fn republish(&self, knowledge: &Knowledge) -> Result<Republished, StoreError> {
        let call = Call::stepwise(&self.inner.connection);
        let first = self.is_lost(&call).await?;
        let mut done = Republished::default();
        let Knowledge { node, records, present, .. } = knowledge;
        let statics: BTreeSet<NodeName> =
            records.iter().filter_map(|(key, value)| is_static(key, value)).collect();
        // Third parties' are everybody's: whoever is first writes them.
        let ours = |other: &NodeName| other == node || (first && statics.contains(other));

        let mut needed = BTreeSet::new();
        let mut endpoints = Vec::new();
        for (key, value) in records {
            match RecordKey::parse(key.as_bytes()) {
                Ok(RecordKey::Endpoint(network, id)) => {
                    let Some(record) = of_value::<EndpointRecord>(value).filter(|r| ours(&r.node)) else {
                        continue;
                    };
                    if record.node == *node && !present.contains(&id) {
                        done.left_out
                            .push(format!("endpoint {id} of network {network}: its interface is gone"));
                        continue;
                    }
                    needed.insert(network.clone());
                    endpoints.push((network, id, record));
                }
                Ok(RecordKey::Port(network, _))
                    if of_value::<PortRecord>(value).is_some_and(|r| r.node == *node) =>
                {
                    needed.insert(network);
                }
                _ => {}
            }
        }
        for (key, value) in records {
            if let (Ok(RecordKey::Network(name)), Some(record)) =
                (RecordKey::parse(key.as_bytes()), of_value::<NetworkRecord>(value))
                && (first || needed.contains(&name))
            {
                done.note(self.put_network(&call, &name, &record, value).await?);
            }
        }
        for (network, id, record) in &endpoints {
            done.note(self.put_endpoint(&call, network, id, record).await?);
        }
        for (key, value) in records {
            let outcome = match RecordKey::parse(key.as_bytes()) {
                Ok(RecordKey::Port(..)) if of_value::<PortRecord>(value).is_some_and(|r| r.node == *node) => {
                    self.put_new(&call, key, value).await?
                }
                Ok(RecordKey::Learned(..))
                    if of_value::<LearnedRecord>(value).is_some_and(|r| r.node == *node) =>
                {
                    // Who is heard behind two ports is for the data path to decide.
                    match self.put_new(&call, key, value).await? {
                        Outcome::Conflict(_) => Outcome::There,
                        other => other,
                    }
                }
                Ok(RecordKey::Node(name)) if first && statics.contains(&name) => {
                    self.put_new(&call, key, value).await?
                }
                _ => continue,
            };
            done.note(outcome);
        }
        self.withdraw_unknown(&call, knowledge).await?;
        // Last, since others wait for it: by then all that is this node's is there.
        if let (Some(incarnation), Some(value)) =
            (knowledge.incarnation, records.get(&RecordKey::of_node(node)))
        {
            done.note(self.put_node(&call, node, incarnation, value).await?);
        }
        if done.conflicts.is_empty() {
            done.awaited = self.believe(&call, knowledge, &statics).await?;
        }
        Ok(done)
    }

    /// The nodes that have not written their records since the store was lost.
    #[must_use]
    pub fn awaited(&self) -> Vec<NodeName> {
        self.inner.awaited.names()
    }

    /// Awaits nodes whose records are in `records`, as before a restart.
    pub fn await_again(&self, since: i64, names: &[NodeName], records: &BTreeMap<String, Value>) {
        let names = names.iter().cloned().collect();
        self.inner.awaited.set(since, of_nodes(records, &names));
    }

    /// The revision that awaited nodes were not there at.
    #[must_use]
    pub fn awaited_since(&self) -> i64 {
        self.inner.awaited.since()
    }

    /// Gives a node up that is awaited. Returns whether it was.
    #[must_use]
    pub fn await_no_longer(&self, node: &NodeName) -> bool {
        let was = self.inner.awaited.forget(node);
        if was {
            self.read_again();
        }
        was
    }

    /// Whether nobody has given the store a new identity yet.
    async fn is_lost(&self, call: &Call<'_>) -> Result<bool, StoreError> {
        let Some(found) = call.get(&self.keys().meta()).await? else { return Ok(true) };
        let meta = self.usable(&found)?;
        Ok(Some(meta.cluster) == self.seen().cluster)
    }

    fn usable(&self, found: &KeyValue) -> Result<MetaRecord, StoreError> {
        let key = self.keys().meta();
        let unusable = || StoreError::Conflict(format!("{key} cannot be read: `etcdctl del {key}` first"));
        let meta: MetaRecord = decoded(found.value()).ok_or_else(unusable)?;
        if meta.schema == SCHEMA {
            return Ok(meta);
        }
        let text = format!("the store's records have schema {}, this overlayd knows {SCHEMA}", meta.schema);
        Err(StoreError::Conflict(text))
    }

    /// Takes the identity that the store has, after giving it a new one if nobody has. Returns who is awaited.
    async fn believe(
        &self,
        call: &Call<'_>,
        knowledge: &Knowledge,
        statics: &BTreeSet<NodeName>,
    ) -> Result<Vec<NodeName>, StoreError> {
        let key = self.keys().meta();
        for attempt in 1..=TRIES {
            let found = call.get(&key).await?;
            if let Some(found) = &found {
                let meta = self.usable(found)?;
                if Some(meta.cluster) != self.seen().cluster {
                    let others =
                        knowledge.records.keys().filter_map(|key| match RecordKey::parse(key.as_bytes()) {
                            Ok(RecordKey::Node(name)) => Some(name),
                            _ => None,
                        });
                    let others =
                        others.filter(|name| *name != knowledge.node && !statics.contains(name)).collect();
                    let (since, cluster) = (found.mod_revision(), meta.cluster);
                    self.inner.awaited.set(since, of_nodes(&knowledge.records, &others));
                    self.inner.identity.expect(Seen { cluster: Some(cluster), revision: since });
                    self.read_again();
                    tracing::info!(%cluster, "the store is believed again");
                    return Ok(self.awaited());
                }
            }
            let revision = found.as_ref().map_or(0, KeyValue::mod_revision);
            let is_same = Compare::mod_revision(key.as_str(), CompareOp::Equal, revision);
            let value = encoded(&MetaRecord { schema: SCHEMA, cluster: Uuid::new_v4() })?;
            let put = TxnOp::put(key.as_str(), value, None);
            if call.commit(vec![is_same], vec![put], None).await?.is_none() {
                wait_in_a_race(attempt).await;
            }
        }
        Err(StoreError::Conflict(format!("{key} keeps changing; try again")))
    }

    async fn put_network(
        &self,
        call: &Call<'_>,
        name: &NetworkName,
        record: &NetworkRecord,
        value: &Value,
    ) -> Result<Outcome, StoreError> {
        let Ok(vni) = Vni::new(record.vni) else { return Ok(Outcome::There) };
        let (key, vni_key) = (self.keys().network(name), self.keys().vni(vni));
        for attempt in 1..=TRIES {
            let guard = self.guard(call).await?;
            if let Some(found) = call.get(&key).await? {
                let same = decoded::<NetworkRecord>(found.value())
                    .is_some_and(|other| other.vni == record.vni && other.subnets().eq(record.subnets()));
                return Ok(if same {
                    Outcome::There
                } else {
                    Outcome::Conflict(format!(
                        "network {name} was made anew with another VNI or subnet: remove it, or detach this node's \
                         endpoints of it"
                    ))
                });
            }
            let holder = call.get(&vni_key).await?;
            if let Some(holder) = holder.filter(|holder| holder.value() != name.as_str().as_bytes()) {
                let other = text(holder.value());
                return Ok(Outcome::Conflict(format!(
                    "VNI {vni} of network {name} is network {other}'s now: remove that, or detach this node's \
                     endpoints of {name}"
                )));
            }
            let compares =
                vec![Compare::create_revision(key.as_str(), CompareOp::Equal, 0), guard.unchanged(self)];
            let operations = vec![
                TxnOp::put(key.as_str(), encoded(value)?, None),
                TxnOp::put(vni_key.as_str(), name.as_str(), None),
                guard.raised(self),
            ];
            if call.commit(compares, operations, None).await?.is_some() {
                return Ok(Outcome::Written);
            }
            wait_in_a_race(attempt).await;
        }
        Ok(Outcome::Conflict(format!("network {name} keeps changing; try again")))
    }

    async fn put_endpoint(
        &self,
        call: &Call<'_>,
        network: &NetworkName,
        id: &EndpointId,
        record: &EndpointRecord,
    ) -> Result<Outcome, StoreError> {
        let keys = self.keys();
        let conflict = |what: String| {
            let text =
                format!("{what}: detach that one, or endpoint {id} of network {network} on {}", record.node);
            Ok(Outcome::Conflict(text))
        };
        let Ok(mac) = record.mac.parse::<MacAddr>() else { return Ok(Outcome::There) };
        let (endpoint_key, mac_key) = (keys.endpoint(network, id), keys.mac(network, mac));
        let name = record.names.first().cloned();
        let bound = AddressRecord {
            state: AddressState::Bound,
            node: record.node.clone(),
            endpoint: id.clone(),
            name,
        };
        let bound = encoded(&bound)?;
        for attempt in 1..=TRIES {
            let found = call.get(&endpoint_key).await?;
            let other = found.as_ref().map(|found| decoded::<EndpointRecord>(found.value()));
            if let Some(other) = &other
                && other.as_ref().is_none_or(|other| other.node != record.node)
            {
                return conflict(format!("there is another endpoint {id} in network {network}"));
            }
            let there = other
                .flatten()
                .is_some_and(|other| (&other.mac, &other.addresses) == (&record.mac, &record.addresses));
            let mut compares = vec![
                Compare::create_revision(keys.network(network), CompareOp::Greater, 0),
                unchanged(&endpoint_key, found.as_ref()),
            ];
            let mut operations = Vec::new();
            let held = call.get(&mac_key).await?;
            match &held {
                Some(held) if held.value() != id.to_string().as_bytes() => {
                    let holder = text(held.value());
                    return conflict(format!("the MAC address {mac} is endpoint {holder}'s now"));
                }
                Some(_) => {}
                None => operations.push(TxnOp::put(mac_key.as_str(), id.to_string(), None)),
            }
            compares.push(unchanged(&mac_key, held.as_ref()));
            for &address in &record.addresses {
                let key = keys.address(network, address);
                let held = call.get(&key).await?;
                if let Some(held) = &held {
                    let holder = decoded::<AddressRecord>(held.value());
                    // A cooling address is given to nobody else yet.
                    let ours = holder.as_ref().is_some_and(|h| {
                        h.endpoint == *id || (h.state == AddressState::Cooling && h.node == record.node)
                    });
                    if !ours {
                        return conflict(format!("{address} {}", holder::of_address(held.value())));
                    }
                }
                if held.as_ref().is_none_or(|held| held.value() != bound) {
                    operations.push(TxnOp::put(key.as_str(), bound.clone(), None));
                }
                compares.push(unchanged(&key, held.as_ref()));
            }
            if !there {
                operations.push(TxnOp::put(endpoint_key.as_str(), encoded(record)?, None));
            }
            if operations.is_empty() {
                return Ok(Outcome::There);
            }
            if call.commit(compares, operations, None).await?.is_some() {
                return Ok(Outcome::Written);
            }
            if call.get(&keys.network(network)).await?.is_none() {
                return conflict(format!("there is no network {network} any more"));
            }
            wait_in_a_race(attempt).await;
        }
        conflict(format!("what endpoint {id} of network {network} has keeps changing"))
    }

    /// Writes a record that has to be new.
    async fn put_new(&self, call: &Call<'_>, key: &str, value: &Value) -> Result<Outcome, StoreError> {
        let whole = format!("{}{key}", self.keys().prefix());
        let value = encoded(value)?;
        if let Some(found) = call.get(&whole).await? {
            let same = found.value() == value;
            return Ok(if same {
                Outcome::There
            } else {
                Outcome::Conflict(format!("{key} was made anew otherwise"))
            });
        }
        let is_new = Compare::create_revision(whole.as_str(), CompareOp::Equal, 0);
        let put = TxnOp::put(whole.as_str(), value, None);
        let done = call.commit(vec![is_new], vec![put], None).await?;
        Ok(done.map_or_else(
            || Outcome::Conflict(format!("{key} was made anew meanwhile")),
            |_| Outcome::Written,
        ))
    }

    /// Writes this node's record as the incarnation that runs. One with another tunnel address is another node's.
    async fn put_node(
        &self,
        call: &Call<'_>,
        node: &NodeName,
        incarnation: u64,
        value: &Value,
    ) -> Result<Outcome, StoreError> {
        let key = self.keys().node(node);
        let Some(record) = of_value::<NodeRecord>(value) else { return Ok(Outcome::There) };
        let mut value = value.clone();
        value["incarnation"] = incarnation.into();
        value["version"] = env!("CARGO_PKG_VERSION").into();
        let found = call.get(&key).await?;
        if let Some(found) = &found {
            let other = decoded::<NodeRecord>(found.value());
            if let Some(other) =
                other.filter(|other| other.vtep != record.vtep || other.incarnation > incarnation)
            {
                return Ok(Outcome::Conflict(format!(
                    "node {node} is another overlayd at {} now: stop that one and `overlayctl node rm {node}`",
                    other.vtep
                )));
            }
        }
        let put = TxnOp::put(key.as_str(), encoded(&value)?, None);
        let done = call.commit(vec![unchanged(&key, found.as_ref())], vec![put], None).await?;
        Ok(done.map_or_else(
            || Outcome::Conflict(format!("the record of {node} changed meanwhile; try again")),
            |_| Outcome::Written,
        ))
    }

    /// Withdraws endpoints that an older copy of the store says are this node's, and that were given up since.
    async fn withdraw_unknown(&self, call: &Call<'_>, knowledge: &Knowledge) -> Result<(), StoreError> {
        for kv in call.list(&self.keys().all_endpoints()).await? {
            let Some(key) = self.keys().relative(kv.key()) else { continue };
            let Ok(RecordKey::Endpoint(network, id)) = RecordKey::parse(key) else { continue };
            let here =
                decoded::<EndpointRecord>(kv.value()).is_some_and(|record| record.node == knowledge.node);
            if here && !knowledge.present.contains(&id) {
                self.withdraw(call, &network, &id, &[]).await?;
            }
        }
        Ok(())
    }
}

// === impl Republished ===

impl Republished {
    fn note(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Written => self.written += 1,
            Outcome::There => self.there += 1,
            Outcome::Conflict(what) => self.conflicts.push(what),
        }
    }
}

/// Compares a key with what was read of it.
fn unchanged(key: &str, found: Option<&KeyValue>) -> Compare {
    // A key that is not there has revision 0.
    Compare::mod_revision(key, CompareOp::Equal, found.map_or(0, KeyValue::mod_revision))
}

fn of_value<T: serde::de::DeserializeOwned>(value: &Value) -> Option<T> {
    serde_json::from_value(value.clone()).ok()
}

fn is_static(key: &str, value: &Value) -> Option<NodeName> {
    match RecordKey::parse(key.as_bytes()) {
        Ok(RecordKey::Node(name)) if of_value::<NodeRecord>(value)?.is_static => Some(name),
        _ => None,
    }
}

/// The records of each of these nodes: its own, and those of what is on it.
fn of_nodes(
    records: &BTreeMap<String, Value>,
    nodes: &BTreeSet<NodeName>,
) -> BTreeMap<NodeName, BTreeMap<String, Value>> {
    let mut found: BTreeMap<NodeName, BTreeMap<String, Value>> = BTreeMap::new();
    for (key, value) in records {
        let node = match RecordKey::parse(key.as_bytes()) {
            Ok(RecordKey::Node(name)) => Some(name),
            Ok(RecordKey::Endpoint(..) | RecordKey::Port(..) | RecordKey::Learned(..)) => {
                value.get("node").and_then(Value::as_str).and_then(|node| node.parse().ok())
            }
            _ => None,
        };
        if let Some(node) = node.filter(|node| nodes.contains(node)) {
            found.entry(node).or_default().insert(key.clone(), value.clone());
        }
    }
    found
}
