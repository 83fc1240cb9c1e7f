//! `overlayctl import docker`: networks of Docker's own become ours.

use std::time::Duration;

use anyhow::{bail, ensure};
use overlay_tests::{
    docker::{DockerCluster, DockerNode, Release},
    exec::eventually,
};

use crate::stage::{RESOLVER, can, has, has_not};

const NET: &str = "app";
const SUBNET: &str = "172.30.5.0/24";

/// How long it may take until all know of a node's routes.
const TOLD: Duration = Duration::from_secs(20);

/// Imports a network of a node's Docker; what was said.
fn import(node: &DockerNode, more: &[&str]) -> Result<String, String> {
    let host = node.docker.host();
    let output = node.node.try_ctl(&[&["import", "docker", "--docker", &host], more].concat()).unwrap();
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn imports(release: Release) {
    let cluster = DockerCluster::start(&[release; 2], &RESOLVER).unwrap();
    let [one, two] = [0, 1].map(|index| &cluster.nodes[index]);
    let bridge = ["network", "create", "--subnet", SUBNET, "--gateway", "172.30.5.254"];
    one.docker.docker(&[&bridge[..], &["--aux-address", "router=172.30.5.9", NET]].concat()).unwrap();
    one.docker.idle("old", NET, &[]).unwrap();
    beside_it(one, two);
    in_its_place(one, two);
}

fn beside_it(one: &DockerNode, two: &DockerNode) {
    let said = import(one, &[NET]).unwrap_err();
    assert!(said.contains("--as NAME") && said.contains("--replace"), "{said}");
    // Containers would not know which of the two to go to. A route is told to all a moment after it is there.
    eventually(TOLD, || match import(one, &[NET, "--as", "app2"]) {
        Err(said) => {
            ensure!(said.contains("which node node1 has a route to"), "{said}");
            Ok(())
        }
        Ok(made) => {
            one.node.ctl(&["network", "rm", "app2"])?;
            bail!("nobody knows of the bridge: {made}");
        }
    })
    .unwrap();
    let shown = import(one, &[NET, "--as", "app2", "--allow-overlap"]).unwrap();
    assert!(shown.contains("app2") && shown.contains("172.30.5.254"), "{shown}");
    assert_eq!(import(one, &[NET, "--as", "app2", "--allow-overlap"]).unwrap(), shown, "done once");
    assert_eq!(import(one, &[NET, "--as", "app2"]).unwrap(), shown);
    for node in [one, two] {
        has(node, "app2", SUBNET);
        let config = node.docker.inspect("app2", "json .IPAM.Config").unwrap();
        assert!(config.contains("172.30.5.9") && config.contains("172.30.5.254"), "{config}");
    }
    assert_eq!(one.docker.inspect(NET, ".Driver").unwrap(), "bridge", "it is there as before");
    one.docker.exec("old", "true").unwrap();
    one.node.ctl(&["network", "rm", "app2"]).unwrap();
    has_not(one, "app2");
}

fn in_its_place(one: &DockerNode, two: &DockerNode) {
    let said = import(one, &[NET, "--replace"]).unwrap_err();
    assert!(said.contains("`docker network disconnect app old`"), "{said}");
    assert_eq!(one.docker.inspect(NET, ".Driver").unwrap(), "bridge", "nothing was changed");
    let addr: std::net::Ipv4Addr = one.docker.addr("old", NET).unwrap();
    one.docker.docker(&["network", "disconnect", NET, "old"]).unwrap();
    let shown = import(one, &[NET, "--replace"]).unwrap();
    assert!(shown.contains(NET) && shown.contains(SUBNET), "{shown}");
    for node in [one, two] {
        has(node, NET, SUBNET);
        assert_eq!(node.docker.inspect(NET, ".Driver").unwrap(), "overlayd");
    }
    assert_eq!(import(one, &[NET, "--replace"]).unwrap(), shown, "done once");
    // The container comes back with the address it had, and is there for the other node.
    one.docker.docker(&["network", "connect", "--ip", &addr.to_string(), NET, "old"]).unwrap();
    two.docker.idle("new", NET, &[]).unwrap();
    can(two, "new", "ping -c1 -W1 old");
    can(two, "new", &format!("ping -c1 -W1 {addr}"));
    one.docker.docker(&["rm", "-f", "old"]).unwrap();
    two.docker.docker(&["rm", "-f", "new"]).unwrap();
    one.docker.docker(&["network", "rm", NET]).unwrap();
    has_not(two, NET);
}

#[test]
fn a_bridge_of_the_newest_docker_becomes_a_network_of_all_nodes() {
    imports(Release::Newest);
}

#[test]
#[ignore = "the same with Docker 20.10: cargo xtask test --full"]
fn a_bridge_of_docker_20_10_becomes_a_network_of_all_nodes() {
    imports(Release::V20_10);
}
