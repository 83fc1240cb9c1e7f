//! Interfaces that are there already, when their network's MTU changes.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use overlay_tests::{
    cluster::{Cluster, Network},
    container::{Container, IFNAME},
    exec::eventually,
    netns::Netns,
    node::{
        Datapath::{Kernel, Tc, Xdp},
        Node,
    },
    probe::{reach, transfer},
};

const BLUE: Network<'_> = Network { name: "blue", vni: 4242, subnet: "10.1.0.0/24" };

/// How long a change may take to reach all nodes on a busy machine.
const SOON: Duration = Duration::from_secs(10);

fn set_mtu(node: &Node, mtu: &str) {
    node.ctl(&["network", "set", BLUE.name, "--mtu", mtu]).unwrap();
}

/// The MTU of an interface.
fn mtu_of(netns: &Netns, interface: &str) -> Result<u64> {
    let shown = netns.exec(&format!("ip link show dev {interface}"))?;
    let mut words = shown.split_whitespace().skip_while(|word| *word != "mtu");
    Ok(words.nth(1).with_context(|| format!("{interface} has no MTU"))?.parse()?)
}

#[test]
fn interfaces_follow_their_networks_mtu() {
    let cluster = Cluster::start(&[Tc, Xdp, Kernel]).unwrap();
    cluster.create_network(BLUE).unwrap();
    let containers = cluster.attach_each(BLUE).unwrap();
    let node = &cluster.nodes[0];
    let have = |mtu: u64| {
        for (node, container) in cluster.nodes.iter().zip(&containers) {
            eventually(SOON, || {
                let host = mtu_of(node.netns(), &container.host_device)?;
                ensure!(host == mtu, "{host} on {}", node.name());
                let inside = mtu_of(&container.netns, IFNAME)?;
                ensure!(inside == mtu, "{inside} in {}", container.name);
                Ok(())
            })
            .unwrap();
        }
        for n in 0..3 {
            let (from, to) = (&containers[n], &containers[(n + 1) % 3]);
            reach(from, to).unwrap();
            transfer(&from.netns, &to.netns, to.addr, 1 << 20).unwrap();
        }
    };
    have(1450);
    set_mtu(node, "1300");
    have(1300);
    // What a container decides for itself afterwards stays.
    containers[1].netns.exec(&format!("ip link set {IFNAME} mtu 1200")).unwrap();
    let later = Container::attach(node, BLUE.name, "later", &[]).unwrap();
    reach(&later, &containers[1]).unwrap();
    assert_eq!((later.mtu, mtu_of(&containers[1].netns, IFNAME).unwrap()), (1300, 1200));
    containers[1].netns.exec(&format!("ip link set {IFNAME} mtu 1300")).unwrap();

    // More than the underlay carries.
    set_mtu(node, "1451");
    have(1450);
    for node in &cluster.nodes {
        let problems = node.status().unwrap()["problems"].to_string();
        assert!(problems.contains("has an MTU of 1451") && problems.contains("room for 1450"), "{problems}");
    }
    set_mtu(node, "0");
    have(1450);
    cluster.wait_ready().unwrap();
}
