//! What Docker needs: subnets claimed before their network has a name, addresses reserved before their endpoint
//! has an identity, and names that come later.

use overlay_user::{
    state::{EndpointId, PoolId},
    store::{ClaimedPool, NewNetwork, NewPool},
};

use crate::{assert_conflict, assert_invalid, etcd::*, subnet};

const ANY: NewPool = NewPool { subnet: None, range: None, six: false };

fn pool(subnet: &str) -> NewPool {
    NewPool { subnet: Some(subnet.parse().unwrap()), ..ANY }
}

#[tokio::test]
async fn a_claimed_subnet_is_nobodys_elses_until_its_network_has_it() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    let (one, other) = (node("node1"), node("node2"));
    let ClaimedPool { id, subnet: claimed } = store.claim_pool(&one, pool("10.0.9.0/24")).await.unwrap();
    assert_eq!(claimed.gateway.to_string(), "10.0.9.1");
    let says = "overlaps 10.0.9.0/24, for which a network is being created on node1";
    assert_conflict(store.claim_pool(&other, pool("10.0.9.128/25")).await, says);
    assert_conflict(store.create_network(subnet("red", "10.0.0.0/16")).await, says);
    assert_eq!(store.pools_of(&one).await.unwrap().keys().collect::<Vec<_>>(), [&id]);
    assert_eq!(store.claimed_subnet(&id).await.unwrap(), Some(claimed));

    let pools = [id.clone()];
    store.check_network(&subnet("blue", "10.0.9.0/24"), &pools).await.unwrap();
    let made = store.publish_network(subnet("blue", "10.0.9.0/24"), &pools).await.unwrap();
    assert_eq!(made.pools, pools);
    assert_eq!(store.claimed_subnet(&id).await.unwrap(), None);
    // Who is not sure that it was done does it again.
    assert_eq!(store.publish_network(subnet("blue", "10.0.9.0/24"), &pools).await.unwrap(), made);
    let taken = store.publish_network(subnet("blue", "10.0.9.0/24"), &[PoolId::random()]).await;
    assert_conflict(taken, "network blue exists already");
    store.release_pool(&one, &id).await.unwrap();
    assert_conflict(store.claim_pool(&other, pool("10.0.9.0/24")).await, "of network blue");
}

#[tokio::test]
async fn a_claim_that_has_ended_is_no_hindrance_unless_another_has_the_subnet() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    let node1 = node("node1");
    let id = store.claim_pool(&node1, pool("10.0.9.0/24")).await.unwrap().id;
    // Not this node's to end.
    store.release_pool(&node("node2"), &id).await.unwrap();
    assert!(store.claimed_subnet(&id).await.unwrap().is_some());
    for _ in 0..2 {
        store.release_pool(&node1, &id).await.unwrap();
    }
    store.publish_network(subnet("blue", "10.0.9.0/24"), std::slice::from_ref(&id)).await.unwrap();
    let late = store.publish_network(subnet("red", "10.0.9.0/24"), &[id]).await;
    assert_conflict(late, "overlaps 10.0.9.0/24 of network blue");
    let ranged = NewPool { range: Some("10.0.9.0/25".parse().unwrap()), ..ANY };
    assert_invalid(store.claim_pool(&node1, ranged).await, "give --subnet as well");
    assert_invalid(store.claim_pool(&node1, pool("10.0.9.1/24")).await, "write 10.0.9.0/24");
    let chosen = [store.claim_pool(&node1, ANY).await.unwrap(), store.claim_pool(&node1, ANY).await.unwrap()];
    assert_ne!(chosen[0].subnet, chosen[1].subnet);
}

