//! A store that is lost: nobody forwards less, and the nodes write it anew.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{collections::BTreeSet, thread, time::Duration};

use anyhow::{Result, ensure};
use overlay_tests::{
    cluster::{Cluster, Network},
    container::Container,
    etcd::Etcd,
    exec::eventually,
    node::{
        Datapath::{self, Kernel, Tc},
        Node,
    },
    probe::{Flood, ping_all},
};
use serde_json::Value;

const BLUE: Network<'_> = Network { name: "blue", vni: 4242, subnet: "10.1.0.0/24" };

/// Each so often a packet goes there and back.
const INTERVAL: Duration = Duration::from_millis(1);

/// Two nodes with a container each, and one behind a third party's VTEP that is only a record.
fn pair(datapath: Datapath) -> (Cluster, Vec<Container>) {
    let cluster = Cluster::start(&[datapath, datapath]).unwrap();
    cluster.create_network(BLUE).unwrap();
    cluster.nodes[0].ctl(&["network", "create", "empty", "--subnet", "10.2.0.0/24"]).unwrap();
    cluster.nodes[0].ctl(&["node", "add-static", "switch", "--vtep", "10.99.0.77"]).unwrap();
    let behind = [
        "endpoint",
        "add-static",
        BLUE.name,
        "--node",
        "switch",
        "--ip",
        "10.1.0.77",
        "--mac",
        "02:00:00:00:00:77",
    ];
    cluster.nodes[0].ctl(&behind).unwrap();
    let containers = cluster.attach_each(BLUE).unwrap();
    ping_all(&containers[0], &containers[1]).unwrap();
    ping_all(&containers[1], &containers[0]).unwrap();
    (cluster, containers)
}

fn store_is(node: &Node, wanted: &str) -> Result<()> {
    eventually(Duration::from_secs(40), || {
        let status = node.status()?;
        ensure!(status["store"]["state"] == wanted, "{}", status["store"]);
        Ok(())
    })
}

fn healthy_and_well(node: &Node) {
    node.wait_ready().unwrap();
    eventually(Duration::from_secs(15), || {
        let findings = node.doctor(&[])?;
        ensure!(findings.is_empty(), "{findings:?}");
        Ok(())
    })
    .unwrap();
}

/// The endpoints as a node lists them, but for which of them it has itself.
fn listed(node: &Node) -> Value {
    let mut endpoints = node.json(&["endpoint", "ls"]).unwrap();
    for endpoint in endpoints.as_array_mut().unwrap() {
        endpoint.as_object_mut().unwrap().remove("host_device");
    }
    endpoints
}

fn written_anew(datapath: Datapath) {
    let (mut cluster, containers) = pair(datapath);
    let before = listed(&cluster.nodes[0]);
    let flood =
        Flood::start(&containers[0].netns, &containers[1].netns, containers[1].addr, INTERVAL).unwrap();
    let Cluster { nodes, etcd, wire } = &mut cluster;
    etcd.wipe(wire).unwrap();
    for node in nodes.iter() {
        store_is(node, "frozen").unwrap();
        let findings = node.doctor(&[]).unwrap();
        assert!(findings.iter().any(|f| f.cure.contains("repair --republish")), "{findings:?}");
    }
    // Nothing is written by who has not decided to.
    assert_eq!(Etcd::ctl(wire, &["get", "--prefix", "/overlay/", "--keys-only"]).unwrap().trim(), "");

    nodes[0].ctl(&["repair", "--republish"]).unwrap();
    store_is(&nodes[0], "synced").unwrap();
    store_is(&nodes[1], "frozen").unwrap();
    // What is known of the other stands until it has written, and that is said.
    let findings = nodes[0].doctor(&[]).unwrap();
    assert!(findings.len() == 1 && findings[0].what.contains("n2 has not written"), "{findings:?}");
    nodes[0].kill().unwrap();
    nodes[0].launch().unwrap();
    store_is(&nodes[0], "synced").unwrap();
    thread::sleep(Duration::from_secs(1));

    nodes[1].ctl(&["repair", "--republish"]).unwrap();
    nodes.iter().for_each(healthy_and_well);
    let loss = flood.stop().unwrap();
    assert!(loss.sent > 1000 && loss.lost() == 0, "{datapath}: {loss}");

    for node in nodes.iter() {
        let again = node.try_ctl(&["repair", "--republish"]).unwrap();
        assert_eq!(again.status.code(), Some(1), "there is nothing to republish");
        assert_eq!(listed(node), before);
        let networks = node.json(&["network", "ls"]).unwrap();
        assert_eq!(networks.as_array().unwrap().len(), 2, "{networks}");
    }
    // What has an address keeps it.
    let guests: Vec<_> = (0..4)
        .map(|n| Container::attach(&nodes[n % 2], BLUE.name, &format!("guest{n}"), &[]).unwrap())
        .collect();
    let addresses: BTreeSet<_> = containers.iter().chain(&guests).map(|container| container.addr).collect();
    assert_eq!(addresses.len(), containers.len() + guests.len());
    ping_all(&guests[0], &containers[1]).unwrap();
    ping_all(&guests[1], &guests[0]).unwrap();
    nodes.iter().for_each(healthy_and_well);
}

