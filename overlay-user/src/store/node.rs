//! Nodes: joining the cluster, entering a third party's VTEP, and removing either.

use std::net::IpAddr;

use etcd_client::{Compare, CompareOp, KeyValue, PutOptions, TxnOp};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{
    Store, StoreError,
    alive::ALIVE_SECONDS,
    call::{Call, Mark},
    network::wait_in_a_race,
    value::{decoded, encoded, replaced},
};
use crate::state::{
    AliveRecord, EndpointId, EndpointRecord, NetworkName, Node, NodeName, NodeRecord, RecordKey,
};

/// How often a change of a node's record that met another is tried again.
const TRIES: u32 = 10;

/// Endpoints withdrawn at a time when their node is removed.
const AT_A_TIME: usize = 16;

/// A node's records as they were read.
struct Standing {
    node: Option<KeyValue>,
    alive: Option<KeyValue>,
}

// === impl Store ===

impl Store {
    /// Writes `meta` if this is the first node, and this node's record with the next incarnation and
    /// its first sign of life. Returns the incarnation. Refuses if another live daemon has the name.
    ///
    /// A daemon with the same tunnel address, or on the same host, is this node's own from before: it is taken
    /// over from, even while its lease lives.
    pub async fn join(&self, node: &NodeName, record: NodeRecord) -> Result<u64, StoreError> {
        Node::from_record(&record).map_err(|e| StoreError::Invalid(e.to_string()))?;
        let call = self.call();
        self.found_cluster(&call).await?;
        for attempt in 1..=TRIES {
            if let Some(incarnation) = self.try_join(&call, node, &record).await? {
                return Ok(incarnation);
            }
            wait_in_a_race(attempt).await;
        }
        Err(keeps_changing(node, "joined"))
    }

    /// Changes the record of this node, as its underlay or its data path has changed. Refuses if a
    /// later incarnation has taken over.
    pub async fn update_node(
        &self,
        node: &NodeName,
        incarnation: u64,
        record: NodeRecord,
    ) -> Result<(), StoreError> {
        Node::from_record(&record).map_err(|e| StoreError::Invalid(e.to_string()))?;
        let call = self.call();
        self.check_others(&call, node, &record).await?;
        let key = self.keys().node(node);
        for attempt in 1..=TRIES {
            let found = call.get(&key).await?;
            let found = found.ok_or_else(|| StoreError::NotFound(format!("there is no node {node}")))?;
            let old = decoded::<NodeRecord>(found.value());
            if old.as_ref().is_some_and(|old| old.incarnation > incarnation) {
                return Err(taken_over(node));
            }
            let (moved, drained) = old.map_or((0, false), |old| (old.moved, old.drained));
            let record = NodeRecord { incarnation, moved, drained, ..record.clone() };
            let put = TxnOp::put(key.as_str(), replaced(found.value(), &record)?, None);
            if call.commit(vec![unchanged(&key, Some(&found))], vec![put], None).await?.is_some() {
                return Ok(());
            }
            wait_in_a_race(attempt).await;
        }
        Err(keeps_changing(node, "changed"))
    }

    /// Enters a third party's VTEP as a node.
    pub async fn add_static_node(&self, name: &NodeName, vtep: IpAddr, port: u16) -> Result<(), StoreError> {
        let record = NodeRecord {
            vtep,
            port,
            mtu: None,
            datapath: String::new(),
            reason: String::new(),
            version: String::new(),
            incarnation: 0,
            host: String::new(),
            moved: 0,
            drained: false,
            prefixes: Vec::new(),
            is_static: true,
        };
        Node::from_record(&record).map_err(|e| StoreError::Invalid(e.to_string()))?;
        let call = self.call();
        self.check_cluster(&call).await?;
        self.check_others(&call, name, &record).await?;
        let (key, value) = (self.keys().node(name), encoded(&record)?);
        let is_new = Compare::create_revision(key.as_str(), CompareOp::Equal, 0);
        let put = TxnOp::put(key.as_str(), value.clone(), None);
        match call.commit(vec![is_new], vec![put], Some(Mark { key: &key, value: &value })).await? {
            Some(_) => Ok(()),
            None => Err(StoreError::Conflict(format!("there is a node {name} already"))),
        }
    }

