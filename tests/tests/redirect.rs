//! Endpoints that frames from the wire are redirected to by XDP.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use overlay_tests::{
    cluster::{Cluster, Network},
    container::{Container, IFNAME},
    exec::eventually,
    node::{
        Datapath::{Kernel, Tc, Xdp},
        Node,
    },
    probe::{ping, ping_all, reach, transfer},
};

const BLUE: Network<'_> = Network { name: "blue", vni: 4242, subnet: "10.1.0.0/24" };

/// How many frames were redirected to a container's interface.
fn redirected(node: &Node, container: &Container) -> Result<u64> {
    let text = node.netns().exec(&format!("ethtool -S {}", container.host_device))?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("tx_queue_0_xdp_xmit:"));
    Ok(line.with_context(|| text.clone())?.trim().parse()?)
}

/// A container whose kernel computes the checksums of what it sends: frames that are redirected on a
/// wire of veth pairs, which leaves them to nobody, would arrive without.
fn attach(node: &Node, name: &str, more: &[&str]) -> Container {
    let container = Container::attach(node, BLUE.name, name, more).unwrap();
    container.netns.exec(&format!("ethtool -K {IFNAME} tx off")).unwrap();
    container
}

#[test]
fn frames_are_redirected_to_who_asked_for_it_and_nothing_is_left_when_it_goes() {
    let mut cluster = Cluster::start(&[Xdp, Tc, Kernel]).unwrap();
    cluster.create_network(BLUE).unwrap();
    let [one, two, three] = &cluster.nodes[..] else { panic!() };
    let fast = attach(one, "fast", &["--deliver", "xdp"]);
    let plain = attach(one, "plain", &[]);
    let others = [attach(two, "two", &[]), attach(three, "three", &[])];
    for other in &others {
        for here in [&fast, &plain] {
            ping_all(other, here).unwrap();
            ping_all(here, other).unwrap();
            transfer(&other.netns, &here.netns, here.addr, 1_000_000).unwrap();
            transfer(&here.netns, &other.netns, other.addr, 1_000_000).unwrap();
        }
    }
    ping_all(&plain, &fast).unwrap();
    assert!(redirected(one, &fast).unwrap() > 100);
    assert_eq!(redirected(one, &plain).unwrap(), 0);
    let shown = one.json(&["endpoint", "inspect", "fast"]).unwrap();
    assert_eq!(shown["delivery"], "xdp", "{shown}");

    // The next daemon goes on with it.
    cluster.nodes[0].kill().unwrap();
    cluster.nodes[0].launch().unwrap();
    cluster.nodes[0].wait_ready().unwrap();
    let one = &cluster.nodes[0];
    let before = redirected(one, &fast).unwrap();
    ping_all(&others[0], &fast).unwrap();
    assert!(redirected(one, &fast).unwrap() >= before + 10);

    one.ctl(&["endpoint", "detach", "fast"]).unwrap();
    assert_eq!(targets(one).unwrap(), Vec::<u32>::new());
    ping_all(&others[0], &plain).unwrap();
}

/// The interfaces that a node's programs redirect to.
fn targets(node: &Node) -> Result<Vec<u32>> {
    let map = aya::maps::MapData::from_pin(node.bpffs().join("v1/redirect_targets"))?;
    let map = aya::maps::xdp::DevMapHash::try_from(aya::maps::Map::DevMapHash(map))?;
    Ok(map.keys().collect::<Result<_, _>>()?)
}

#[test]
fn an_endpoint_with_redirects_is_refused_where_there_is_no_xdp() {
    let cluster = Cluster::start(&[Tc, Kernel]).unwrap();
    cluster.create_network(BLUE).unwrap();
    for (node, mode) in cluster.nodes.iter().zip(["tc", "kernel"]) {
        let error = Container::attach(node, BLUE.name, "fast", &["--deliver", "xdp"]).err().unwrap();
        let error = format!("{error:#}");
        assert!(error.contains("needs XDP") && error.contains(mode), "{error}");
    }
}

#[test]
fn frames_that_an_interface_does_not_take_are_told_in_status() {
    let cluster = Cluster::start(&[Xdp, Tc]).unwrap();
    cluster.create_network(BLUE).unwrap();
    let (fast, other) =
        (attach(&cluster.nodes[0], "fast", &["--deliver", "xdp"]), attach(&cluster.nodes[1], "other", &[]));
    reach(&other, &fast).unwrap();
    // Nobody takes frames off the queue of an interface that is down.
    fast.netns.exec(&format!("ip link set {IFNAME} down")).unwrap();
    assert_eq!(ping(&other.netns, fast.addr, 5, &[]).unwrap().received, 0);
    eventually(Duration::from_secs(5), || {
        let lost = cluster.nodes[0].counter("uplink", "redirect_lost")?;
        ensure!(lost >= 5, "{lost} frames are counted as lost");
        Ok(())
    })
    .unwrap();
    fast.netns.exec(&format!("ip link set {IFNAME} up")).unwrap();
    ping_all(&other, &fast).unwrap();
}

#[test]
fn who_no_longer_takes_redirected_frames_gets_them_by_tc_and_that_is_told() {
    let cluster = Cluster::start(&[Xdp, Tc]).unwrap();
    cluster.create_network(BLUE).unwrap();
    let one = &cluster.nodes[0];
    let (fast, other) = (attach(one, "fast", &["--deliver", "xdp"]), attach(&cluster.nodes[1], "other", &[]));
    let before = redirected(one, &fast).unwrap();
    ping_all(&other, &fast).unwrap();
    assert!(redirected(one, &fast).unwrap() >= before + 10);
    let told = |wanted: bool| {
        // Something has to happen for the data path to look, or half a minute to pass.
        let _passing = Container::attach(one, BLUE.name, "passing", &[]).unwrap();
        eventually(Duration::from_secs(10), || {
            let problems = one.status()?["problems"].to_string();
            ensure!(problems.contains("takes no redirected frames") == wanted, "{problems}");
            Ok(())
        })
        .unwrap();
    };
    // Its queue for redirected frames goes with it (`veth_set_features`).
    fast.netns.exec(&format!("ethtool -K {IFNAME} gro off")).unwrap();
    told(true);
    let before = redirected(one, &fast).unwrap();
    ping_all(&other, &fast).unwrap();
    assert_eq!((redirected(one, &fast).unwrap(), targets(one).unwrap()), (before, vec![]));

    fast.netns.exec(&format!("ethtool -K {IFNAME} gro on")).unwrap();
    told(false);
    ping_all(&other, &fast).unwrap();
    assert!(redirected(one, &fast).unwrap() >= before + 10);
}
