//! Changing the store by transactions, against a real etcd.

mod etcd;

use std::{collections::BTreeSet, time::Duration};

use etcd::*;
use futures::future::join_all;
use overlay_user::{
    MacAddr,
    state::{AddressRecord, AddressState, EndpointId, NodeRecord},
    store::{NewNetwork, StoreError},
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

#[track_caller]
fn assert_conflict<T: std::fmt::Debug>(result: Result<T, StoreError>, says: &str) {
    match result {
        Err(StoreError::Conflict(text)) if text.contains(says) => {}
        other => panic!("no conflict that says {says:?}: {other:?}"),
    }
}

#[track_caller]
fn assert_invalid<T: std::fmt::Debug>(result: Result<T, StoreError>, says: &str) {
    match result {
        Err(StoreError::Invalid(text)) if text.contains(says) => {}
        other => panic!("not invalid with {says:?}: {other:?}"),
    }
}

fn subnet(name: &str, cidr: &str) -> NewNetwork {
    NewNetwork { subnet: Some(cidr.parse().unwrap()), ..new_network(name) }
}

#[tokio::test]
async fn a_network_gets_what_it_does_not_ask_for() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    let blue = store.create_network(new_network("blue")).await.unwrap();
    assert_eq!((blue.vni, blue.subnet.to_string().as_str()), (4096, "10.64.0.0/24"));
    assert_eq!(blue.gateway.to_string(), "10.64.0.1");
    let red = store.create_network(new_network("red")).await.unwrap();
    assert_eq!((red.vni, red.subnet.to_string().as_str()), (4097, "10.64.1.0/24"));
    assert_eq!(etcd.get("vnis/00004097").await.as_deref(), Some("red"));
    assert_eq!(etcd.get("subnets/guard").await.as_deref(), Some("2"));
}

#[tokio::test]
async fn what_another_network_has_is_refused_by_its_name() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    let blue = NewNetwork { vni: Some(overlay_user::Vni::new(77).unwrap()), ..subnet("blue", "10.0.9.0/24") };
    store.create_network(blue.clone()).await.unwrap();
    assert_conflict(store.create_network(blue.clone()).await, "blue exists already (VNI 77, 10.0.9.0/24)");
    let same_vni = NewNetwork { subnet: None, name: network("red"), ..blue.clone() };
    assert_conflict(store.create_network(same_vni).await, "VNI 77 is used by network blue");
    let over = subnet("red", "10.0.8.0/23");
    assert_conflict(store.create_network(over.clone()).await, "overlaps 10.0.9.0/24 of network blue");
    store.create_network(NewNetwork { allow_overlap: true, ..over }).await.unwrap();
    assert_invalid(store.create_network(subnet("six", "fd00::/64")).await, "not supported yet");
    assert_invalid(store.create_network(subnet("host", "10.0.9.7/24")).await, "write 10.0.9.0/24");
    let outside = NewNetwork { gateway: Some([10, 1, 1, 1].into()), ..subnet("gw", "10.5.0.0/24") };
    assert_invalid(store.create_network(outside).await, "gateway");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn networks_created_at_once_share_nothing() {
    let etcd = Etcd::start().await;
    let tasks = (0..16).map(|n| {
        let store = etcd.store();
        tokio::spawn(async move { store.create_network(new_network(&format!("net{n}"))).await })
    });
    let made: Vec<_> = join_all(tasks).await.into_iter().map(|made| made.unwrap().unwrap()).collect();
    assert_eq!(made.iter().map(|n| n.vni).collect::<BTreeSet<_>>().len(), 16);
    assert_eq!(made.iter().map(|n| n.subnet).collect::<BTreeSet<_>>().len(), 16);

    let tasks = (0..8).map(|n| {
        let store = etcd.store();
        tokio::spawn(async move { store.create_network(subnet("one", &format!("10.{n}.0.0/16"))).await })
    });
    let made: Vec<_> = join_all(tasks).await.into_iter().map(Result::unwrap).collect();
    let (won, lost): (Vec<_>, Vec<_>) = made.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    for lost in lost {
        assert_conflict(lost, "network one exists already");
    }
}

