//! Open vSwitch's VTEP as the other end. It drops what has a wrong checksum, so the wire is one of cards: on
//! a wire of veths with their offloads, checksums are never filled in.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use overlay_ebpf::abi::MacAddr;
use overlay_tests::{
    capture::PacketSocket,
    cluster::{Cluster, Network},
    container::{Container, IFNAME},
    exec::eventually,
    frame::{Station, udp},
    node::Datapath::{self, Kernel, Tc, Xdp},
    open_vswitch::OpenVSwitch,
    probe::{ping, transfer},
    wire::UPLINK,
};

const BLUE: Network<'_> = Network { name: "blue", vni: 4242, subnet: "10.1.0.0/24" };
const ADDR: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 200);
const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xc8]);
const SOON: Duration = Duration::from_secs(10);

fn talks_to_open_vswitch(datapath: Datapath) -> Result<()> {
    let cluster = Cluster::start(&[datapath])?;
    cluster.create_network(BLUE)?;
    let node = &cluster.nodes[0];
    let offloads = format!("ethtool -K {UPLINK} tx off tso off gso off");
    node.netns().exec(&offloads)?;
    let ours = Container::attach(node, BLUE.name, "ours", &[])?;

    let other = OpenVSwitch::start(&cluster.wire, "ovs")?;
    other.join(BLUE.vni, node.addr(), ADDR, MAC)?;
    let (ip, mac) = (ADDR.to_string(), MAC.to_string());
    node.ctl(&["node", "add-static", "ovs", "--vtep", &other.vtep.to_string()])?;
    node.ctl(&["endpoint", "add-static", BLUE.name, "--node", "ovs", "--ip", &ip, "--mac", &mac])?;

    eventually(SOON, || {
        ensure!(ping(&ours.netns, ADDR, 1, &[])?.received == 1, "no answer");
        Ok(())
    })?;
    // Each asks for the other anew: its question is a broadcast through the tunnel.
    other.netns.exec("ip neighbour flush dev brint")?;
    ensure!(ping(&other.netns, ours.addr, 10, &[])?.lost() == 0, "lost on the way from Open vSwitch");
    // With tc on the uplink, ARP goes by the kernel's device.
    let flooded = node.counter("uplink", "flooded")? + node.counter("slowpath", "flooded")?;
    ensure!(flooded > 0, "no broadcast came from Open vSwitch");
    let size = (ours.mtu - 28).to_string();
    for (from, to) in [(&ours.netns, ADDR), (&other.netns, ours.addr)] {
        let loss = ping(from, to, 5, &["-M", "do", "-s", &size])?;
        ensure!(loss.lost() == 0, "the largest packet to {to}: {loss}");
    }
    transfer(&ours.netns, &other.netns, ADDR, 2_000_000).context("TCP to Open vSwitch")?;
    transfer(&other.netns, &ours.netns, ours.addr, 2_000_000).context("TCP from Open vSwitch")?;
    let listener = PacketSocket::open(&other.netns, "brint")?;
    let inside = PacketSocket::open(&ours.netns, IFNAME)?;
    let all = Station { mac: MacAddr::BROADCAST, addr: Ipv4Addr::new(10, 1, 0, 255) };
    let own = Station { mac: ours.mac, addr: ours.addr };
    let hello = udp(own, all, (9, 9), b"hello, all");
    inside.send(&hello)?;
    ensure!(listener.find(SOON, |frame| frame == hello)?.is_some(), "no broadcast reached Open vSwitch");
    Ok(())
}

#[test]
fn open_vswitch_and_every_data_path_forward_for_each_other() {
    for datapath in [Xdp, Tc, Kernel] {
        talks_to_open_vswitch(datapath).with_context(|| datapath.to_string()).unwrap();
    }
}
