//! Nodes: joining, staying alive, and third parties' VTEPs.

use std::time::Duration;

use futures::future::join_all;
use overlay_user::{
    MacAddr,
    state::{EndpointId, EndpointRecord, NodeRecord},
    store::StoreError,
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{assert_conflict, assert_invalid, etcd::*, subnet};

#[tokio::test]
async fn third_party_nodes_and_endpoints_are_entered_and_removed() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    store.join(&node("node1"), node_record("192.0.2.1")).await.unwrap();
    store.create_network(subnet("blue", "10.0.9.0/24")).await.unwrap();
    let (switch, vtep) = (node("switch"), "192.0.2.99".parse().unwrap());
    store.add_static_node(&switch, vtep, 4789).await.unwrap();
    assert_conflict(store.add_static_node(&switch, [192, 0, 2, 98].into(), 4789).await, "already");
    assert_conflict(store.add_static_node(&node("b"), vtep, 4789).await, "is node switch's");
    assert_conflict(store.add_static_node(&node("b"), [192, 0, 2, 98].into(), 8472).await, "VXLAN port 4789");
    assert_invalid(store.add_static_node(&node("b"), [127, 0, 0, 1].into(), 4789).await, "loopback");
    assert_conflict(store.join(&switch, node_record("192.0.2.99")).await, "third party's VTEP");

    let mac = MacAddr([2, 0, 0, 0, 0, 9]);
    let add = async |at: &str, ip: [u8; 4], mac: MacAddr| {
        store
            .add_static_endpoint(
                &network("blue"),
                &node(at),
                vec![ip.into()],
                mac,
                vec!["printer".to_owned()],
            )
            .await
    };
    let id = add("switch", [10, 0, 9, 50], mac).await.unwrap();
    assert_conflict(
        add("switch", [10, 0, 9, 50], MacAddr([2, 0, 0, 0, 0, 8])).await,
        "used by printer on switch",
    );
    assert_conflict(add("switch", [10, 0, 9, 51], mac).await, "used by printer on switch");
    assert_invalid(add("switch", [10, 0, 9, 51], MacAddr::BROADCAST).await, "multicast");
    assert_invalid(add("node1", [10, 0, 9, 51], mac).await, "runs overlayd");

    let mut followed = store.follow(CancellationToken::new());
    let found = until(&mut followed, "the endpoint", |f| f.state.endpoints.len() == 1).await;
    assert_eq!(found.state.endpoint(&network("blue"), &id).unwrap().node, switch);
    assert!(found.state.nodes[&switch].is_static);

    // Another that takes its place has its address at once.
    store.remove_endpoint(&network("blue"), &id).await.unwrap();
    let id = add("switch", [10, 0, 9, 50], MacAddr([2, 0, 0, 0, 0, 8])).await.unwrap();
    until(&mut followed, "the other", |f| f.state.endpoint(&network("blue"), &id).is_some()).await;
    let bound = etcd.client().await.get(format!("{PREFIX}addresses/blue/0a000932"), None).await.unwrap();
    assert_eq!(bound.kvs()[0].lease(), 0, "it goes when the other has cooled");

    assert_conflict(store.remove_node(&node("node1")).await, "is live");
    store.remove_node(&switch).await.unwrap();
    assert!(matches!(store.remove_node(&switch).await, Err(StoreError::NotFound(_))));
    until(&mut followed, "their end", |f| f.state.endpoints.is_empty() && f.state.nodes.len() == 1).await;
}

