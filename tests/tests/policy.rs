//! What a network's owner decides about its packets, on every data path.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use overlay_ebpf::abi::VXLAN_PORT;
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
    probe::reach,
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
