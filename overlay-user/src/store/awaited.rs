//! Nodes that have not written their records into a store that was lost yet. What was known of them before stands
//! until they have, or until an operator removes them: what is forwarded to them is not withdrawn for that they
//! are slower than this node.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;

use crate::state::{NodeName, RawRecord, RecordKey, RecordSet};

/// Stands after every record of the store: where two cannot both be, the store's does.
const LAST: i64 = i64::MAX;

/// The nodes that are awaited, and their records.
#[derive(Debug, Default)]
pub(super) struct Awaited {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// A sign of life at this revision or before it was left in the store by the node's earlier life.
    since: i64,
    /// Records by their keys relative to the cluster's prefix.
    nodes: BTreeMap<NodeName, BTreeMap<String, Value>>,
}

/// What a whole read of the store has that concerns awaited nodes.
pub(super) struct Roll<'a> {
    awaited: &'a Awaited,
    /// Nobody is awaited.
    idle: bool,
    /// Awaited keys that were not met.
    missing: BTreeSet<String>,
    /// Revisions of signs of life.
    alive: BTreeMap<NodeName, i64>,
}

impl<'a> Roll<'a> {
    /// Begins with a read.
    pub fn new(awaited: &'a Awaited) -> Self {
        Self { idle: awaited.names().is_empty(), missing: awaited.keys(), alive: BTreeMap::new(), awaited }
    }

    /// Takes in one key of it, relative to the cluster's prefix.
    pub fn meet(&mut self, key: &[u8], revision: i64) {
        if self.idle {
            return;
        }
        if let Ok(key) = str::from_utf8(key) {
            self.missing.remove(key);
        }
        if let Ok(RecordKey::Alive(node)) = RecordKey::parse(key) {
            self.alive.insert(node, revision);
        }
    }

    /// Adds to `records`, which were read to be followed, what they have not of awaited nodes. Who lives is awaited
    /// no longer, and what the store has is the store's from now on.
    pub fn complete(self, records: &mut RecordSet) {
        let mut inner = self.awaited.lock();
        let since = inner.since;
        inner.nodes.retain(|node, known| {
            known.retain(|key, _| self.missing.contains(key));
            self.is_awaited(node, since)
        });
        for (key, value) in inner.nodes.values().flatten() {
            put(records, key, value);
        }
    }

    /// Adds to `records`, which were read to be looked at, what those that are followed have beside the store's.
    pub fn show(self, records: &mut RecordSet) {
        let inner = self.awaited.lock();
        for (node, known) in &inner.nodes {
            for (key, value) in known.iter().filter(|(key, _)| self.missing.contains(*key)) {
                if self.is_awaited(node, inner.since) {
                    put(records, key, value);
                }
            }
        }
    }

    fn is_awaited(&self, node: &NodeName, since: i64) -> bool {
        self.alive.get(node).is_none_or(|revision| *revision <= since)
    }
}

impl Awaited {
    /// Awaits the nodes that `records` are of, until they live after revision `since`.
    pub fn set(&self, since: i64, records: BTreeMap<NodeName, BTreeMap<String, Value>>) {
        *self.lock() = Inner { since, nodes: records };
    }

    /// Who is awaited.
    pub fn names(&self) -> Vec<NodeName> {
        self.lock().nodes.keys().cloned().collect()
    }

    /// The revision that awaited nodes were not there at.
    pub fn since(&self) -> i64 {
        self.lock().since
    }

    /// The keys that are awaited.
    fn keys(&self) -> BTreeSet<String> {
        self.lock().nodes.values().flat_map(BTreeMap::keys).cloned().collect()
    }

    /// Takes in that a key was written. Returns whether that changed `records`: a node that lives is awaited no
    /// longer, and what was known of it, and is not in the store, goes.
    pub fn written(&self, records: &mut RecordSet, key: &[u8]) -> bool {
        let mut inner = self.lock();
        if inner.nodes.is_empty() {
            return false;
        }
        for known in inner.nodes.values_mut() {
            // From now on it is the store's.
            known.retain(|other, _| other.as_bytes() != key);
        }
        let Ok(RecordKey::Alive(node)) = RecordKey::parse(key) else { return false };
        let Some(known) = inner.nodes.remove(&node) else { return false };
        known.keys().filter(|key| records.delete(key.as_bytes())).count() > 0
    }

