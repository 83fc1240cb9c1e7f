//! The kernel data path's guard with the `nft` of other releases than this machine's: its language grows words.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::time::Duration;

use anyhow::ensure;
use overlay_tests::{
    cluster::{Cluster, Network},
    container::Container,
    exec::eventually,
    node::{self, Datapath::Kernel, Node},
    probe::ping_all,
    wire::Card,
};

const BLUE: Network<'_> = Network { name: "blue", vni: 4242, subnet: "10.1.0.0/24" };

#[test]
fn the_oldest_nft_takes_the_guard() {
    guards_with("oldest");
}

#[test]
fn the_newest_nft_takes_the_guard() {
    guards_with("newest");
}

fn guards_with(age: &str) {
    let dir = node::target().unwrap().join("nftables").join(age).join("bin");
    assert!(dir.join("nft").is_file(), "{} has no nft: run `cargo xtask setup`", dir.display());
    let path = format!("PATH={}:{}", dir.display(), std::env::var("PATH").unwrap());
    let mut cluster = Cluster::empty().unwrap();
    for name in ["n1", "n2"] {
        let mut node = Node::plug(&cluster.wire, name, Card::Veth, Kernel, &[]).unwrap();
        node.launch_by(&["env", &path]).unwrap();
        cluster.nodes.push(node);
    }
    cluster.wait_ready().unwrap();
    cluster.create_network(BLUE).unwrap();
    let attach =
        |node: usize, name: &str| Container::attach(&cluster.nodes[node], BLUE.name, name, &[]).unwrap();
    let (one, two) = (attach(0, "one"), attach(1, "two"));
    ping_all(&one, &two).unwrap();
    // One more on the other node, which is all that changes on this.
    let three = attach(1, "three");
    ping_all(&one, &three).unwrap();
    eventually(Duration::from_secs(10), || {
        for node in &cluster.nodes {
            let status = node.status()?;
            ensure!(status["problems"].as_array().is_some_and(Vec::is_empty), "{}", status["problems"]);
            let findings = node.doctor(&[])?;
            ensure!(findings.is_empty(), "{findings:?}");
        }
        Ok(())
    })
    .unwrap();
    assert!(cluster.nodes[0].counter("uplink", "delivered").unwrap() > 0);
    // A source that nobody has is dropped by name.
    one.netns.exec("ip link set eth0 address 02:00:00:00:00:99").unwrap();
    let _ = one.netns.exec(&format!("ping -c 1 -W 1 {}", two.addr));
    assert!(cluster.nodes[0].counter("endpoint", "spoofed_mac").unwrap() > 0);
}