#[test]
fn the_nodes_write_a_wiped_store_anew_and_lose_no_packet() {
    written_anew(Tc);
}

#[test]
fn nodes_on_the_kernel_data_path_write_a_wiped_store_anew_and_lose_no_packet() {
    written_anew(Kernel);
}

#[test]
fn what_somebody_else_made_meanwhile_is_not_written_over() {
    let (mut cluster, containers) = pair(Tc);
    let Cluster { nodes, etcd, wire } = &mut cluster;
    etcd.wipe(wire).unwrap();
    for node in nodes.iter() {
        store_is(node, "frozen").unwrap();
    }
    nodes[0].ctl(&["repair", "--republish"]).unwrap();
    store_is(&nodes[0], "synced").unwrap();
    // While the second node is frozen, its container's address is given to another.
    let addr = containers[1].addr.to_string();
    let key = format!("/overlay/v1/default/addresses/blue/0a0100{:02x}", containers[1].addr.octets()[3]);
    let value = r#"{"state":"bound","node":"n1","endpoint":"bbbbbbbbbbbb","name":"usurper"}"#;
    Etcd::put(wire, &key, value.into()).unwrap();
    let refused = nodes[1].try_ctl(&["repair", "--republish"]).unwrap();
    let said = String::from_utf8_lossy(&refused.stdout);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said.contains(&format!("conflict: {addr} is used by usurper on n1")), "{said}");
    store_is(&nodes[1], "frozen").unwrap();
    ping_all(&containers[0], &containers[1]).unwrap();

    Etcd::ctl(wire, &["del", &key]).unwrap();
    nodes[1].ctl(&["repair", "--republish"]).unwrap();
    nodes.iter().for_each(healthy_and_well);
    ping_all(&containers[1], &containers[0]).unwrap();
}

#[test]
fn a_node_that_never_comes_back_is_given_up() {
    let (mut cluster, containers) = pair(Tc);
    let Cluster { nodes, etcd, wire } = &mut cluster;
    etcd.wipe(wire).unwrap();
    for node in nodes.iter() {
        store_is(node, "frozen").unwrap();
    }
    nodes[0].ctl(&["repair", "--republish"]).unwrap();
    store_is(&nodes[0], "synced").unwrap();
    ping_all(&containers[0], &containers[1]).unwrap();
    nodes[1].kill().unwrap();
    nodes[0].ctl(&["node", "rm", "n2"]).unwrap();
    healthy_and_well(&nodes[0]);
    let listed = nodes[0].json(&["endpoint", "ls", "--network", BLUE.name]).unwrap();
    assert!(!listed.to_string().contains(&containers[1].id), "{listed}");
}