#[tokio::test]
async fn a_node_joins_again_after_a_crash_but_not_twice() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    assert_eq!(store.join(&node("node1"), node_record("192.0.2.1")).await.unwrap(), 1);
    let meta = etcd.get("meta").await.unwrap();
    let record = etcd.get("nodes/node1").await.unwrap();
    etcd.put("nodes/node1", record.replacen('{', r#"{"colour":"blue","#, 1)).await;

    // Its lease lives on; the same tunnel address tells that it is the same node.
    assert!(etcd.get("alive/node1").await.is_some());
    assert_eq!(etcd.store().join(&node("node1"), node_record("192.0.2.1")).await.unwrap(), 2);
    let record = etcd.get("nodes/node1").await.unwrap();
    assert!(record.contains(r#""colour":"blue""#) && record.contains(r#""incarnation":2"#), "{record}");
    assert_eq!(etcd.get("meta").await.unwrap(), meta);

    let twin = etcd.store().join(&node("node1"), node_record("192.0.2.9")).await;
    assert_conflict(twin, "node1 is in use by a live overlayd at 192.0.2.1");
    assert_conflict(store.join(&node("node3"), node_record("192.0.2.1")).await, "is node node1's");
    let other_port = NodeRecord { port: 8472, ..node_record("192.0.2.3") };
    assert_conflict(store.join(&node("node3"), other_port).await, "VXLAN port 4789, not 8472");

    etcd.delete("alive/node1").await;
    assert_eq!(store.join(&node("node1"), node_record("192.0.2.9")).await.unwrap(), 3);
    let record: NodeRecord = serde_json::from_str(&etcd.get("nodes/node1").await.unwrap()).unwrap();
    assert_eq!(record, NodeRecord { incarnation: 3, moved: 3, ..node_record("192.0.2.9") });
}

#[tokio::test]
async fn a_node_whose_address_changed_while_no_daemon_ran_is_known_by_its_host() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    let at = |host: &str, vtep| NodeRecord { host: host.to_owned(), ..node_record(vtep) };
    store.join(&node("node1"), at("boot/1", "192.0.2.1")).await.unwrap();
    store.create_network(new_network("blue")).await.unwrap();
    let (here, _) = attach(&store, "blue", "node1", "here", None).await;
    let (gone, _) = attach(&store, "blue", "node1", "gone", None).await;

    // Killed a moment ago, so that its lease lives.
    assert_conflict(store.join(&node("node1"), at("boot/2", "192.0.2.9")).await, "in use by a live overlayd");
    assert_conflict(store.join(&node("node1"), at("", "192.0.2.9")).await, "in use by a live overlayd");
    assert_eq!(store.join(&node("node1"), at("boot/1", "192.0.2.9")).await.unwrap(), 2);
    let release = async |incarnation, id| {
        store.release_orphan(&node("node1"), incarnation, &network("blue"), id).await.unwrap()
    };
    assert!(release(2, &gone).await, "its interface was on this host");

    etcd.delete("alive/node1").await;
    assert_eq!(store.join(&node("node1"), at("boot/2", "192.0.2.7")).await.unwrap(), 3);
    assert!(!release(3, &here).await, "its interface may be on the other host");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_daemons_that_take_one_name_at_once_one_joins() {
    let etcd = Etcd::start().await;
    let tasks = (0..4).map(|n| {
        let store = etcd.store();
        tokio::spawn(
            async move { store.join(&node("node1"), node_record(&format!("192.0.2.{}", n + 1))).await },
        )
    });
    let joined: Vec<_> = join_all(tasks).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(joined.iter().filter(|joined| joined.is_ok()).count(), 1, "{joined:?}");
}

#[tokio::test]
async fn a_sign_of_life_is_kept_until_told_or_taken_over() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    let name = node("node1");
    let incarnation = store.join(&name, node_record("192.0.2.1")).await.unwrap();
    let (applied, receiver) = watch::channel(0);
    let cancel = CancellationToken::new();
    let stay = |incarnation, receiver, cancel: &CancellationToken| {
        let (store, name, cancel) = (store.clone(), name.clone(), cancel.clone());
        tokio::spawn(async move { store.stay_alive(name, incarnation, receiver, cancel).await })
    };
    let first = stay(incarnation, receiver.clone(), &cancel);
    applied.send(7).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !etcd.get("alive/node1").await.unwrap().contains(r#""applied":7"#) {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let incarnation = etcd.store().join(&name, node_record("192.0.2.1")).await.unwrap();
    let second = stay(incarnation, receiver, &cancel);
    tokio::time::timeout(PATIENCE, first).await.expect("the first gives way").unwrap();
    assert!(etcd.get("alive/node1").await.unwrap().contains(r#""incarnation":2"#));
    cancel.cancel();
    tokio::time::timeout(PATIENCE, second).await.unwrap().unwrap();
    assert_eq!(etcd.get("alive/node1").await, None);
}

/// With every change in the cluster every node has a new value, and every value goes to every node.
#[tokio::test]
async fn signs_of_life_are_not_written_with_every_change() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    let name = node("node1");
    let incarnation = store.join(&name, node_record("192.0.2.1")).await.unwrap();
    let (applied, receiver) = watch::channel(0);
    let cancel = CancellationToken::new();
    let stopped = cancel.clone();
    let staying = tokio::spawn(async move { store.stay_alive(name, incarnation, receiver, stopped).await });
    for revision in 1..=110 {
        applied.send(revision).unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let key = format!("{PREFIX}alive/node1");
    let found = etcd.client().await.get(key, None).await.unwrap();
    assert_eq!(found.kvs()[0].version(), 2, "one by joining, one under the lease that is kept");
    cancel.cancel();
    staying.await.unwrap();
}

#[tokio::test]
async fn a_node_changes_its_record_while_it_is_its_own() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    let name = node("node1");
    let incarnation = store.join(&name, node_record("192.0.2.1")).await.unwrap();
    store.join(&node("node2"), node_record("192.0.2.2")).await.unwrap();
    store.update_node(&name, incarnation, node_record("192.0.2.3")).await.unwrap();
    let record: NodeRecord = serde_json::from_str(&etcd.get("nodes/node1").await.unwrap()).unwrap();
    assert_eq!(record, NodeRecord { incarnation, ..node_record("192.0.2.3") });
    assert_conflict(store.update_node(&name, incarnation, node_record("192.0.2.2")).await, "is node node2's");
    assert_invalid(store.update_node(&name, incarnation, node_record("127.0.0.1")).await, "loopback");
    assert_eq!(store.join(&name, node_record("192.0.2.3")).await.unwrap(), incarnation + 1);
    let late = store.update_node(&name, incarnation, node_record("192.0.2.4")).await;
    assert_conflict(late, "taken node node1 over");
    let unknown = store.update_node(&node("ghost"), 1, node_record("192.0.2.5")).await;
    assert!(matches!(unknown, Err(StoreError::NotFound(_))));
}

#[tokio::test]
async fn an_orphan_is_given_up_by_its_owner_and_nobody_else() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    let name = node("node1");
    store.join(&name, node_record("192.0.2.1")).await.unwrap();
    store.create_network(subnet("blue", "10.0.9.0/24")).await.unwrap();
    let blue = network("blue");
    let (id, _) = attach(&store, "blue", "node1", "web", None).await;
    let key = format!("endpoints/blue/{id}");
    assert_conflict(store.release_orphan(&name, 7, &blue, &id).await, "taken node node1 over");
    store.join(&node("node2"), node_record("192.0.2.2")).await.unwrap();
    assert!(store.release_orphan(&node("node2"), 1, &blue, &id).await.unwrap(), "it is not that node's");
    assert!(etcd.get(&key).await.is_some());

    // A daemon with its name and another address is perhaps another machine, and stays so over restarts.
    etcd.delete("alive/node1").await;
    store.join(&name, node_record("192.0.2.7")).await.unwrap();
    let incarnation = store.join(&name, node_record("192.0.2.7")).await.unwrap();
    assert!(!store.release_orphan(&name, incarnation, &blue, &id).await.unwrap());
    store.update_node(&name, incarnation, node_record("192.0.2.8")).await.unwrap();
    assert!(!store.release_orphan(&name, incarnation, &blue, &id).await.unwrap());
    assert!(etcd.get(&key).await.is_some());

    // What is attached there since is its own.
    let own = EndpointId::random();
    let reserved = store.reserve_addresses(&blue, &name, &own, Some("db"), &[]).await.unwrap();
    let record = EndpointRecord { incarnation, ..endpoint_record("node1", &reserved, &["db"]) };
    store.bind_endpoint(&reserved, &record).await.unwrap();
    assert!(store.release_orphan(&name, incarnation, &blue, &own).await.unwrap());
    assert_eq!(etcd.get(&format!("endpoints/blue/{own}")).await, None);
    assert!(store.release_orphan(&name, incarnation, &blue, &own).await.unwrap(), "twice is no error");
}

#[tokio::test]
async fn an_operators_decision_outlives_what_the_node_writes() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    let name = node("node1");
    let incarnation = store.join(&name, node_record("192.0.2.1")).await.unwrap();
    let drained = async || {
        let record: NodeRecord = serde_json::from_str(&etcd.get("nodes/node1").await.unwrap()).unwrap();
        record.drained
    };
    store.set_drained(&name, true).await.unwrap();
    store.update_node(&name, incarnation, node_record("192.0.2.3")).await.unwrap();
    assert!(drained().await);
    store.join(&name, node_record("192.0.2.3")).await.unwrap();
    assert!(drained().await);
    store.set_drained(&name, false).await.unwrap();
    assert!(!drained().await);
    assert!(matches!(store.set_drained(&node("ghost"), true).await, Err(StoreError::NotFound(_))));
    store.add_static_node(&node("switch"), [192, 0, 2, 99].into(), 4789).await.unwrap();
    assert_invalid(store.set_drained(&node("switch"), true).await, "third party's VTEP");
}
