//! From one data path to another, and out altogether: what the former had in the kernel is gone.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use overlay_tests::{
    cluster::{Cluster, Network},
    exec::eventually,
    node::{
        Datapath::{self, Kernel, Tc, Xdp},
        Node,
    },
    probe::{Flood, Loss, ping, ping_all},
    traces::{Loaded, Traces},
};

const BLUE: Network<'_> = Network { name: "blue", vni: 4242, subnet: "10.1.0.0/24" };

/// Each so often a packet goes there and back.
const INTERVAL: Duration = Duration::from_millis(1);

/// How long the kernel may take to free what nothing holds any more.
const SOON: Duration = Duration::from_secs(5);

/// Programs that both BPF data paths put on interfaces.
const BY_TC: [&str; 3] = ["endpoint_in", "uplink_in", "slowpath_in"];

/// Makes sure that a node has in its kernel what its data path needs and nothing of another's.
fn only(node: &Node, datapath: Datapath) -> Result<()> {
    let traces = Traces::of(node)?;
    let bpf = datapath != Kernel;
    let fits = traces.bridges.len() == usize::from(!bpf)
        && traces.vxlan_devices.len() == 1
        && traces.endpoint_devices.len() == 1
        && traces.tables.is_empty() == bpf
        && traces.pins.is_empty() != bpf
        && traces.interfaces_of("uplink_xdp") == usize::from(datapath == Xdp)
        && BY_TC.iter().all(|program| traces.interfaces_of(program) == usize::from(bpf));
    ensure!(fits, "not what {datapath} leaves: {traces:?}");
    let uplink = node.netns().exec("ip link show dev eth0")?;
    ensure!(uplink.contains("xdp") == (datapath == Xdp), "{datapath}: {uplink}");
    Ok(())
}

#[test]
fn a_node_that_changes_its_data_path_forwards_on_and_forgets_the_former() -> Result<()> {
    let mut cluster = Cluster::start(&[Tc, Tc])?;
    cluster.create_network(BLUE)?;
    let containers = cluster.attach_each(BLUE)?;
    let [here, there] = [&containers[0], &containers[1]];
    ping_all(here, there)?;
    let node = &mut cluster.nodes[0];
    only(node, Tc)?;

    // Every ordered pair of data paths once.
    let mut former = Tc;
    for next in [Xdp, Tc, Kernel, Xdp, Kernel, Tc] {
        let flood = Flood::start(&here.netns, &there.netns, there.addr, INTERVAL)?;
        node.stop()?;
        node.ask_for(next);
        node.launch()?;
        node.wait_ready()?;
        ping_all(here, there).with_context(|| format!("from {former} to {next}"))?;
        ping_all(there, here).with_context(|| format!("from {former} to {next}"))?;
        let loss = flood.stop()?;
        println!("from {former} to {next}: {loss}");
        tolerable(former, next, loss)?;
        ensure!(node.status()?["datapath"]["mode"] == next.to_string().as_str());
        eventually(SOON, || only(node, next)).with_context(|| format!("from {former} to {next}"))?;
        former = next;
    }
    Ok(())
}

/// Between XDP and tc nothing is lost: the maps are the same. Between BPF and the kernel's devices
/// there is a gap, from the one being taken out until the other is in.
fn tolerable(former: Datapath, next: Datapath, loss: Loss) -> Result<()> {
    ensure!(loss.sent > 300, "from {former} to {next}: the flood was a trickle: {loss}");
    if former != Kernel && next != Kernel {
        ensure!(loss.lost() == 0, "from {former} to {next}: {loss}");
    } else {
        ensure!(loss.received > loss.sent / 4, "from {former} to {next}: {loss}");
    }
    Ok(())
}

#[test]
fn purge_leaves_nothing() -> Result<()> {
    for datapath in [Xdp, Tc, Kernel] {
        let mut cluster = Cluster::start(&[datapath, Tc])?;
        cluster.create_network(BLUE)?;
        let containers = cluster.attach_each(BLUE)?;
        ping_all(&containers[0], &containers[1])?;
        let node = &mut cluster.nodes[0];
        only(node, datapath)?;
        let loaded = if datapath == Kernel { None } else { Some(Loaded::of(node)?) };

        let refused = node.purge().err().context("a daemon that runs was purged")?;
        ensure!(format!("{refused:#}").contains("runs"), "{refused:#}");
        ping_all(&containers[0], &containers[1])?;

        node.stop()?;
        node.purge()?;
        let left = Traces::of(node)?;
        ensure!(left == Traces::default(), "{datapath}: left: {left:?}");
        ensure!(!node.netns().exec("ip link show dev eth0")?.contains("xdp"));
        ensure!(!containers[0].netns.exec("ip -brief link")?.contains("eth0"));
        if let Some(loaded) = loaded {
            eventually(SOON, || loaded.ensure_gone()).with_context(|| datapath.to_string())?;
        }
        // Again, with nothing there.
        node.purge()?;
        ensure!(ping(&containers[1].netns, containers[0].addr, 1, &[])?.received == 0);
    }
    Ok(())
}
