//! The store as it is against what was followed, record by record.

use std::{collections::BTreeMap, time::Duration};

use imbl::{OrdMap, ordmap::DiffItem};

use super::{Area, Finding};
use crate::{api::Context, datapath::MOST_DIFFERENCES, state::State, store::StoreHealth};

/// What changes in the store takes this long at most to be followed, with a wide margin.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(3);

/// When so many records differ that have not changed since, it no longer matters which others do.
const ENOUGH: usize = 10 * MOST_DIFFERENCES;

/// How often it is looked whether it has been.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Compares `fresh`, which was just read, with what is followed. What has changed in the store since is not told, and
/// what is not followed yet is waited for.
pub async fn compare(context: &Context, fresh: &State) -> Vec<Finding> {
    // What is not followed at the moment is told as such.
    if context.followed.borrow().health != StoreHealth::Synced {
        return Vec::new();
    }
    let first = difference(fresh, &context.followed.borrow().state);
    let mut differing = BTreeMap::new();
    for (key, how) in first {
        let enough = differing.len() >= ENOUGH;
        if enough || !is_changed_since(context, fresh.revision, &key, how).await {
            differing.insert(key, how);
        }
    }
    let end = tokio::time::Instant::now() + FOLLOWED_WITHIN;
    while !differing.is_empty() && tokio::time::Instant::now() < end {
        tokio::time::sleep(LOOK_AGAIN).await;
        let now = difference(fresh, &context.followed.borrow().state);
        differing.retain(|key, _| now.contains_key(key));
    }
    let total = differing.len();
    let cause = "an event of etcd's watch was lost, or has not come within three seconds";
    let cure = "overlayctl doctor --fix (reads everything again)";
    let mut findings: Vec<_> = differing
        .into_iter()
        .take(MOST_DIFFERENCES)
        .map(|(key, how)| Finding::error(Area::Store, format!("record {key}: {how}"), cause, cure))
        .collect();
    if total > MOST_DIFFERENCES {
        let what = format!("{} more records are not what is followed", total - MOST_DIFFERENCES);
        findings.push(Finding::error(Area::Store, what, cause, cure));
    }
    findings
}

/// Whether a record that differs was written or deleted after the store was read: then what is followed may be newer.
async fn is_changed_since(context: &Context, revision: i64, key: &str, how: &str) -> bool {
    // MAC addresses stand in keys without colons, and nothing else has any.
    let (key, was) = (key.replace(':', ""), how != side(true, false));
    // Where etcd does not answer, the difference stands.
    context.store.is_changed_since(&key, revision, was).await.is_ok_and(|changed| changed)
}

/// The records that differ, and how.
fn difference(store: &State, followed: &State) -> BTreeMap<String, &'static str> {
    let mut differing = BTreeMap::new();
    let State {
        revision: _,
        networks,
        nodes,
        endpoints,
        ports,
        learned,
        alive,
        rejected: _,
        rejected_more: _,
    } = store;
    sides(networks, &followed.networks, |name| format!("networks/{name}"), &mut differing);
    sides(nodes, &followed.nodes, |name| format!("nodes/{name}"), &mut differing);
    followed.endpoints.compare(endpoints, |network, followed, store| {
        let id = store.or(followed).map(|endpoint| &endpoint.id);
        let Some(id) = id else { return };
        differing.insert(format!("endpoints/{network}/{id}"), side(followed.is_some(), store.is_some()));
    });
    sides(ports, &followed.ports, |(net, id)| format!("ports/{net}/{id}"), &mut differing);
    sides(learned, &followed.learned, |(net, mac)| format!("learned/{net}/{mac}"), &mut differing);
    for node in alive.clone().symmetric_difference(followed.alive.clone()) {
        differing.insert(format!("alive/{node}"), side(true, true));
    }
    differing
}

fn sides<K: Ord, V: PartialEq>(
    store: &OrdMap<K, V>,
    followed: &OrdMap<K, V>,
    key: impl Fn(&K) -> String,
    differing: &mut BTreeMap<String, &'static str>,
) {
    for item in followed.diff(store) {
        let (name, how) = match item {
            DiffItem::Add(name, _) => (name, side(false, true)),
            DiffItem::Remove(name, _) => (name, side(true, false)),
            DiffItem::Update { new: (name, _), .. } => (name, side(true, true)),
        };
        differing.insert(key(name), how);
    }
}

const fn side(is_followed: bool, is_in_store: bool) -> &'static str {
    match (is_followed, is_in_store) {
        (false, _) => "etcd has it, what is followed has not",
        (_, false) => "it is followed, and etcd does not have it",
        (true, true) => "what is followed differs from what etcd has",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{RawRecord, RecordSet};

    fn state(records: &[(&str, &str)]) -> State {
        let mut set = RecordSet::default();
        for (key, value) in records {
            set.put(RawRecord { key: key.as_bytes(), value: value.as_bytes(), create_revision: 1 });
        }
        set.state(1)
    }

    #[test]
    fn each_side_is_told() {
        let n1 = ("nodes/n1", r#"{"vtep":"192.0.2.1","port":4789}"#);
        let n2 = ("nodes/n2", r#"{"vtep":"192.0.2.2","port":4789}"#);
        let moved = ("nodes/n1", r#"{"vtep":"192.0.2.9","port":4789}"#);
        let alive = ("alive/n1", r#"{"incarnation":1}"#);
        assert_eq!(difference(&state(&[n1]), &state(&[n1])), BTreeMap::new());
        let told = difference(&state(&[n1, alive]), &state(&[moved, n2]));
        let keys: Vec<_> = told.keys().map(String::as_str).collect();
        assert_eq!(keys, ["alive/n1", "nodes/n1", "nodes/n2"]);
        assert!(told["nodes/n2"].contains("etcd does not have it"));
    }
}