    /// Says whether endpoints may be attached to a node.
    pub async fn set_drained(&self, name: &NodeName, drained: bool) -> Result<(), StoreError> {
        let call = self.call();
        self.check_cluster(&call).await?;
        let key = self.keys().node(name);
        for attempt in 1..=TRIES {
            let found = call.get(&key).await?;
            let found = found.ok_or_else(|| StoreError::NotFound(format!("there is no node {name}")))?;
            let record = decoded::<NodeRecord>(found.value());
            let record = record
                .ok_or_else(|| StoreError::Conflict(format!("the record of node {name} cannot be read")))?;
            if record.is_static {
                return Err(StoreError::Invalid(format!(
                    "node {name} is a third party's VTEP: nothing is attached there"
                )));
            }
            if record.drained == drained {
                return Ok(());
            }
            let put =
                TxnOp::put(key.as_str(), replaced(found.value(), &NodeRecord { drained, ..record })?, None);
            if call.commit(vec![unchanged(&key, Some(&found))], vec![put], None).await?.is_some() {
                return Ok(());
            }
            wait_in_a_race(attempt).await;
        }
        Err(keeps_changing(name, "changed"))
    }

    /// Removes a node, its endpoints and their addresses. Refuses a live node.
    pub async fn remove_node(&self, name: &NodeName) -> Result<(), StoreError> {
        let call = Call::stepwise(&self.inner.connection);
        let key = self.keys().node(name);
        for attempt in 1..=TRIES {
            let Some(found) = call.get(&key).await? else {
                if attempt > 1 {
                    // The removal whose answer was lost, or another's, has done it.
                    return self.withdraw_all_of(&call, name).await;
                }
                return Err(StoreError::NotFound(format!("there is no node {name}")));
            };
            if call.get(&self.keys().alive(name)).await?.is_some() {
                return Err(StoreError::Conflict(format!(
                    "node {name} is live: stop overlayd there and wait {ALIVE_SECONDS} s"
                )));
            }
            self.withdraw_all_of(&call, name).await?;
            let compares = vec![
                Compare::mod_revision(key.as_str(), CompareOp::Equal, found.mod_revision()),
                Compare::create_revision(self.keys().alive(name), CompareOp::Equal, 0),
            ];
            if call.commit(compares, vec![TxnOp::delete(key.as_str(), None)], None).await?.is_some() {
                // What was bound between; without the node's record nothing is bound any more.
                return self.withdraw_all_of(&call, name).await;
            }
            wait_in_a_race(attempt).await;
        }
        Err(keeps_changing(name, "removed"))
    }

    async fn withdraw_all_of(&self, call: &Call<'_>, node: &NodeName) -> Result<(), StoreError> {
        self.withdraw_ports_of(call, node).await?;
        let endpoints: Vec<(NetworkName, EndpointId)> = call
            .list(&self.keys().all_endpoints())
            .await?
            .iter()
            .filter(|kv| decoded::<EndpointRecord>(kv.value()).is_some_and(|r| r.node == *node))
            .filter_map(|kv| match RecordKey::parse(self.keys().relative(kv.key())?) {
                Ok(RecordKey::Endpoint(network, id)) => Some((network, id)),
                _ => None,
            })
            .collect();
        stream::iter(endpoints)
            .map(async |(network, id)| self.withdraw(call, &network, &id, &[]).await)
            .buffer_unordered(AT_A_TIME)
            .try_for_each(async |_| Ok(()))
            .await
    }

