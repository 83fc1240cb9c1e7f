//! Reserving addresses, and publishing and withdrawing endpoints.

use std::collections::BTreeSet;

use etcd_client::GetOptions;
use futures::future::join_all;
use overlay_user::{
    state::{AddressRecord, AddressState, EndpointId, EndpointRecord},
    store::{NewNetwork, StoreError},
};
use tokio_util::sync::CancellationToken;

use crate::{assert_conflict, assert_invalid, etcd::*, subnet};

#[tokio::test]
async fn addresses_that_cannot_be_given_are_refused() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    store.join(&node("node2"), node_record("192.0.2.2")).await.unwrap();
    store.create_network(subnet("blue", "10.0.9.0/24")).await.unwrap();
    attach(&store, "blue", "node2", "web", Some("10.0.9.4")).await;
    let reserve = async |to: &str, ip: &str| {
        let id = EndpointId::random();
        store.reserve_addresses(&network(to), &node("node1"), &id, None, &[ip.parse().unwrap()]).await
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
            store.reserve_addresses(&network("blue"), &node("node1"), &EndpointId::random(), None, &[]).await
        })
    });
    let got: Vec<_> = join_all(tasks).await.into_iter().map(Result::unwrap).collect();
    let (got, refused): (Vec<_>, Vec<_>) = got.into_iter().partition(Result::is_ok);
    let got: Vec<_> = got.into_iter().map(Result::unwrap).collect();
    assert_eq!(got.iter().map(|r| r.addresses[0].address).collect::<BTreeSet<_>>().len(), 13);
    assert_eq!(got.len(), 13);
    for refused in refused {
        assert_conflict(
            refused,
            "network blue is full: 10.0.9.0/28 has 13 addresses to give; 13 are used, 0 cooling",
        );
    }
    for reservation in got {
        store.release(&reservation).await.unwrap();
    }
    let leases = etcd.client().await.leases().await.unwrap();
    assert!(leases.leases().is_empty(), "{leases:?}");
    store
        .reserve_addresses(&network("blue"), &node("node1"), &EndpointId::random(), None, &[])
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_gets_an_address_of_each_family() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    store.join(&node("node1"), node_record("192.0.2.1")).await.unwrap();
    let subnets = ["10.0.9.0/28", "fd00::/64"].map(|s| s.parse().unwrap()).to_vec();
    store.create_network(NewNetwork { subnets, ..new_network("blue") }).await.unwrap();

    let tasks = (0..16).map(|_| {
        let store = etcd.store();
        tokio::spawn(async move {
            let id = EndpointId::random();
            store.reserve_addresses(&network("blue"), &node("node1"), &id, None, &[]).await
        })
    });
    let got: Vec<_> = join_all(tasks).await.into_iter().filter_map(|task| task.unwrap().ok()).collect();
    // 13 IPv4 addresses; who gets none keeps no IPv6 address either.
    assert_eq!(got.len(), 13);
    let addresses: BTreeSet<_> = got.iter().flat_map(|r| &r.addresses).map(|a| a.address).collect();
    assert_eq!(addresses.len(), 26);
    assert_eq!(addresses.iter().filter(|a| a.to_string().starts_with("fd00::")).count(), 13);
    for reservation in got {
        store.release(&reservation).await.unwrap();
    }
    let kept =
        etcd.client().await.get(format!("{PREFIX}addresses/"), Some(GetOptions::new().with_prefix())).await;
    assert_eq!(kept.unwrap().count(), 0);

    let id = EndpointId::random();
    let reserve = async |ips: &[&str]| {
        let ips: Vec<_> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        store.reserve_addresses(&network("blue"), &node("node1"), &id, Some("web"), &ips).await
    };
    assert_invalid(reserve(&["10.0.9.2", "10.0.9.3"]).await, "an endpoint has one of each");
    assert_invalid(reserve(&["fd00::1"]).await, "is the gateway");
    assert_invalid(reserve(&["fd00::"]).await, "network address");
    let both = reserve(&["fd00::5", "10.0.9.5"]).await.unwrap();
    let record = endpoint_record("node1", &both, &["web"]);
    assert_eq!(record.addresses, ["10.0.9.5", "fd00::5"].map(|a| a.parse::<std::net::IpAddr>().unwrap()));
    let half = EndpointRecord { addresses: record.addresses[..1].to_vec(), ..record.clone() };
    assert_invalid(store.bind_endpoint(&both, &half).await, "not those reserved");
    store.bind_endpoint(&both, &record).await.unwrap();
    let six = format!("addresses/blue/fd00{:028x}", 5);
    let state = async || serde_json::from_str::<AddressRecord>(&etcd.get(&six).await.unwrap()).unwrap().state;
    assert_eq!(state().await, AddressState::Bound);
    let (other, blue, node2) = (EndpointId::random(), network("blue"), node("node2"));
    let taken = store.reserve_addresses(&blue, &node2, &other, None, &["fd00::5".parse().unwrap()]).await;
    assert_conflict(taken, "fd00::5 is used by web on node1");
    store.remove_endpoint(&network("blue"), &id).await.unwrap();
    assert_eq!(state().await, AddressState::Cooling);
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
            .reserve_addresses(&network("blue"), &node("node1"), &EndpointId::random(), None, &[])
            .await
            .unwrap()
    };
    let first = reserve().await;
    let record = endpoint_record("node1", &first, &["web"]);
    let revision = store.bind_endpoint(&first, &record).await.unwrap();
    assert!(revision > 0);
    assert_conflict(store.bind_endpoint(&first, &record).await, "there is an endpoint");

    let second = reserve().await;
    let same_mac = EndpointRecord { mac: record.mac.clone(), ..endpoint_record("node1", &second, &["two"]) };
    assert_conflict(store.bind_endpoint(&second, &same_mac).await, "is used by web on node1");
    let elsewhere = endpoint_record("ghost", &second, &[]);
    assert!(matches!(store.bind_endpoint(&second, &elsewhere).await, Err(StoreError::NotFound(_))));
    let bad_name = endpoint_record("node1", &second, &["a b"]);
    assert_invalid(store.bind_endpoint(&second, &bad_name).await, "is not a name");
    let other_address = endpoint_record("node1", &first, &[]);
    assert_invalid(store.bind_endpoint(&second, &other_address).await, "not those reserved");

    // As if the lease had ended before the endpoint was bound.
    let prefix = format!("{PREFIX}addresses/blue/");
    let kept = etcd.client().await.get(prefix, Some(GetOptions::new().with_prefix())).await.unwrap();
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
        let wanted: Vec<_> = wanted.into_iter().map(|ip| ip.parse().unwrap()).collect();
        store.reserve_addresses(&network("blue"), &node(at), &EndpointId::random(), Some(name), &wanted).await
    };
    assert_conflict(ask("node1", "web", None).await, "1 cooling (the first is free in ");
    // Not unasked, but who asks for it has it at once.
    ask("node2", "db", Some("10.0.9.2")).await.unwrap();
    assert_conflict(ask("node1", "web", Some("10.0.9.2")).await, "is being given to db on node2");
}

/// A transaction whose answer did not come in time may be carried out later.
#[tokio::test]
async fn what_was_abandoned_is_not_bound_later() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    store.join(&node("node1"), node_record("192.0.2.1")).await.unwrap();
    store.create_network(subnet("blue", "10.0.9.0/24")).await.unwrap();
    let id = EndpointId::random();
    let reservation =
        store.reserve_addresses(&network("blue"), &node("node1"), &id, None, &[]).await.unwrap();
    let record = endpoint_record("node1", &reservation, &["web"]);
    store.abandon(&reservation).await.unwrap();
    assert_conflict(store.bind_endpoint(&reservation, &record).await, "has ended; try again");
    assert_eq!(etcd.get(&format!("endpoints/blue/{id}")).await, None);

    let reservation =
        store.reserve_addresses(&network("blue"), &node("node1"), &id, None, &[]).await.unwrap();
    let record = endpoint_record("node1", &reservation, &["web"]);
    store.bind_endpoint(&reservation, &record).await.unwrap();
    store.abandon(&reservation).await.unwrap();
    assert_eq!(etcd.get(&format!("endpoints/blue/{id}")).await, None);
    store.remove_network(&network("blue")).await.unwrap();
}
