//! Many containers at once.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use overlay_tests::docker::{DockerCluster, Release};

use crate::stage::{RESOLVER, can, create, has, has_endpoints};

const NET: &str = "crowd";
const EACH: usize = 25;

#[test]
fn fifty_containers_started_at_once_on_two_nodes_have_an_address_each() {
    let cluster = DockerCluster::start(&[Release::Newest, Release::V20_10], &RESOLVER).unwrap();
    let nodes = &cluster.nodes;
    create(&nodes[0], NET, &["--subnet", "10.0.9.0/24"]);
    has(&nodes[1], NET, "10.0.9.0/24");
    let begun = Instant::now();
    let names: Vec<Vec<String>> =
        nodes.iter().map(|node| (0..EACH).map(|n| format!("{}-{n}", node.name())).collect()).collect();
    thread::scope(|scope| {
        for (node, names) in nodes.iter().zip(&names) {
            for name in names {
                scope.spawn(move || node.docker.idle(name, NET, &[]).unwrap());
            }
        }
    });
    let took = begun.elapsed();
    eprintln!("{} containers were started in {took:?}", 2 * EACH);
    assert!(took < Duration::from_mins(3), "{took:?}");
    let addresses = nodes
        .iter()
        .zip(&names)
        .flat_map(|(node, names)| names.iter().map(|name| node.docker.addr::<Ipv4Addr>(name, NET).unwrap()));
    let addresses: BTreeSet<_> = addresses.collect();
    assert_eq!(addresses.len(), 2 * EACH);
    has_endpoints(&nodes[0], NET, 2 * EACH);
    can(&nodes[0], "node1-0", "ping -c1 -W1 node2-24");
    for (node, names) in nodes.iter().zip(&names) {
        let names = names.iter().map(String::as_str);
        node.docker.docker(&["rm", "-f"].into_iter().chain(names).collect::<Vec<_>>()).unwrap();
    }
    has_endpoints(&nodes[0], NET, 0);
}
