//! Many who allocate at once, and what is in the way of who allocates.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use etcd_client::GetOptions;
use futures::future::join_all;
use ipnet::IpNet;
use overlay_user::{
    state::{AddressRecord, AddressState, EndpointId, EndpointRecord, NetworkRecord, NodeRecord},
    store::{NewNetwork, Store, StoreError},
};
use tokio::time::timeout;

use crate::{assert_conflict, etcd::*, subnet};

const WRITERS: usize = 16;

/// What each writer does one after another.
const STEPS: usize = 24;

/// What one writer has at its end.
#[derive(Default)]
struct Held {
    endpoints: Vec<(String, EndpointId)>,
    networks: Vec<String>,
    given_up: usize,
    /// How often others were faster until its time was over.
    lost: usize,
}

/// Creates a network, and tries again as it is told to as long as only others that were faster are in the
/// way. Returns how often.
async fn create(store: &Store, name: &str) -> usize {
    for lost in 0.. {
        match store.create_network(new_network(name)).await {
            Ok(_) => return lost,
            Err(StoreError::Conflict(text)) if text.ends_with("at the same time; try again") => {}
            Err(error) => panic!("{error}"),
        }
    }
    unreachable!("that many tries take for ever")
}

/// Networks, attaches, attaches that are given up, and detaches, mixed by the number of the writer and of the
/// step. Nothing but a full pool may be in the way.
async fn write(store: &Store, writer: usize) -> Held {
    let mut held = Held::default();
    let at = format!("node{}", writer % 4);
    for step in 0..STEPS {
        match (writer + step) % 8 {
            0 => {
                let name = format!("net-{writer}-{step}");
                held.lost += create(store, &name).await;
                held.networks.push(name);
            }
            1 if held.networks.len() > 1 => {
                store.remove_network(&network(&held.networks.remove(0))).await.unwrap();
            }
            2 if !held.endpoints.is_empty() => {
                let (of, id) = held.endpoints.remove(0);
                assert!(store.remove_endpoint(&network(&of), &id).await.unwrap() > 0);
            }
            3 => {
                let id = EndpointId::random();
                let reserved =
                    store.reserve_addresses(&network("blue"), &node(&at), &id, None, &[]).await.unwrap();
                store.abandon(&reserved).await.unwrap();
                held.given_up += 1;
            }
            // A name that all share: a name leads to all who have it.
            _ => {
                let (id, _) = attach(store, "blue", &at, "web", None).await;
                held.endpoints.push(("blue".to_owned(), id));
            }
        }
    }
    held
}

/// Everything in the store, by its key below the prefix, with whether it is under a lease.
async fn everything(etcd: &Etcd) -> BTreeMap<String, (String, bool)> {
    let all = etcd.client().await.get(PREFIX, Some(GetOptions::new().with_prefix())).await.unwrap();
    let entry = |kv: &etcd_client::KeyValue| {
        let key = kv.key_str().unwrap().strip_prefix(PREFIX).unwrap().to_owned();
        (key, (kv.value_str().unwrap().to_owned(), kv.lease() != 0))
    };
    all.kvs().iter().map(entry).collect()
}

