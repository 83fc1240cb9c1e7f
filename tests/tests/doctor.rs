//! What `overlayctl doctor` sees of the store and the host.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{net::UdpSocket, time::Duration};

use overlay_ebpf::abi::VXLAN_PORT;
use overlay_tests::{
    cluster::{Cluster, Network},
    container::Container,
    etcd::Etcd,
    exec::eventually,
    node::{
        Datapath::{Tc, Xdp},
        Node,
    },
    wire::{Card, UPLINK},
};
use overlay_user::api::{Finding, Severity};

const BLUE: Network<'_> = Network { name: "blue", vni: 4242, subnet: "10.1.0.0/24" };

/// Requires exactly one finding, which says `what` and has a cure that says `cure`.
fn the_one(node: &Node, what: &str, cure: &str) -> Finding {
    let findings = node.doctor(&[]).unwrap();
    assert!(
        findings.len() == 1 && findings[0].what.contains(what) && findings[0].cure.contains(cure),
        "{what}: {findings:?}"
    );
    findings.into_iter().next().unwrap()
}

#[test]
fn what_does_not_fit_in_the_store_is_named_by_key() {
    let cluster = Cluster::start(&[Tc]).unwrap();
    cluster.create_network(BLUE).unwrap();
    let node = &cluster.nodes[0];
    let container = Container::attach(node, BLUE.name, "web", &[]).unwrap();
    assert_eq!(node.doctor(&[]).unwrap(), []);
    let key = |rest: &str| format!("/overlay/v1/default/{rest}");

    let leaked = r#"{"state":"bound","node":"n1","endpoint":"bbbbbbbbbbbb"}"#;
    Etcd::put(&cluster.wire, &key("addresses/blue/0a010063"), leaked.into()).unwrap();
    let found = the_one(node, "addresses/blue/0a010063 is kept for endpoint bbbbbbbbbbbb", "etcdctl del ");
    assert_eq!(found.severity, Severity::Error);
    // The cure is one.
    Etcd::ctl(&cluster.wire, &["del", found.cure.trim_start_matches("etcdctl del ")]).unwrap();
    assert_eq!(node.doctor(&[]).unwrap(), []);

    let mac = container.mac.to_string().replace(':', "");
    Etcd::ctl(&cluster.wire, &["del", &key(&format!("macs/blue/{mac}"))]).unwrap();
    the_one(node, &format!("the MAC address {} of endpoint {}", container.mac, container.id), "detach");
    Etcd::put(&cluster.wire, &key(&format!("macs/blue/{mac}")), container.id.clone().into()).unwrap();

    Etcd::put(&cluster.wire, &key("networks/junk"), "{".into()).unwrap();
    let found = the_one(
        node,
        "the record networks/junk is left out",
        "etcdctl del /overlay/v1/default/networks/junk",
    );
    assert_eq!(found.severity, Severity::Warning);
    Etcd::ctl(&cluster.wire, &["del", &key("networks/junk")]).unwrap();
    assert_eq!(node.doctor(&[]).unwrap(), []);
}

#[test]
fn without_etcd_the_rest_is_looked_at() {
    let mut cluster = Cluster::start(&[Tc]).unwrap();
    cluster.create_network(BLUE).unwrap();
    let container = Container::attach(&cluster.nodes[0], BLUE.name, "web", &[]).unwrap();
    cluster.etcd.kill();
    let node = &cluster.nodes[0];
    the_one(node, "etcd does not answer", "start etcd");
    // With etcd away, too, the kernel is looked at and repaired.
    node.netns().exec(&format!("ip link set {} down", container.host_device)).unwrap();
    let findings = node.doctor(&[]).unwrap();
    assert!(findings.iter().any(|found| found.what.contains(&container.host_device)), "{findings:?}");
    assert_eq!(node.doctor(&["--fix"]).unwrap().len(), 1);

    cluster.nodes[0].kill().unwrap();
    assert_eq!(cluster.nodes[0].try_ctl(&["doctor"]).unwrap().status.code(), Some(2));
}

#[test]
fn what_of_the_host_is_in_the_way_is_named() {
    let mut cluster = Cluster::start(&[Xdp]).unwrap();
    cluster.add("narrow", Card::Veth, Tc, &["--mtu", "1400"]).unwrap();
    cluster.wait_ready().unwrap();
    let node = &cluster.nodes[0];

    let socket = node.netns().run(|| Ok(UdpSocket::bind(("0.0.0.0", VXLAN_PORT))?)).unwrap();
    the_one(node, &format!("UDP port {VXLAN_PORT} is held by "), "--port");
    drop(socket);

    node.netns().exec(&format!("ethtool -K {UPLINK} rx-gro-list on")).unwrap();
    the_one(node, "rx-gro-list is on for the uplink eth0", "ethtool -K eth0 rx-gro-list off");
    node.netns().exec(&format!("ethtool -K {UPLINK} rx-gro-list off")).unwrap();

    node.netns().exec("ip link add ov0123456789ab type veth peer name other").unwrap();
    the_one(
        node,
        "the interface ov0123456789ab belongs to no endpoint",
        "overlayctl endpoint detach 0123456789ab",
    );
    node.ctl(&["endpoint", "detach", "0123456789ab"]).unwrap();
    assert_eq!(node.doctor(&[]).unwrap(), []);

    cluster.create_network(BLUE).unwrap();
    let _containers = cluster.attach_each(BLUE).unwrap();
    eventually(Duration::from_secs(10), || {
        let findings = node.doctor(&[])?;
        anyhow::ensure!(findings.len() == 1, "{findings:?}");
        Ok(())
    })
    .unwrap();
    the_one(
        node,
        "narrow has room for 1350 bytes, interfaces of network blue send 1450",
        "network set blue --mtu 1350",
    );
    assert_eq!(cluster.nodes[1].doctor(&[]).unwrap(), []);
    node.ctl(&["network", "set", BLUE.name, "--mtu", "1350"]).unwrap();
    eventually(Duration::from_secs(10), || {
        let findings = node.doctor(&[])?;
        anyhow::ensure!(findings.is_empty(), "{findings:?}");
        Ok(())
    })
    .unwrap();

    cluster.wire.netns().exec(&format!("ip link set {} down", node.port().name)).unwrap();
    let findings = node.doctor(&[]).unwrap();
    assert!(
        findings.iter().any(|found| found.what.contains("the uplink eth0 has no carrier")),
        "{findings:?}"
    );
}
