//! What an operator does beside attaching: other settings, nodes that are lost, two daemons by mistake.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{process::Stdio, time::Duration};

use anyhow::ensure;
use overlay_tests::{
    capture::PacketSocket,
    cluster::{Cluster, Network},
    container::{Container, IFNAME},
    exec::{self, Process, eventually},
    netns::Netns,
    node::{
        Datapath::{self, Kernel, Tc, Xdp},
        Node,
    },
    probe::{ping, ping_all},
    third_party::ThirdParty,
    wire::{Card, UPLINK},
};
use serde_json::json;

const BLUE: Network<'_> = Network { name: "blue", vni: 4242, subnet: "10.1.0.0/24" };

/// The port Linux used before VXLAN was given one (RFC 7348 has 4789).
const OTHER_PORT: u16 = 8472;

#[test]
fn another_port_and_a_narrower_underlay_are_kept_to_on_every_data_path() {
    let mut cluster = Cluster::empty().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("overlay.toml");
    std::fs::write(&file, format!("port = {OTHER_PORT}\nmtu = 1400\n")).unwrap();
    let config = ["--config", file.to_str().unwrap()];
    for (name, datapath) in [("n1", Xdp), ("n2", Tc), ("n3", Kernel)] {
        cluster.add(name, Card::Veth, datapath, &config).unwrap();
    }
    cluster.wait_ready().unwrap();
    cluster.create_network(BLUE).unwrap();
    let containers = cluster.attach_each(BLUE).unwrap();
    for [from, to] in [[0, 1], [1, 2], [2, 0]].map(|pair| pair.map(|index: usize| &containers[index])) {
        assert_eq!((from.mtu, to.mtu), (1350, 1350));
        ping_all(from, to).unwrap();
        let largest = ping(&from.netns, to.addr, 3, &["-M", "do", "-s", "1322"]).unwrap();
        assert_eq!(largest.lost(), 0, "{}: {largest}", from.name);
    }
    let wire = PacketSocket::open(cluster.nodes[1].netns(), UPLINK).unwrap();
    ping_all(&containers[2], &containers[1]).unwrap();
    let vxlan =
        |frame: &[u8]| frame.len() > 50 && frame[23] == 17 && frame[36..38] == OTHER_PORT.to_be_bytes();
    // Of a kernel node's: tc on this node takes the packet after packet sockets saw it.
    assert!(wire.find(Duration::from_secs(2), vxlan).unwrap().is_some());
    let status = cluster.nodes[2].status().unwrap();
    assert_eq!([&status["uplink"]["port"], &status["uplink"]["mtu"]], [&json!(OTHER_PORT), &json!(1400)]);
}

#[test]
fn an_interface_goes_where_it_is_asked_for_and_is_as_asked_for() {
    let cluster = Cluster::start(&[Tc, Kernel]).unwrap();
    let create = ["network", "create", "small", "--subnet", "10.3.0.0/24", "--mtu", "1280"];
    cluster.nodes[0].ctl(&create).unwrap();
    let container = Netns::new("process").unwrap();
    let mut sleeper = container.command("sleep");
    let sleeper = Process::spawn(sleeper.arg("600").stdout(Stdio::null())).unwrap();
    let pid = sleeper.pid().to_string();
    eventually(Duration::from_secs(5), || {
        let own = std::fs::read_link("/proc/self/ns/net")?;
        ensure!(std::fs::read_link(format!("/proc/{pid}/ns/net"))? != own, "nsenter is not there yet");
        Ok(())
    })
    .unwrap();

    let attach = ["endpoint", "attach", "small", "--pid", &pid, "--ifname", "net7", "--ip", "10.3.0.7"];
    let attached = cluster.nodes[0].json(&attach).unwrap();
    assert_eq!([&attached["ifname"], &attached["mtu"]], [&json!("net7"), &json!(1280)]);
    let link = container.exec("ip -brief link show dev net7").unwrap();
    assert!(link.contains(attached["mac"].as_str().unwrap()), "{link}");
    assert!(container.exec("ip link show dev net7").unwrap().contains("mtu 1280"));
    assert!(container.exec("ip -brief address show dev net7").unwrap().contains("10.3.0.7/24"));

    let other = Container::attach(&cluster.nodes[1], "small", "other", &[]).unwrap();
    assert_eq!(other.mtu, 1280);
    eventually(Duration::from_secs(10), || {
        let loss = ping(&container, other.addr, 3, &["-M", "do", "-s", "1252"])?;
        ensure!(loss.lost() == 0, "{loss}");
        Ok(())
    })
    .unwrap();
    let gone = cluster.nodes[0].json(&["endpoint", "detach", attached["id"].as_str().unwrap()]).unwrap();
    assert_eq!(gone[0]["name"], attached["id"]);
    assert!(!container.exec("ip -brief link").unwrap().contains("net7"));
}

