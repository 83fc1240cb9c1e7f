//! What becomes of a node's uplink while it forwards, and draining a node.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use overlay_tests::{
    capture::PacketSocket,
    cluster::{Cluster, Network},
    container::{Container, IFNAME},
    exec::eventually,
    node::{
        Datapath::{self, Kernel, Tc, Xdp},
        Node,
    },
    probe::{Flood, Loss, ping_all},
    wire::{UPLINK, Wire},
};
use serde_json::{Value, json};

const BLUE: Network<'_> = Network { name: "blue", vni: 4242, subnet: "10.1.0.0/24" };

const SOON: Duration = Duration::from_secs(20);

/// Each so often a packet goes there and back.
const INTERVAL: Duration = Duration::from_millis(1);

fn record_of(node: &Node, name: &str) -> Result<Value> {
    let listed = node.json(&["node", "ls"])?;
    let found = listed.as_array().into_iter().flatten().find(|listed| listed["name"] == name);
    found.cloned().ok_or_else(|| anyhow::anyhow!("no {name} in {listed}"))
}

fn under_flood(containers: &[Container], action: impl FnOnce()) -> Loss {
    let [a, b] = [&containers[0], &containers[1]];
    let flood = Flood::start(&a.netns, &b.netns, b.addr, INTERVAL).unwrap();
    thread::sleep(Duration::from_millis(300));
    action();
    thread::sleep(Duration::from_millis(300));
    flood.stop().unwrap()
}

fn all_that_happens_to_an_uplink(datapath: Datapath) {
    let cluster = Cluster::start(&[datapath, Tc]).unwrap();
    cluster.create_network(BLUE).unwrap();
    let containers = cluster.attach_each(BLUE).unwrap();
    let both_ways = || {
        ping_all(&containers[0], &containers[1]).unwrap();
        ping_all(&containers[1], &containers[0]).unwrap();
    };
    both_ways();
    let [node, other] = [0, 1].map(|index| &cluster.nodes[index]);
    let shell = |line: &str| node.netns().exec(line).unwrap();

    // Renamed: nothing happens.
    let loss = under_flood(&containers, || {
        shell(&format!("ip link set {UPLINK} name wan0"));
        eventually(SOON, || {
            let status = node.status()?;
            ensure!(status["uplink"]["name"] == "wan0", "{status}");
            Ok(())
        })
        .unwrap();
    });
    assert_eq!(loss.lost(), 0, "{datapath}, renamed: {loss}");
    shell(&format!("ip link set wan0 name {UPLINK}"));
    node.wait_ready().unwrap();

    // Its MTU: others see it, and so do containers.
    shell(&format!("ip link set {UPLINK} mtu 1400"));
    for (node, of) in [(other, 1400), (node, 1400)] {
        eventually(SOON, || {
            let record = record_of(node, "n1")?;
            ensure!(record["mtu"] == json!(of), "{record}");
            Ok(())
        })
        .unwrap();
    }
    eventually(SOON, || {
        let link = containers[0].netns.exec(&format!("ip link show dev {IFNAME}"))?;
        ensure!(link.contains("mtu 1350"), "{link}");
        Ok(())
    })
    .unwrap();
    both_ways();
    shell(&format!("ip link set {UPLINK} mtu 1500"));

    // Down and up again. The kernel forgets its default route with it.
    shell(&format!("ip link set {UPLINK} down"));
    thread::sleep(Duration::from_secs(1));
    shell(&format!("ip link set {UPLINK} up"));
    shell(&format!("ip route replace default via {}", Wire::gateway()));
    eventually(SOON, || ping_all(&containers[0], &containers[1])).unwrap();
    both_ways();
    eventually(SOON, || node.wait_ready()).unwrap();

    // Another address: others follow, with one row each.
    let old = node.addr();
    let new = std::net::Ipv4Addr::new(10, 99, 0, 77);
    shell("sysctl -q -w net.ipv4.conf.all.promote_secondaries=1");
    let rows = || other.status().unwrap()["datapath"]["rows_changed"].as_u64().unwrap();
    let before = rows();
    let loss = under_flood(&containers, || {
        shell(&format!("ip address add {new}/24 dev {UPLINK}"));
        shell(&format!("ip address del {old}/24 dev {UPLINK}"));
        shell(&format!("ip route replace default via {}", Wire::gateway()));
        eventually(SOON, || {
            let record = record_of(other, "n1")?;
            ensure!(record["vtep"] == json!(new), "{record}");
            Ok(())
        })
        .unwrap();
        thread::sleep(Duration::from_millis(500));
    });
    println!(
        "{datapath}: another address: {loss}, a packet each {INTERVAL:?}; {} rows of the other",
        rows() - before
    );
    // Less than a second on an idle machine; others may be at work on this one.
    assert!(loss.lost() < 5000, "{datapath}, another address: {loss}");
    both_ways();
    let wire = PacketSocket::open(other.netns(), UPLINK).unwrap();
    ping_all(&containers[0], &containers[1]).unwrap();
    let from_here = |frame: &[u8]| frame.len() > 50 && frame[23] == 17 && frame[26..30] == new.octets();
    let from_old = |frame: &[u8]| frame.len() > 50 && frame[23] == 17 && frame[26..30] == old.octets();
    // tc on the other node takes the packet after packet sockets saw it.
    assert!(wire.find(Duration::from_secs(2), from_here).unwrap().is_some());
    assert!(
        wire.find(Duration::from_millis(300), from_old).unwrap().is_none(),
        "from an address it has given up"
    );

    // Taken out and put in again.
    let port = &node.port().name;
    shell(&format!("ip link del {UPLINK}"));
    thread::sleep(Duration::from_secs(1));
    let inside = node.netns().name();
    cluster
        .wire
        .netns()
        .exec(&format!("ip link add {port} type veth peer name {UPLINK} netns {inside}"))
        .unwrap();
    cluster.wire.netns().exec(&format!("ip link set {port} master wire up")).unwrap();
    shell(&format!("ip address add {new}/24 dev {UPLINK}"));
    shell(&format!("ip link set {UPLINK} up"));
    shell(&format!("ip route replace default via {}", Wire::gateway()));
    eventually(SOON, || ping_all(&containers[0], &containers[1])).unwrap();
    both_ways();
    eventually(SOON, || node.wait_ready()).unwrap();
}