#[tokio::test]
async fn a_network_in_use_is_not_removed_and_its_users_are_named() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    store.join(&node("node2"), node_record("192.0.2.2")).await.unwrap();
    store.create_network(subnet("blue", "10.0.9.0/24")).await.unwrap();
    let (web, _) = attach(&store, "blue", "node2", "web", Some("10.0.9.4")).await;
    assert_conflict(store.remove_network(&network("blue")).await, "in use by web on node2 (10.0.9.4)");
    let mut others = Vec::new();
    for n in 0..4 {
        others.push(attach(&store, "blue", "node2", &format!("db{n}"), None).await.0);
    }
    assert_conflict(store.remove_network(&network("blue")).await, " and 2 more");
    for id in others.iter().chain([&web]) {
        store.remove_endpoint(&network("blue"), id).await.unwrap();
    }
    store.remove_network(&network("blue")).await.unwrap();
    assert!(matches!(store.remove_network(&network("blue")).await, Err(StoreError::NotFound(_))));
    let left =
        etcd.client().await.get(PREFIX, Some(etcd_client::GetOptions::new().with_prefix())).await.unwrap();
    let left: Vec<_> =
        left.kvs().iter().map(|kv| kv.key_str().unwrap().strip_prefix(PREFIX).unwrap()).collect();
    assert_eq!(left, ["alive/node2", "meta", "nodes/node2", "subnets/guard"]);
    assert_eq!(store.create_network(new_network("blue")).await.unwrap().vni, 4096);
}

#[tokio::test]
async fn addresses_that_cannot_be_given_are_refused() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    store.join(&node("node2"), node_record("192.0.2.2")).await.unwrap();
    store.create_network(subnet("blue", "10.0.9.0/24")).await.unwrap();
    attach(&store, "blue", "node2", "web", Some("10.0.9.4")).await;
    let reserve = async |to: &str, ip: &str| {
        let id = EndpointId::random();
        store.reserve_address(&network(to), &node("node1"), &id, None, Some(ip.parse().unwrap())).await
    };
    assert_conflict(reserve("blue", "10.0.9.4").await, "10.0.9.4 is used by web on node2");
    assert_invalid(reserve("blue", "10.0.8.4").await, "not in the subnet");
    assert_invalid(reserve("blue", "10.0.9.0").await, "network address");
    assert_invalid(reserve("blue", "10.0.9.255").await, "broadcast");
    assert_invalid(reserve("blue", "10.0.9.1").await, "gateway");
    assert!(
        matches!(reserve("red", "10.0.9.4").await, Err(StoreError::NotFound(t)) if t == "there is no network red")
    );
    reserve("blue", "10.0.9.5").await.unwrap();
    assert_conflict(reserve("blue", "10.0.9.5").await, "is being given to");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_asked_for_at_once_are_given_once() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    // 14 hosts less the gateway: 13 addresses for 16 askers, all of one node so that they collide.
    store.create_network(subnet("blue", "10.0.9.0/28")).await.unwrap();
    let tasks = (0..16).map(|_| {
        let store = etcd.store();
        tokio::spawn(async move {
            store.reserve_address(&network("blue"), &node("node1"), &EndpointId::random(), None, None).await
        })
    });
    let got: Vec<_> = join_all(tasks).await.into_iter().map(Result::unwrap).collect();
    let (got, refused): (Vec<_>, Vec<_>) = got.into_iter().partition(Result::is_ok);
    let got: Vec<_> = got.into_iter().map(Result::unwrap).collect();
    assert_eq!(got.iter().map(|r| r.address).collect::<BTreeSet<_>>().len(), 13);
    assert_eq!(got.len(), 13);
    for refused in refused {
        assert_conflict(
            refused,
            "network blue is full: 10.0.9.0/28 has 13 addresses to give; 13 are used, 0 cooling",
        );
    }
    for reservation in got {
        store.release(reservation).await.unwrap();
    }
    let leases = etcd.client().await.leases().await.unwrap();
    assert!(leases.leases().is_empty(), "{leases:?}");
    store.reserve_address(&network("blue"), &node("node1"), &EndpointId::random(), None, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_made_at_once_share_nothing() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    store.create_network(subnet("blue", "10.0.9.0/24")).await.unwrap();
    for n in 0..4 {
        store.join(&node(&format!("node{n}")), node_record(&format!("192.0.2.1{n}"))).await.unwrap();
    }
    let tasks = (0..16).map(|n| {
        let store = etcd.store();
        tokio::spawn(async move { attach(&store, "blue", &format!("node{}", n % 4), "x", None).await })
    });
    let made: Vec<_> = join_all(tasks).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(made.iter().map(|(_, record)| record.addresses[0]).collect::<BTreeSet<_>>().len(), 16);
    let mut followed = store.follow(CancellationToken::new());
    let followed = until(&mut followed, "16 endpoints", |f| f.state.endpoints.len() == 16).await;
    assert!(followed.state.rejected.is_empty(), "{:?}", followed.state.rejected);
}

