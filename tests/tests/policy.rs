//! What a network's owner decides about its packets, on every data path.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use overlay_ebpf::abi::{MacAddr, VXLAN_PORT};
use overlay_tests::{
    capture::PacketSocket,
    cluster::{Cluster, Network},
    container::{Container, IFNAME},
    exec::eventually,
    frame::{Station, offset, udp},
    node::{
        Datapath::{Kernel, Tc, Xdp},
        Node,
    },
    probe::{Flood, reach},
};
use serde_json::{Value, json};

const BLUE: Network<'_> = Network { name: "blue", vni: 4242, subnet: "10.1.0.0/24" };

/// How long a change may take to reach all nodes on a busy machine.
const SOON: Duration = Duration::from_secs(10);

fn station(container: &Container) -> Station {
    Station { mac: container.mac, addr: container.addr }
}

/// Changes network blue.
fn set(node: &Node, settings: &str) {
    let arguments: Vec<_> = ["network", "set", BLUE.name].into_iter().chain(settings.split(' ')).collect();
    node.ctl(&arguments).unwrap();
}

#[test]
fn what_an_owner_decides_is_shown_and_changed() {
    let cluster = Cluster::start(&[Tc]).unwrap();
    let node = &cluster.nodes[0];
    let policy = || -> Value { node.json(&["network", "inspect", BLUE.name]).unwrap()["policy"].clone() };
    node.ctl(&[
        "network",
        "create",
        BLUE.name,
        "--dscp",
        "10",
        "--unknown-unicast",
        "flood",
        "--mtu",
        "1400",
    ])
    .unwrap();
    let mut expected = json!({
        "dscp": "10", "broadcast": "flood", "multicast": "flood", "unknown_unicast": "flood",
        "bum_rate": 1000, "vlan": "drop",
    });
    assert_eq!(policy(), expected);
    set(node, "--vlan trunk --bum-rate 50 --flood-cap 3 --mtu 0");
    for (field, value) in [("vlan", json!("trunk")), ("bum_rate", json!(50)), ("flood_cap", json!(3))] {
        expected[field] = value;
    }
    assert_eq!(policy(), expected);
    let shown = node.ctl(&["network", "inspect", BLUE.name]).unwrap();
    for line in
        ["dscp              10", "flood cap         3", "vlan              trunk", "mtu               auto"]
    {
        assert!(shown.contains(line), "no {line:?} in:\n{shown}");
    }
}

#[test]
fn outer_headers_have_the_networks_dscp_and_the_packets_ecn() {
    let cluster = Cluster::start(&[Xdp, Tc, Kernel]).unwrap();
    cluster.create_network(BLUE).unwrap();
    let containers = cluster.attach_each(BLUE).unwrap();
    let pairs = || (0..3).map(|n| (&cluster.nodes[n], &containers[n], &containers[(n + 1) % 3]));
    for (_, from, to) in pairs() {
        reach(from, to).unwrap();
    }
    for (dscp, expected) in [("inherit", 0x28_u8), ("0", 0), ("46", 46 << 2), ("8", 8 << 2)] {
        set(&cluster.nodes[0], &format!("--dscp {dscp}"));
        for (node, from, to) in pairs() {
            let sender = PacketSocket::open(&from.netns, IFNAME).unwrap();
            let wire = PacketSocket::open(cluster.wire.netns(), &node.port().name).unwrap();
            // Linux has its own rule for CE, so that is not compared.
            for ecn in 0..3 {
                let mut frame = udp(station(from), station(to), (5000, 6000), dscp.as_bytes());
                frame[15] = 0x28 | ecn;
                overlay_tests::frame::fix_ipv4_checksum(&mut frame, 14);
                let seen = || -> Result<()> {
                    sender.send(&frame)?;
                    let ours = |seen: &[u8]| {
                        seen.len() == frame.len() + offset::INNER
                            && seen[36..38] == VXLAN_PORT.to_be_bytes()
                            && seen[offset::INNER..] == frame
                    };
                    let outer = wire.find(Duration::from_millis(200), ours)?.context("not seen")?;
                    let tos = outer[offset::OUTER_TOS];
                    let wanted = expected | ecn;
                    ensure!(tos == wanted, "DSCP {dscp} from {}: {tos:#x}, not {wanted:#x}", node.name());
                    Ok(())
                };
                eventually(SOON, seen).unwrap();
            }
        }
    }
}