    /// Awaits a node no longer. Returns whether it was.
    pub fn forget(&self, node: &NodeName) -> bool {
        self.lock().nodes.remove(node).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it is held.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn put(records: &mut RecordSet, key: &str, value: &Value) {
    let value = value.to_string();
    records.put(RawRecord { key: key.as_bytes(), value: value.as_bytes(), create_revision: LAST });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NODE: &str = "nodes/n2";
    const ENDPOINT: &str = "endpoints/blue/aaaaaaaaaaaa";

    fn awaiting() -> (Awaited, RecordSet) {
        let node = json!({"vtep": "192.0.2.2", "port": 4789});
        let endpoint = json!({"node": "n2", "mac": "02:42:0a:00:09:02", "addresses": ["10.0.9.2"]});
        let records = [(NODE.to_owned(), node), (ENDPOINT.to_owned(), endpoint)].into();
        let awaited = Awaited::default();
        awaited.set(7, [("n2".parse().unwrap(), records)].into());
        let mut read = RecordSet::default();
        let value = br#"{"vni":7,"subnet":"10.0.9.0/24","gateway":"10.0.9.1"}"#;
        read.put(RawRecord { key: b"networks/blue", value, create_revision: 1 });
        (awaited, read)
    }

    fn known(records: &mut RecordSet) -> (usize, usize) {
        let state = records.state(1);
        (state.nodes.len(), state.endpoints.len())
    }

    #[test]
    fn what_was_known_of_a_node_stands_until_it_lives() {
        let (awaited, mut records) = awaiting();
        Roll::new(&awaited).complete(&mut records);
        assert_eq!(known(&mut records), (1, 1));
        assert!(!awaited.written(&mut records, NODE.as_bytes()));
        assert_eq!(known(&mut records), (1, 1), "its record is the store's now");
        assert!(awaited.written(&mut records, b"alive/n2"));
        assert_eq!(known(&mut records), (1, 0), "it lives, and has not written its endpoint");
        assert_eq!(awaited.names(), []);
    }

    #[test]
    fn a_sign_of_an_earlier_life_is_none() {
        for (revision, nodes) in [(7, 1), (8, 0)] {
            let (awaited, mut records) = awaiting();
            let mut roll = Roll::new(&awaited);
            roll.meet(b"alive/n2", revision);
            roll.complete(&mut records);
            assert_eq!((known(&mut records).0, awaited.names().len()), (nodes, nodes));
        }
    }

    #[test]
    fn what_a_read_found_in_the_store_stays_when_its_node_lives() {
        let (awaited, mut records) = awaiting();
        for (key, value) in [
            (NODE, r#"{"vtep":"192.0.2.2","port":4789}"#),
            (ENDPOINT, r#"{"node":"n2","mac":"02:42:0a:00:09:02","addresses":["10.0.9.2"]}"#),
        ] {
            records.put(RawRecord { key: key.as_bytes(), value: value.as_bytes(), create_revision: 8 });
        }
        let mut roll = Roll::new(&awaited);
        roll.meet(NODE.as_bytes(), 8);
        roll.meet(ENDPOINT.as_bytes(), 8);
        roll.complete(&mut records);
        assert!(!awaited.written(&mut records, b"alive/n2"));
        assert_eq!(known(&mut records), (1, 1));
    }

    #[test]
    fn who_only_looks_changes_nothing() {
        let (awaited, mut records) = awaiting();
        let mut roll = Roll::new(&awaited);
        roll.meet(b"alive/n2", 8);
        roll.show(&mut records);
        assert_eq!((known(&mut records), awaited.names().len()), ((0, 0), 1));
    }

    #[test]
    fn the_store_goes_before_what_was_known() {
        let (awaited, mut records) = awaiting();
        let value = br#"{"node":"n1","mac":"02:42:0a:00:09:09","addresses":["10.0.9.2"]}"#;
        records.put(RawRecord { key: b"endpoints/blue/bbbbbbbbbbbb", value, create_revision: 9 });
        let value = br#"{"vtep":"192.0.2.1","port":4789}"#;
        records.put(RawRecord { key: b"nodes/n1", value, create_revision: 9 });
        Roll::new(&awaited).complete(&mut records);
        let state = records.state(1);
        assert_eq!((state.nodes.len(), state.endpoints.len()), (2, 1));
        assert!(state.rejected.contains_key(ENDPOINT), "{:?}", state.rejected);
    }
}
