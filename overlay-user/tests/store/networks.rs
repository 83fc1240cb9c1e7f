//! Creating and removing networks.

use std::{collections::BTreeSet, time::Duration};

use futures::future::join_all;
use overlay_user::{
    Vni,
    state::{Dscp, EndpointId, Policy, PolicyChange, Vlan},
    store::{NetworkChange, NewNetwork, StoreError},
};

use crate::{assert_conflict, assert_invalid, etcd::*, subnet};

#[tokio::test]
async fn a_network_gets_what_it_does_not_ask_for() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    let blue = store.create_network(new_network("blue")).await.unwrap();
    assert_eq!((blue.vni.get(), blue.subnet.net.to_string().as_str()), (4096, "10.64.0.0/24"));
    assert_eq!(blue.subnet.gateway.to_string(), "10.64.0.1");
    let red = store.create_network(new_network("red")).await.unwrap();
    assert_eq!((red.vni.get(), red.subnet.net.to_string().as_str()), (4097, "10.64.1.0/24"));
    assert_eq!(etcd.get("vnis/00004097").await.as_deref(), Some("red"));
    assert_eq!(etcd.get("subnets/guard").await.as_deref(), Some("2"));
}

#[tokio::test]
async fn what_another_network_has_is_refused_by_its_name() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    let blue = NewNetwork { vni: Some(Vni::new(77).unwrap()), ..subnet("blue", "10.0.9.0/24") };
    store.create_network(blue.clone()).await.unwrap();
    assert_conflict(store.create_network(blue.clone()).await, "blue exists already (VNI 77, 10.0.9.0/24)");
    let same_vni = NewNetwork { subnets: Vec::new(), name: network("red"), ..blue.clone() };
    assert_conflict(store.create_network(same_vni).await, "VNI 77 is used by network blue");
    let over = subnet("red", "10.0.8.0/23");
    assert_conflict(store.create_network(over.clone()).await, "overlaps 10.0.9.0/24 of network blue");
    store.create_network(NewNetwork { allow_overlap: true, ..over }).await.unwrap();
    assert_invalid(store.create_network(subnet("host", "10.0.9.7/24")).await, "write 10.0.9.0/24");
    let outside = NewNetwork { gateways: vec![[10, 1, 1, 1].into()], ..subnet("gw", "10.5.0.0/24") };
    assert_invalid(store.create_network(outside).await, "gateway");
}