#[test]
fn a_storm_in_one_network_costs_another_nothing() {
    let cluster = Cluster::start(&[Tc, Xdp, Kernel]).unwrap();
    let red = Network { name: "red", vni: 77, ..BLUE };
    cluster.create_network(BLUE).unwrap();
    cluster.create_network(red).unwrap();
    set(&cluster.nodes[0], "--bum-rate 100");
    let stormy = cluster.attach_each(BLUE).unwrap();
    let quiet = cluster.attach_each(red).unwrap();
    for n in 0..3 {
        let (node, to) = (&cluster.nodes[n], (n + 1) % 3);
        reach(&stormy[n], &stormy[to]).unwrap();
        reach(&quiet[n], &quiet[to]).unwrap();
        let before = node.counter("endpoint", "flooded").unwrap();
        let flood = Flood::start(&quiet[n].netns, &quiet[to].netns, quiet[to].addr, Duration::from_millis(2))
            .unwrap();
        let sender = PacketSocket::open(&stormy[n].netns, IFNAME).unwrap();
        let everybody = Station { mac: MacAddr([0xff; 6]), addr: Ipv4Addr::BROADCAST };
        let frame = udp(station(&stormy[n]), everybody, (5000, 6000), b"storm");
        let begin = Instant::now();
        let mut sent = 0;
        while begin.elapsed() < Duration::from_secs(2) {
            // A full queue is no failure of a storm's.
            sent += u64::from(sender.send(&frame).is_ok());
        }
        let took = begin.elapsed();
        let loss = flood.stop().unwrap();
        assert!(loss.sent > 100 && loss.lost() == 0, "{}: {loss} beside a storm of {sent}", node.name());
        let cut = node.counter("endpoint", "bum_rate").unwrap();
        let flooded = node.counter("endpoint", "flooded").unwrap() - before;
        let most = 100 * (took.as_secs() + 2);
        assert!(cut > 0 && cut + flooded >= sent, "{}: {cut} cut, {flooded} flooded of {sent}", node.name());
        // What red floods by itself, as when a neighbour is asked for, is counted there too.
        assert!(flooded <= most + 50, "{}: {flooded} flooded of {sent} in {took:?}", node.name());
    }
}

#[test]
fn broadcasts_are_dropped_where_the_owner_has_them_dropped() {
    let cluster = Cluster::start(&[Tc, Xdp, Kernel]).unwrap();
    cluster.create_network(BLUE).unwrap();
    let containers = cluster.attach_each(BLUE).unwrap();
    for n in 0..3 {
        reach(&containers[n], &containers[(n + 1) % 3]).unwrap();
    }
    let everybody = Station { mac: MacAddr([0xff; 6]), addr: Ipv4Addr::BROADCAST };
    let arrives = |n: usize, text: &[u8]| {
        let (from, to) = (&containers[n], &containers[(n + 1) % 3]);
        let listener = PacketSocket::open(&to.netns, IFNAME).unwrap();
        let frame = udp(station(from), everybody, (5000, 6000), text);
        PacketSocket::open(&from.netns, IFNAME).unwrap().send(&frame).unwrap();
        listener.find(Duration::from_millis(500), |seen| seen == frame).unwrap().is_some()
    };
    for (policy, expected) in [("drop", false), ("flood", true)] {
        set(&cluster.nodes[0], &format!("--broadcast {policy}"));
        for n in 0..3 {
            eventually(SOON, || {
                let node = &cluster.nodes[n];
                ensure!(arrives(n, policy.as_bytes()) == expected, "{policy}: not so from {}", node.name());
                // Also when it is flooded again.
                let counted = node.counter("endpoint", "bum_policy")?;
                ensure!(counted > 0, "{}: it was dropped elsewhere, or the count is gone", node.name());
                Ok(())
            })
            .unwrap();
        }
    }
}

#[test]
fn a_network_on_more_nodes_than_its_flood_cap_floods_nothing_and_says_so() {
    let cluster = Cluster::start(&[Tc, Xdp, Kernel]).unwrap();
    cluster.create_network(BLUE).unwrap();
    let containers = cluster.attach_each(BLUE).unwrap();
    for n in 0..3 {
        reach(&containers[n], &containers[(n + 1) % 3]).unwrap();
    }
    let everybody = Station { mac: MacAddr([0xff; 6]), addr: Ipv4Addr::BROADCAST };
    for (cap, expected) in [(1, false), (2, true)] {
        set(&cluster.nodes[0], &format!("--flood-cap {cap}"));
        for (n, node) in cluster.nodes.iter().enumerate() {
            let frame =
                udp(station(&containers[n]), everybody, (5000, 6000), format!("cap {cap}").as_bytes());
            eventually(SOON, || {
                let problems = node.status()?["problems"].to_string();
                let told = problems.contains("blue is on 2 other nodes, more than its flood cap");
                ensure!(told != expected, "{}: {problems}", node.name());
                let dropped = node.counter("endpoint", "bum_policy")?;
                let listeners =
                    [1, 2].map(|step| PacketSocket::open(&containers[(n + step) % 3].netns, IFNAME).unwrap());
                PacketSocket::open(&containers[n].netns, IFNAME)?.send(&frame)?;
                for listener in listeners {
                    let arrived = listener.find(Duration::from_millis(300), |seen| seen == frame)?.is_some();
                    ensure!(arrived == expected, "with a cap of {cap} from {}", node.name());
                }
                ensure!((node.counter("endpoint", "bum_policy")? > dropped) != expected, "{}", node.name());
                Ok(())
            })
            .unwrap();
            // Unicast goes on.
            reach(&containers[n], &containers[(n + 1) % 3]).unwrap();
        }
    }
}