#[test]
fn a_lost_node_is_suspect_and_forwarded_to_until_an_operator_removes_it() {
    let mut cluster = Cluster::start(&[Xdp, Tc, Kernel]).unwrap();
    cluster.create_network(BLUE).unwrap();
    let containers = cluster.attach_each(BLUE).unwrap();
    let all_reach_the_second = || {
        for from in [&containers[0], &containers[2]] {
            ping_all(from, &containers[1]).unwrap();
        }
    };
    all_reach_the_second();
    cluster.nodes[1].kill().unwrap();
    let state = |node: &Node| {
        let listed = node.json(&["node", "ls"])?;
        let found = listed.as_array().into_iter().flatten().find(|entry| entry["name"] == "n2");
        anyhow::Ok(found.map(|entry| entry["state"].clone()))
    };
    let node = &cluster.nodes[0];
    eventually(Duration::from_secs(30), || {
        ensure!(state(node)? == Some(json!("suspect")), "{:?}", state(node)?);
        Ok(())
    })
    .unwrap();
    all_reach_the_second();
    let health = node.try_ctl(&["status"]).unwrap();
    assert!(String::from_utf8_lossy(&health.stdout).contains("suspect"));

    cluster.nodes[2].ctl(&["node", "rm", "n2"]).unwrap();
    assert_eq!(state(node).unwrap(), None);
    for from in [&containers[0], &containers[2]] {
        eventually(Duration::from_secs(5), || {
            let loss = ping(&from.netns, containers[1].addr, 1, &[])?;
            ensure!(loss.received == 0, "{} still reaches the node that was removed", from.name);
            Ok(())
        })
        .unwrap();
    }
    ping_all(&containers[0], &containers[2]).unwrap();
}

#[test]
fn two_daemons_never_share_a_directory_or_a_name() {
    let cluster = Cluster::start(&[Tc, Tc]).unwrap();
    cluster.create_network(BLUE).unwrap();
    let containers = cluster.attach_each(BLUE).unwrap();
    ping_all(&containers[0], &containers[1]).unwrap();
    let node = &cluster.nodes[0];
    let second = exec::run(&mut node.overlayd(&[]).unwrap()).unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    let last = said.lines().last().unwrap();
    assert!(!second.status.success() && last.contains("runs here") && last.contains("--run-dir"), "{said}");
    node.wait_ready().unwrap();

    let double = Node::start(&cluster.wire, node.name(), Card::Veth, Tc, &[]).unwrap();
    eventually(Duration::from_secs(10), || {
        let status = double.status()?;
        let why = status["degraded"].to_string();
        ensure!(
            status["health"] == "degraded" && why.contains("n1 is in use") && why.contains("another name"),
            "{status}"
        );
        Ok(())
    })
    .unwrap();
    // The first keeps its name and its address.
    let nodes = cluster.nodes[1].json(&["node", "ls"]).unwrap();
    assert_eq!(nodes[0]["vtep"], json!(node.addr()), "{nodes}");
    ping_all(&containers[1], &containers[0]).unwrap();
    node.wait_ready().unwrap();
}

#[test]
fn a_third_party_that_nobody_entered_is_not_heard() {
    for datapath in [Xdp, Tc, Kernel] {
        stranger(datapath);
    }
}

/// A VTEP that knows all about a network, and that the network does not know.
fn stranger(datapath: Datapath) {
    let cluster = Cluster::start(&[datapath]).unwrap();
    cluster.create_network(BLUE).unwrap();
    let node = &cluster.nodes[0];
    let here = Container::attach(node, BLUE.name, "here", &[]).unwrap();
    let vtep = ThirdParty::plug(&cluster.wire, "stranger").unwrap();
    vtep.join(BLUE.vni).unwrap();
    vtep.flood_to(BLUE.vni, node.addr()).unwrap();
    vtep.learn(BLUE.vni, here.mac, node.addr()).unwrap();
    let addr = std::net::Ipv4Addr::new(10, 1, 0, 200);
    let mac = overlay_ebpf::abi::MacAddr([2, 0, 0, 0, 0, 0xc8]);
    let guest = vtep.container(BLUE.vni, "guest", addr, mac).unwrap();
    let inside = PacketSocket::open(&here.netns, IFNAME).unwrap();
    let outside = exec::run(guest.netns.command("ping").args(["-c", "2", "-W", "1", &here.addr.to_string()]));
    assert_eq!(outside.unwrap().status.code(), Some(1));
    let from_guest = |frame: &[u8]| frame[6..12] == mac.0;
    assert!(inside.find(Duration::from_millis(100), from_guest).unwrap().is_none(), "{datapath}");
    assert!(node.counter("uplink", "unknown_vtep").unwrap() > 0, "{datapath}");
}
