//! Docker 20.10 with a store that all nodes share (`--cluster-store`), as it was set up before Swarm, and our driver
//! in place of `overlay`. Debian 12's Docker takes etcd and no consul; Debian 11's takes both.

use std::time::{Duration, Instant};

use anyhow::ensure;
use overlay_tests::{
    consul::Consul,
    docker::{DockerCluster, DockerNode, IMAGE, Release},
    exec::eventually,
    wire::{UPLINK, Wire},
};

use crate::stage::{HEARD, can, has_endpoints, has_not, once};

const NET: &str = "my-net";
const SUBNET: &str = "10.0.9.0/24";

/// Who gives addresses.
const OURS: [&str; 2] = ["--ipam-driver", "overlayd"];
const DOCKERS: [&str; 0] = [];

/// Two nodes whose dockerds share a store. The first leaves its containers running when it ends.
fn start(cluster: &mut DockerCluster, release: Release, store: &str) {
    let advertise = format!("{UPLINK}:2376");
    let store = ["--cluster-store", store, "--cluster-advertise", &advertise];
    let global = ["--docker-scope", "global"];
    cluster.add(release, &[&store[..], &["--live-restore"]].concat(), &global).unwrap();
    cluster.add(release, &store, &global).unwrap();
    cluster.wait_ready().unwrap();
}

#[test]
#[ignore = "Docker 20.10 with etcd as its store: cargo xtask test --full"]
fn docker_with_etcd_as_its_store_has_our_networks_on_all_nodes() {
    let mut cluster = DockerCluster::empty_with(&["--enable-v2"]).unwrap();
    start(&mut cluster, Release::V20_10, &format!("etcd://{}:2379", Wire::gateway()));
    tutorial(&mut cluster);
}

#[test]
#[ignore = "Docker 20.10 with consul as its store: cargo xtask test --full"]
fn docker_with_consul_as_its_store_has_our_networks_on_all_nodes() {
    let mut cluster = DockerCluster::empty().unwrap();
    let _consul = Consul::start(&cluster.wire).unwrap();
    start(&mut cluster, Release::WithConsul, &format!("consul://{}:8500", Wire::gateway()));
    tutorial(&mut cluster);
}

/// What the tutorials of old do.
fn tutorial(cluster: &mut DockerCluster) {
    for ipam in [&OURS[..], &DOCKERS] {
        let [one, two] = [0, 1].map(|index| &cluster.nodes[index]);
        a_network_is_the_same_on_both(one, two, ipam);
        containers_find_each_other(one, two);
        an_address_can_move_at_once(one, two);
        a_network_in_use_stays(one, two);
        restarted_dockerds_know_it_all(&mut cluster.nodes);
        let [one, two] = [0, 1].map(|index| &cluster.nodes[index]);
        a_removed_network_is_gone_everywhere(one, two);
    }
    let [one, two] = [0, 1].map(|index| &cluster.nodes[index]);
    removed_by_a_node_that_just_heard_of_it(one, two);
    the_tools_networks_are_made_once(one, two);
    for node in [one, two] {
        let status = node.node.status().unwrap();
        assert_eq!(status["health"], "healthy", "{status}");
        let findings = node.node.doctor(&[]).unwrap();
        assert!(findings.is_empty(), "{findings:?}");
    }
}

fn create(node: &DockerNode, ipam: &[&str]) {
    let create = ["network", "create", "-d", "overlayd"];
    node.docker.docker(&[&create[..], ipam, &["--subnet", SUBNET, NET]].concat()).unwrap();
}

/// The ids that a Docker has for a name.
fn ids(node: &DockerNode, network: &str) -> Vec<String> {
    let filter = format!("name=^{network}$");
    let list =
        ["network", "ls", "--no-trunc", "--filter", &filter, "--format", "{{.ID}} {{.Driver}} {{.Scope}}"];
    node.docker.docker(&list).unwrap().lines().map(str::to_owned).collect()
}

fn a_network_is_the_same_on_both(one: &DockerNode, two: &DockerNode, ipam: &[&str]) {
    create(one, ipam);
    // By Docker's own store: at once.
    let listed = ids(two, NET);
    assert!(listed.len() == 1 && listed[0].ends_with(" overlayd global"), "{listed:?}");
    assert_eq!(listed, ids(one, NET));
}