#[test]
fn xdp_copes_with_all_that_happens_to_an_uplink() {
    all_that_happens_to_an_uplink(Xdp);
}

#[test]
fn tc_copes_with_all_that_happens_to_an_uplink() {
    all_that_happens_to_an_uplink(Tc);
}

#[test]
fn the_kernel_copes_with_all_that_happens_to_an_uplink() {
    all_that_happens_to_an_uplink(Kernel);
}

#[test]
fn a_drained_node_takes_nothing_new_and_keeps_what_it_has() {
    let mut cluster = Cluster::start(&[Tc, Tc]).unwrap();
    cluster.create_network(BLUE).unwrap();
    let containers = cluster.attach_each(BLUE).unwrap();
    ping_all(&containers[0], &containers[1]).unwrap();
    let refused = |node: &Node, arguments: &[&str]| {
        let output = node.try_ctl(arguments).unwrap();
        assert!(!output.status.success(), "{arguments:?} was done");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let guest = overlay_tests::netns::Netns::new("guest").unwrap();
    let path = guest.path();
    let attach = ["endpoint", "attach", BLUE.name, "--netns", &path.to_string_lossy()];

    let drained = cluster.nodes[0].json(&["node", "drain", "n2"]).unwrap();
    assert_eq!(drained["endpoints"][0]["id"], json!(containers[1].id));
    eventually(SOON, || {
        let record = record_of(&cluster.nodes[1], "n2")?;
        ensure!(record["drained"] == json!(true), "{record}");
        Ok(())
    })
    .unwrap();
    let said = refused(&cluster.nodes[1], &attach);
    assert!(said.contains("n2 is drained") && said.contains("--undo"), "{said}");
    assert!(cluster.nodes[0].ctl(&["node", "ls"]).unwrap().contains("alive, drained"));
    assert!(cluster.nodes[1].ctl(&["status"]).unwrap().contains("drained"));
    ping_all(&containers[0], &containers[1]).unwrap();

    // It stays so over a restart, and is its owner's to empty.
    cluster.nodes[1].stop().unwrap();
    cluster.nodes[1].launch().unwrap();
    cluster.nodes[1].wait_ready().unwrap();
    assert!(refused(&cluster.nodes[1], &attach).contains("n2 is drained"));
    assert!(refused(&cluster.nodes[0], &["node", "drain", "n2", "--withdraw"]).contains("run this on n2"));
    let emptied = cluster.nodes[1].json(&["node", "drain", "n2", "--withdraw"]).unwrap();
    assert_eq!(emptied["endpoints"], json!([]));
    assert!(!cluster.nodes[1].netns().exec("ip -brief link").unwrap().contains(&containers[1].host_device));

    cluster.nodes[0].ctl(&["node", "drain", "n2", "--undo"]).unwrap();
    eventually(SOON, || cluster.nodes[1].ctl(&attach)).unwrap();
}