#[tokio::test]
async fn addresses_reserved_by_themselves_become_one_endpoints() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    let (blue, node1, node2) = (network("blue"), node("node1"), node("node2"));
    store.join(&node1, node_record("192.0.2.1")).await.unwrap();
    let subnets = ["10.0.9.0/24", "fd00::/64"].map(|text| text.parse().unwrap()).to_vec();
    store.create_network(NewNetwork { subnets, ..new_network("blue") }).await.unwrap();
    let four = store.reserve_address(&blue, &node1, Some("web"), None, false).await.unwrap();
    let six = store.reserve_address(&blue, &node1, Some("web"), None, true).await.unwrap();
    assert!(four.addr().is_ipv4() && six.addr().is_ipv6());
    let again = store.reserve_address(&blue, &node2, None, Some(four.addr()), false).await;
    assert_conflict(again, "is being given to web on node1");

    // Another node's reservation is not taken over, and leaves the first as it was.
    let wanted = [four.addr(), six.addr()];
    let stolen = store.take_over_addresses(&blue, &node2, &EndpointId::random(), &wanted).await;
    assert_conflict(stolen, "is being given to web on node1");
    let id = EndpointId::random();
    let taken = store.take_over_addresses(&blue, &node1, &id, &wanted).await.unwrap();
    assert_eq!(taken.name.as_deref(), Some("web"));
    store.bind_endpoint(&taken, &endpoint_record("node1", &taken, &["web"])).await.unwrap();
    let late = store.take_over_addresses(&blue, &node1, &EndpointId::random(), &wanted).await;
    assert_conflict(late, "is used by web on node1");
    // What an endpoint has is not given back by who asked for it first.
    store.release_address(&blue, &node1, four.addr()).await.unwrap();
    assert_conflict(
        store.reserve_address(&blue, &node1, None, Some(four.addr()), false).await,
        "is used by web",
    );

    // One that nobody reserved, or whose reservation has ended, is claimed there and then.
    let id = EndpointId::random();
    let free = ["10.0.9.77".parse().unwrap()];
    let taken = store.take_over_addresses(&blue, &node1, &id, &free).await.unwrap();
    assert_eq!(taken.addresses.len(), 1);
    store.abandon(&taken).await.unwrap();
    store.reserve_address(&blue, &node2, None, Some(free[0]), false).await.unwrap();
    store.release_address(&blue, &node1, free[0]).await.unwrap();
    assert_conflict(store.reserve_address(&blue, &node1, None, Some(free[0]), false).await, "on node2");
    store.release_address(&blue, &node2, free[0]).await.unwrap();
    store.reserve_address(&blue, &node1, None, Some(free[0]), false).await.unwrap();
}

#[tokio::test]
async fn an_endpoint_gets_other_names_from_its_own_node() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    let (blue, node1) = (network("blue"), node("node1"));
    store.join(&node1, node_record("192.0.2.1")).await.unwrap();
    store.create_network(subnet("blue", "10.0.9.0/24")).await.unwrap();
    let (id, _) = attach(&store, "blue", "node1", "old", Some("10.0.9.4")).await;
    let names = ["web".to_owned(), "www".to_owned()];
    for _ in 0..2 {
        assert!(store.set_endpoint_names(&node1, &blue, &id, &names).await.unwrap());
    }
    assert!(store.set_endpoint_container(&node1, &blue, &id, "/run/netns/x").await.unwrap());
    let all = store.examine().await.unwrap();
    assert_eq!(all.flaws, []);
    let record = all.state.endpoint(&blue, &id).unwrap();
    assert_eq!(record.names().collect::<Vec<_>>(), names);
    assert_eq!(record.container(), "/run/netns/x");
    let wanted = ["10.0.9.4".parse().unwrap()];
    let taken = store.reserve_addresses(&blue, &node1, &EndpointId::random(), None, &wanted).await;
    assert_conflict(taken, "10.0.9.4 is used by web on node1");

    assert_conflict(
        store.set_endpoint_names(&node("node2"), &blue, &id, &names).await,
        "is node1's, not node2's",
    );
    let bad = ["we b".to_owned()];
    assert_invalid(store.set_endpoint_names(&node1, &blue, &id, &bad).await, "is not a name");
    assert!(!store.set_endpoint_names(&node1, &blue, &EndpointId::random(), &names).await.unwrap());
}

#[tokio::test]
async fn of_two_nodes_that_make_a_network_in_a_shared_docker_one_is_noted() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    let blue = network("blue");
    store.create_network(subnet("blue", "10.0.9.0/24")).await.unwrap();
    let (one, other) = ("1".repeat(64), "2".repeat(64));
    let (first, second) =
        tokio::join!(store.set_docker_id(&blue, None, &one), store.set_docker_id(&blue, None, &other));
    assert_ne!(first.unwrap(), second.unwrap());
    // Made anew, by who saw what it was before.
    let now = if store.set_docker_id(&blue, None, &one).await.unwrap() { &one } else { &other };
    let anew = "3".repeat(64);
    assert!(store.set_docker_id(&blue, Some(now), &anew).await.unwrap());
    assert!(!store.set_docker_id(&blue, Some(now), &one).await.unwrap());
    assert!(store.set_docker_id(&network("red"), None, &one).await.is_err());
}