    async fn try_join(
        &self,
        call: &Call<'_>,
        name: &NodeName,
        record: &NodeRecord,
    ) -> Result<Option<u64>, StoreError> {
        let (key, alive_key) = (self.keys().node(name), self.keys().alive(name));
        let standing = Standing { node: call.get(&key).await?, alive: call.get(&alive_key).await? };
        let old = standing.check(name, record)?;
        self.check_others(call, name, record).await?;
        let incarnation = old.as_ref().map_or(0, |old| old.incarnation).saturating_add(1);
        let (moved, drained) = match old {
            Some(old) if !old.is_of_same_host(record) => (incarnation, old.drained),
            Some(old) => (old.moved, old.drained),
            None => (0, false),
        };
        let record = NodeRecord { incarnation, moved, drained, ..record.clone() };
        let value = match &standing.node {
            Some(found) => replaced(found.value(), &record)?,
            None => encoded(&record)?,
        };
        let lease = call.grant(ALIVE_SECONDS).await?;
        let alive = encoded(&AliveRecord { incarnation, applied: 0 })?;
        let compares =
            vec![unchanged(&key, standing.node.as_ref()), unchanged(&alive_key, standing.alive.as_ref())];
        let operations = vec![
            TxnOp::put(key.as_str(), value.clone(), None),
            TxnOp::put(alive_key, alive, Some(PutOptions::new().with_lease(lease))),
        ];
        let done = call.commit(compares, operations, Some(Mark { key: &key, value: &value })).await?;
        if done.is_none() {
            call.revoke(lease).await;
        }
        Ok(done.map(|_| incarnation))
    }

    /// Refuses a tunnel address that another node has, and a port that live nodes do not use.
    async fn check_others(
        &self,
        call: &Call<'_>,
        name: &NodeName,
        record: &NodeRecord,
    ) -> Result<(), StoreError> {
        for kv in call.list(&self.keys().nodes()).await? {
            let key = self.keys().relative(kv.key()).unwrap_or_default();
            let (Ok(RecordKey::Node(other)), Some(found)) =
                (RecordKey::parse(key), decoded::<NodeRecord>(kv.value()))
            else {
                continue;
            };
            if other == *name {
                continue;
            }
            if found.vtep == record.vtep {
                return Err(StoreError::Conflict(format!(
                    "the tunnel address {} is node {other}'s; if that node is gone, remove it with \
                     `overlayctl node rm {other}`",
                    record.vtep
                )));
            }
            if found.port != record.port && call.get(&self.keys().alive(&other)).await?.is_some() {
                return Err(StoreError::Conflict(format!(
                    "node {other} uses VXLAN port {}, not {}: all nodes of a cluster use one port",
                    found.port, record.port
                )));
            }
        }
        Ok(())
    }
}

// === impl Standing ===

impl Standing {
    /// Refuses if the name is another's. Returns the old record of this node.
    fn check(&self, name: &NodeName, record: &NodeRecord) -> Result<Option<NodeRecord>, StoreError> {
        let old = self.node.as_ref().and_then(|found| decoded::<NodeRecord>(found.value()));
        let Some(old) = old else {
            return Ok(None);
        };
        if old.is_static {
            return Err(StoreError::Conflict(format!(
                "node {name} is a third party's VTEP at {}; remove it with `overlayctl node rm {name}`, or give \
                 this node another name",
                old.vtep
            )));
        }
        if self.alive.is_some() && !old.is_of_same_host(record) {
            return Err(StoreError::Conflict(format!(
                "the node name {name} is in use by a live overlayd at {}; give this node another name, or if that \
                 one is this node with its address of before, try again in {ALIVE_SECONDS} s",
                old.vtep
            )));
        }
        Ok(Some(old))
    }
}

pub(super) fn taken_over(node: &NodeName) -> StoreError {
    StoreError::Conflict(format!("another overlayd has taken node {node} over"))
}

fn keeps_changing(name: &NodeName, done: &str) -> StoreError {
    StoreError::Conflict(format!("node {name} was not {done}: its record keeps changing; try again"))
}

/// Compares a key with what was read of it.
fn unchanged(key: &str, found: Option<&KeyValue>) -> Compare {
    // A key that is not there has revision 0.
    Compare::mod_revision(key, CompareOp::Equal, found.map_or(0, KeyValue::mod_revision))
}