/// By the names Docker itself serves: nothing sends these containers to our resolver.
fn containers_find_each_other(one: &DockerNode, two: &DockerNode) {
    let begun = Instant::now();
    two.docker.run("web", NET, &[], &["httpd", "-f", "-h", "/www"]).unwrap();
    eprintln!("a container ran on the other node after {:?}", begun.elapsed());
    one.docker.idle("left", NET, &[]).unwrap();
    can(one, "left", "ping -c1 -W1 web");
    can(two, "web", "ping -c1 -W1 left");
    assert_eq!(one.docker.exec("left", "timeout 5 wget -q -O- http://web").unwrap(), "it works");
    // Docker's own way out is there.
    assert!(one.docker.exec("left", "ip route").unwrap().contains("default"));
    // And we have heard the names too.
    eventually(HEARD, || {
        let shown = one.node.json(&["endpoint", "ls"])?.to_string();
        ensure!(shown.contains("\"web\"") && shown.contains("\"left\""), "{shown}");
        Ok(())
    })
    .unwrap();
}

fn an_address_can_move_at_once(one: &DockerNode, two: &DockerNode) {
    one.docker.idle("short", NET, &["--ip", "10.0.9.50"]).unwrap();
    two.docker.exec("web", "ping -c1 -W1 10.0.9.50").unwrap();
    one.docker.docker(&["rm", "-f", "short"]).unwrap();
    two.docker.idle("short", NET, &["--ip", "10.0.9.50"]).unwrap();
    one.docker.exec("left", "ping -c1 -W1 10.0.9.50").unwrap();
    two.docker.docker(&["rm", "-f", "short"]).unwrap();
    // Docker's own pool gives the least that is free, again and again.
    for node in [one, two, one] {
        once(node, NET, &[], "ping -c1 -W1 web").unwrap();
    }
}

fn a_network_in_use_stays(one: &DockerNode, two: &DockerNode) {
    for node in [one, two] {
        let said = node.docker.refused(&["network", "rm", NET]).unwrap();
        assert!(said.contains("active endpoints"), "{said}");
    }
}

fn restarted_dockerds_know_it_all(nodes: &mut [DockerNode]) {
    let before = ids(&nodes[0], NET);
    nodes[0].docker.kill().unwrap();
    nodes[0].docker.launch().unwrap();
    nodes[0].docker.wait_ready().unwrap();
    // It left its container running.
    nodes[0].docker.exec("left", "ping -c1 -W1 web").unwrap();
    for kill in [false, true] {
        if kill {
            nodes[1].docker.kill().unwrap();
        } else {
            nodes[1].docker.stop().unwrap();
        }
        nodes[1].docker.launch().unwrap();
        nodes[1].docker.wait_ready().unwrap();
        has_endpoints(&nodes[0], NET, 1);
        nodes[1].docker.docker(&["start", "web"]).unwrap();
        can(&nodes[0], "left", "ping -c1 -W1 web");
        can(&nodes[1], "web", "ping -c1 -W1 left");
    }
    for node in nodes {
        assert_eq!(ids(node, NET), before);
    }
}

/// Requires that the cluster has a network no more, nor gets it back.
fn is_gone(one: &DockerNode, two: &DockerNode, network: &str) {
    for node in [one, two] {
        has_not(node, network);
        eventually(HEARD, || {
            let listed = node.node.json(&["network", "ls"])?.to_string();
            ensure!(!listed.contains(&format!("{network:?}")), "{listed}");
            Ok(())
        })
        .unwrap();
    }
}

fn a_removed_network_is_gone_everywhere(one: &DockerNode, two: &DockerNode) {
    one.docker.docker(&["rm", "-f", "left"]).unwrap();
    two.docker.docker(&["rm", "-f", "web"]).unwrap();
    // By the one that did not make it.
    two.docker.docker(&["network", "rm", NET]).unwrap();
    is_gone(one, two, NET);
}

fn removed_by_a_node_that_just_heard_of_it(one: &DockerNode, two: &DockerNode) {
    create(one, &OURS);
    once(two, NET, &[], "true").unwrap();
    two.docker.docker(&["network", "rm", NET]).unwrap();
    is_gone(one, two, NET);
    // Longer than it takes to think that something is missing.
    std::thread::sleep(Duration::from_secs(17));
    is_gone(one, two, NET);
}

fn the_tools_networks_are_made_once(one: &DockerNode, two: &DockerNode) {
    one.node.ctl(&["network", "create", "tool", "--subnet", "10.0.31.0/24"]).unwrap();
    eventually(HEARD, || {
        let [a, b] = [one, two].map(|node| ids(node, "tool"));
        ensure!(a.len() == 1 && a == b, "{a:?} and {b:?}");
        Ok(())
    })
    .unwrap();
    two.docker.idle("beta", "tool", &[]).unwrap();
    let run = ["run", "--rm", "--network", "tool", IMAGE, "ping", "-c1", "-W1", "beta"];
    eventually(HEARD, || one.docker.docker(&run)).unwrap();
    two.docker.docker(&["rm", "-f", "beta"]).unwrap();
    two.node.ctl(&["network", "rm", "tool"]).unwrap();
    is_gone(one, two, "tool");
}