fn below<'a>(
    all: &'a BTreeMap<String, (String, bool)>,
    prefix: &'a str,
) -> impl Iterator<Item = (&'a str, &'a (String, bool))> {
    all.iter().filter_map(move |(key, value)| Some((key.strip_prefix(prefix)?, value)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_writers_get_nothing_twice_and_leave_nothing_behind() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    for n in 0..4 {
        store.join(&node(&format!("node{n}")), node_record(&format!("192.0.2.1{n}"))).await.unwrap();
    }
    store.create_network(subnet("blue", "10.0.8.0/22")).await.unwrap();
    // Bounded: who only loses races would not come to an end.
    let writers = (0..WRITERS).map(|writer| {
        let store = etcd.store();
        tokio::spawn(async move { write(&store, writer).await })
    });
    let held = timeout(Duration::from_mins(2), join_all(writers)).await.expect("they hold each other up");
    let held: Vec<_> = held.into_iter().map(Result::unwrap).collect();
    assert!(held.iter().map(|held| held.given_up).sum::<usize>() >= WRITERS);
    let lost: usize = held.iter().map(|held| held.lost).sum();
    assert!(lost < WRITERS, "{lost} creations did not come to an end by themselves");

    // Each key is of something that somebody has.
    let all = everything(&etcd).await;
    let expected: BTreeSet<_> =
        held.iter().flat_map(|held| &held.endpoints).map(|(_, id)| id.to_string()).collect();
    let endpoints: BTreeMap<_, EndpointRecord> = below(&all, "endpoints/blue/")
        .map(|(id, (value, _))| (id.to_owned(), serde_json::from_str(value).unwrap()))
        .collect();
    assert_eq!(endpoints.keys().cloned().collect::<BTreeSet<_>>(), expected);
    let addresses: BTreeSet<_> = endpoints.values().flat_map(|record| &record.addresses).collect();
    assert_eq!(addresses.len(), endpoints.len(), "an address was given twice");
    let mut bound = BTreeSet::new();
    for (key, (value, leased)) in below(&all, "addresses/") {
        let record: AddressRecord = serde_json::from_str(value).unwrap();
        match record.state {
            AddressState::Bound => {
                assert!(!leased && bound.insert(record.endpoint.to_string()), "{key}: {value}");
            }
            AddressState::Cooling => assert!(leased, "{key}: {value}"),
            AddressState::Reserved => panic!("{key} is still reserved: {value}"),
        }
    }
    assert_eq!(bound, expected);
    let macs: BTreeSet<_> = below(&all, "macs/").map(|(_, (id, _))| id.clone()).collect();
    assert_eq!(macs, expected);

    let mut expected: BTreeSet<_> = held.iter().flat_map(|held| held.networks.clone()).collect();
    expected.insert("blue".to_owned());
    let networks: BTreeMap<_, NetworkRecord> = below(&all, "networks/")
        .map(|(name, (value, _))| (name.to_owned(), serde_json::from_str(value).unwrap()))
        .collect();
    assert_eq!(networks.keys().cloned().collect::<BTreeSet<_>>(), expected);
    let vnis: BTreeMap<u32, String> =
        below(&all, "vnis/").map(|(vni, (name, _))| (vni.parse().unwrap(), name.clone())).collect();
    let of_records = networks.iter().map(|(name, record)| (record.vni, name.clone()));
    assert_eq!(vnis, of_records.collect(), "VNIs and the networks that have them");
    let subnets: Vec<IpNet> = networks.values().map(|record| record.subnet).collect();
    for (index, one) in subnets.iter().enumerate() {
        let overlap = subnets[..index].iter().find(|other| one.contains(*other) || other.contains(one));
        assert_eq!(overlap, None, "{one}");
    }

    // Taken back, nothing stays but what cools down.
    for held in &held {
        for (of, id) in &held.endpoints {
            store.remove_endpoint(&network(of), id).await.unwrap();
        }
    }
    for name in networks.keys() {
        store.remove_network(&network(name)).await.unwrap();
    }
    let left: Vec<_> = everything(&etcd).await.into_keys().filter(|key| !key.contains("node")).collect();
    assert_eq!(left, ["meta", "subnets/guard"]);
}

#[tokio::test]
async fn a_subnet_that_a_nodes_host_has_a_route_to_is_refused_by_the_nodes_name() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    let prefixes = |prefixes: &[&str]| prefixes.iter().map(|p| p.parse().unwrap()).collect::<Vec<IpNet>>();
    let with = |vtep: &str, told: &[&str]| NodeRecord { prefixes: prefixes(told), ..node_record(vtep) };
    store.join(&node("node1"), with("192.0.2.1", &["192.0.2.0/24", "10.64.0.0/16"])).await.unwrap();
    let second = node("node2");
    let incarnation = store.join(&second, with("192.0.2.2", &["fd00:5::/32"])).await.unwrap();

    let over = subnet("red", "10.64.7.0/24");
    assert_conflict(
        store.create_network(over.clone()).await,
        "overlaps 10.64.0.0/16, which node node1 has a route to",
    );
    let wider = subnet("red", "192.0.0.0/16");
    assert_conflict(store.create_network(wider).await, "overlaps 192.0.2.0/24, which node node1");
    assert_conflict(
        store.create_network(subnet("red", "fd00:5:1::/64")).await,
        "fd00:5::/32, which node node2",
    );
    store.create_network(NewNetwork { allow_overlap: true, ..over }).await.unwrap();
    // Unasked, what is free on every node is given.
    let blue = store.create_network(new_network("blue")).await.unwrap();
    assert_eq!(blue.subnet.net.to_string(), "10.65.0.0/24");

    // Routes come and go.
    store.update_node(&second, incarnation, with("192.0.2.2", &["10.0.0.0/8"])).await.unwrap();
    store.create_network(subnet("six", "fd00:5:1::/64")).await.unwrap();
    assert_conflict(store.create_network(subnet("green", "10.200.0.0/24")).await, "which node node2 has");
    let green = store.create_network(new_network("green")).await.unwrap();
    assert_eq!(green.subnet.net.to_string(), "172.24.0.0/24");
}

#[tokio::test]
async fn an_exhausted_pool_says_when_the_next_address_is_free() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    store.join(&node("node1"), node_record("192.0.2.1")).await.unwrap();
    store.create_network(subnet("blue", "10.0.9.0/29")).await.unwrap();
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(attach(&store, "blue", "node1", &format!("web{n}"), None).await.0);
    }
    let ask = async || {
        store
            .reserve_addresses(&network("blue"), &node("node1"), &EndpointId::random(), Some("db"), &[])
            .await
    };
    assert_conflict(ask().await, "10.0.9.0/29 has 5 addresses to give; 5 are used, 0 cooling");
    for id in &ids[..2] {
        store.remove_endpoint(&network("blue"), id).await.unwrap();
    }
    let Err(StoreError::Conflict(text)) = ask().await else { panic!("an address was given") };
    assert!(text.contains("3 are used, 2 cooling (the first is free in "), "{text}");
    let seconds: u64 = text.rsplit("free in ").next().unwrap().trim_end_matches(" s)").parse().unwrap();
    assert!((1..=60).contains(&seconds), "{text}");
}