#[tokio::test]
async fn an_endpoint_is_bound_once_and_only_on_its_reservation() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    store.join(&node("node1"), node_record("192.0.2.1")).await.unwrap();
    store.create_network(subnet("blue", "10.0.9.0/24")).await.unwrap();
    let reserve = async || {
        store
            .reserve_address(&network("blue"), &node("node1"), &EndpointId::random(), None, None)
            .await
            .unwrap()
    };
    let first = reserve().await;
    let record = endpoint_record("node1", &first, &["web"]);
    let revision = store.bind_endpoint(&first, &record).await.unwrap();
    assert!(revision > 0);
    assert_conflict(store.bind_endpoint(&first, &record).await, "there is an endpoint");

    let second = reserve().await;
    let same_mac = overlay_user::state::EndpointRecord {
        mac: record.mac.clone(),
        ..endpoint_record("node1", &second, &["two"])
    };
    assert_conflict(store.bind_endpoint(&second, &same_mac).await, "is used by web on node1");
    let elsewhere = endpoint_record("ghost", &second, &[]);
    assert!(matches!(store.bind_endpoint(&second, &elsewhere).await, Err(StoreError::NotFound(_))));
    let bad_name = endpoint_record("node1", &second, &["a b"]);
    assert_invalid(store.bind_endpoint(&second, &bad_name).await, "is not a name");
    let other_address = endpoint_record("node1", &first, &[]);
    assert_invalid(store.bind_endpoint(&second, &other_address).await, "not the one reserved");

    // As if the lease had ended before the endpoint was bound.
    let prefix = format!("{PREFIX}addresses/blue/");
    let kept =
        etcd.client().await.get(prefix, Some(etcd_client::GetOptions::new().with_prefix())).await.unwrap();
    let leased = kept.kvs().iter().find(|kv| kv.lease() != 0).unwrap();
    etcd.client().await.lease_revoke(leased.lease()).await.unwrap();
    let late = endpoint_record("node1", &second, &[]);
    assert_conflict(store.bind_endpoint(&second, &late).await, "the reservation of");
    let unleased = kept.kvs().iter().filter(|kv| kv.lease() == 0).count();
    assert_eq!(unleased, 1, "a bound address has no lease");
}

#[tokio::test]
async fn a_removed_endpoints_address_cools() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    store.join(&node("node1"), node_record("192.0.2.1")).await.unwrap();
    store.create_network(subnet("blue", "10.0.9.0/30")).await.unwrap();
    let (id, _) = attach(&store, "blue", "node1", "web", None).await;
    assert!(store.remove_endpoint(&network("blue"), &id).await.unwrap() > 0);
    assert_eq!(store.remove_endpoint(&network("blue"), &id).await.unwrap(), 0);
    let record: AddressRecord =
        serde_json::from_str(&etcd.get("addresses/blue/0a000902").await.unwrap()).unwrap();
    assert_eq!(record.state, AddressState::Cooling);
    assert_eq!(etcd.get("macs/blue/02420a000902").await, None);

    let ask = async |at: &str, name: &str, wanted: Option<&str>| {
        let wanted = wanted.map(|ip| ip.parse().unwrap());
        store.reserve_address(&network("blue"), &node(at), &EndpointId::random(), Some(name), wanted).await
    };
    assert_conflict(ask("node1", "web", None).await, "1 cooling (free again within a minute)");
    assert_conflict(ask("node2", "db", Some("10.0.9.2")).await, "was used by web on node1 until just now");
    ask("node2", "web", Some("10.0.9.2")).await.unwrap();
}

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
            .add_static_endpoint(&network("blue"), &node(at), ip.into(), mac, vec!["printer".to_owned()])
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
    assert_eq!(found.state.endpoints[&(network("blue"), id)].node, switch);
    assert!(found.state.nodes[&switch].is_static);

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
    assert_eq!(record, NodeRecord { incarnation: 3, ..node_record("192.0.2.9") });
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

#[tokio::test]
async fn an_etcd_that_is_away_is_told_in_time() {
    let etcd = Etcd::unstarted();
    let begun = Instant::now();
    let error = etcd.store().create_network(new_network("blue")).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let text = error.to_string();
    assert!(text.contains("etcd is unreachable: http://127.0.0.1:"), "{text}");
    assert!(text.contains("Connection refused"), "{text}");
    assert!(text.contains("running endpoints are not affected"), "{text}");
}

#[tokio::test]
async fn an_etcd_that_does_not_answer_is_told_in_time() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    store.create_network(new_network("blue")).await.unwrap();
    // SAFETY: a signal to a process of this test's own.
    unsafe { libc::kill(etcd.pid(), libc::SIGSTOP) };
    let begun = Instant::now();
    let error = store.create_network(new_network("red")).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(matches!(error, StoreError::Unreachable(_)), "{error:?}");
    // SAFETY: as above.
    unsafe { libc::kill(etcd.pid(), libc::SIGCONT) };
    store.remove_network(&network("blue")).await.unwrap();
}

#[tokio::test]
async fn a_member_that_is_away_is_passed_over() {
    let (etcd, away) = (Etcd::start().await, Etcd::unstarted());
    let mut options = etcd.options();
    options.endpoints.insert(0, away.url());
    let store = overlay_user::store::Store::new(options).unwrap();
    let begun = Instant::now();
    store.create_network(new_network("blue")).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}