#[tokio::test]
async fn a_network_has_subnets_of_one_or_both_families() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    let parse = |subnets: &[&str]| subnets.iter().map(|s| s.parse().unwrap()).collect::<Vec<_>>();
    let with = |name: &str, subnets: &[&str]| NewNetwork { subnets: parse(subnets), ..new_network(name) };
    let blue = store.create_network(with("blue", &["fd00:10::/64", "10.10.0.0/24"])).await.unwrap();
    assert_eq!(blue.subnet.net.to_string(), "10.10.0.0/24");
    assert_eq!(blue.dual.unwrap().gateway.to_string(), "fd00:10::1");
    let six = store.create_network(subnet("six", "fd00:11::/64")).await.unwrap();
    assert_eq!((six.subnet.gateway.to_string().as_str(), six.dual), ("fd00:11::1", None));
    let record = etcd.get("networks/blue").await.unwrap();
    assert!(record.contains(r#""dual":{"subnet":"fd00:10::/64","gateway":"fd00:10::1"}"#), "{record}");

    for (subnets, other, of) in [
        (&["10.20.0.0/24", "fd00:10::/48"][..], "fd00:10::/64", "blue"),
        (&["10.10.0.0/16", "fd00:20::/64"], "10.10.0.0/24", "blue"),
        (&["fd00::/16"], "fd00:10::/64", "blue"),
        (&["fd00:11:0:0:1::/80"], "fd00:11::/64", "six"),
    ] {
        let says = format!("overlaps {other} of network {of}");
        assert_conflict(store.create_network(with("over", subnets)).await, &says);
    }
    let free = ["10.20.0.0/24", "fd00:20::/64"];
    let gateway =
        |gateway: &str| NewNetwork { gateways: vec![gateway.parse().unwrap()], ..with("bad", &free) };
    assert_invalid(store.create_network(gateway("fd00:21::1")).await, "is not in the subnet fd00:20::/64");
    let only = NewNetwork { gateways: vec!["fd00::1".parse().unwrap()], ..subnet("bad", "10.20.0.0/24") };
    assert_invalid(store.create_network(only).await, "fd00::1 is IPv6: give an IPv6 subnet with it");
    let two = with("bad", &["fd00:20::/64", "fd00:21::/64"]);
    assert_invalid(store.create_network(two).await, "one subnet of each family");
    let small = NewNetwork { mtu: Some(1279), ..with("bad", &free) };
    assert_invalid(store.create_network(small).await, "below 1280, the least IPv6 allows");
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
    assert_eq!(made.iter().map(|n| n.subnet.net).collect::<BTreeSet<_>>().len(), 16);

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
    assert_eq!(store.create_network(new_network("blue")).await.unwrap().vni.get(), 4096);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_is_removed_or_joined_but_not_both() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    store.join(&node("node1"), node_record("192.0.2.1")).await.unwrap();
    let blue = network("blue");
    for delay in (0..80).map(|n| Duration::from_micros(50 * n)) {
        store.create_network(subnet("blue", "10.0.9.0/24")).await.unwrap();
        let id = EndpointId::random();
        let reservation = store.reserve_addresses(&blue, &node("node1"), &id, None, &[]).await.unwrap();
        let record = endpoint_record("node1", &reservation, &[]);
        let bind = async {
            tokio::time::sleep(delay).await;
            store.bind_endpoint(&reservation, &record).await
        };
        let (bound, removed) = tokio::join!(bind, store.remove_network(&blue));
        match (bound, removed) {
            (Ok(_), Err(StoreError::Conflict(_))) => {
                store.remove_endpoint(&blue, &id).await.unwrap();
                store.remove_network(&blue).await.unwrap();
            }
            (Err(StoreError::NotFound(_)), Ok(())) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_owner_decides_is_changed_at_once_or_not_at_all() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    let change = |policy| NetworkChange { policy, ..NetworkChange::default() };
    let dscp = PolicyChange { dscp: Some(Dscp::Fixed(46)), ..PolicyChange::default() };
    let missing = store.set_network(&network("blue"), change(dscp)).await;
    assert!(matches!(missing, Err(StoreError::NotFound(_))), "{missing:?}");

    store.create_network(subnet("blue", "10.0.9.0/24")).await.unwrap();
    let text = etcd.get("networks/blue").await.unwrap();
    etcd.put("networks/blue", text.replacen('{', r#"{"colour":"sky","#, 1)).await;
    let rate = PolicyChange { bum_rate: Some(7), ..PolicyChange::default() };
    let vlan = PolicyChange { vlan: Some(Vlan::Trunk), ..PolicyChange::default() };
    let tasks = [dscp, rate, vlan].map(|policy| {
        let store = etcd.store();
        tokio::spawn(async move { store.set_network(&network("blue"), change(policy)).await })
    });
    for done in join_all(tasks).await {
        done.unwrap().unwrap();
    }
    let mtu = NetworkChange { mtu: Some(1300), ..NetworkChange::default() };
    let record = store.set_network(&network("blue"), mtu).await.unwrap();
    let policy = Policy::default().with(dscp).with(rate).with(vlan);
    assert_eq!((record.mtu, record.policy), (Some(1300), policy));
    let text = etcd.get("networks/blue").await.unwrap();
    assert!(text.contains(r#""colour":"sky""#), "{text}");

    let none = PolicyChange { bum_rate: Some(0), ..PolicyChange::default() };
    assert_invalid(store.set_network(&network("blue"), change(none)).await, "BUM rate");
    let small = NetworkChange { mtu: Some(60), ..NetworkChange::default() };
    assert_invalid(store.set_network(&network("blue"), small).await, "MTU");
    assert_eq!(etcd.get("networks/blue").await.unwrap(), text);
    let auto = NetworkChange { mtu: Some(0), ..NetworkChange::default() };
    assert_eq!(store.set_network(&network("blue"), auto).await.unwrap().mtu, None);
}
