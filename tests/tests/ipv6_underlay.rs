//! Clusters whose wire carries IPv6 and nothing else, with a third party's VTEP that is as strict about
//! outer checksums as Linux is by default.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, ensure};
use overlay_ebpf::abi::MacAddr;
use overlay_tests::{
    cluster::{Cluster, Network},
    container::{Container, IFNAME},
    exec,
    node::{
        Datapath::{self, Kernel, Tc, Xdp},
        Node,
    },
    probe::{ping, ping_all, transfer},
    third_party::ThirdParty,
    wire::{Card, UPLINK, Wire},
};

const BLUE: Network<'_> = Network { name: "blue", vni: 4242, subnet: "10.1.0.0/24" };

/// What is moved by TCP from each to each.
const BYTES: u64 = 2_000_000;

struct Scene {
    cluster: Cluster,
    containers: Vec<Container>,
    other: ThirdParty,
}

/// One container on a node of each data path, and one behind a third party's VTEP whose VXLAN device
/// was made with `options`. Nobody's card completes or verifies checksums for anybody: bytes on the
/// wire are what they are.
fn scene(datapaths: &[Datapath], settings: &[&str], options: &str) -> Result<Scene> {
    let mut cluster = Cluster::on(Wire::over_ipv6()?)?;
    for (number, datapath) in (1..).zip(datapaths) {
        cluster.add(&format!("n{number}"), Card::Veth, *datapath, settings)?;
    }
    cluster.wait_ready()?;
    let subnets = ["--subnet", BLUE.subnet, "--subnet", "fd01::/64"];
    let create = ["network", "create", BLUE.name, "--vni", &BLUE.vni.to_string()];
    cluster.nodes[0].ctl(&[&create[..], &subnets].concat())?;
    let mut containers = cluster.attach_each(BLUE)?;

    let other = ThirdParty::plug(&cluster.wire, "other")?;
    other.join_with(BLUE.vni, options)?;
    for (container, node) in containers.iter().zip(&cluster.nodes) {
        other.flood_to(BLUE.vni, node.tunnel())?;
        other.learn(BLUE.vni, container.mac, node.tunnel())?;
    }
    let (addr, mac) = (Ipv4Addr::new(10, 1, 0, 200), MacAddr([2, 0, 0, 0, 0, 0xc8]));
    let node = &cluster.nodes[0];
    node.ctl(&["node", "add-static", "other", "--vtep", &other.tunnel().to_string()])?;
    let (ip, text) = (addr.to_string(), mac.to_string());
    let addr6 = Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 0xc8);
    let ips = ["--ip", &ip, "--ip", &addr6.to_string()];
    let add = ["endpoint", "add-static", BLUE.name, "--node", "other", "--mac", &text];
    node.ctl(&[&add[..], &ips].concat())?;
    let mut container = other.container(BLUE.vni, "other1", addr, mac)?;
    container.netns.exec(&format!("ip address add {addr6}/64 dev {IFNAME} nodad"))?;
    container.addr6 = Some(addr6);
    containers.push(container);

    for netns in cluster.nodes.iter().map(Node::netns).chain([other.netns()]) {
        exec::output(netns.command("ethtool").args(["-K", UPLINK, "tx", "off"]))?;
    }
    Ok(Scene { cluster, containers, other })
}

fn talk(from: &Container, to: &Container) -> Result<()> {
    ping_all(from, to)?;
    // The largest packet, unfragmented: IPv4 and ICMP headers are 28 bytes.
    let size = (from.mtu - 28).to_string();
    let loss = ping(&from.netns, to.addr, 3, &["-M", "do", "-s", &size])?;
    ensure!(loss.lost() == 0, "packets of {} bytes from {} to {}: {loss}", from.mtu, from.name, to.name);
    // More than a packet holds: the fragments have no checksum of their own.
    let loss = ping(&from.netns, to.addr, 3, &["-s", "4000"])?;
    ensure!(loss.lost() == 0, "fragments from {} to {}: {loss}", from.name, to.name);
    transfer(&from.netns, &to.netns, to.addr, BYTES)
        .with_context(|| format!("TCP from {} to {}", from.name, to.name))?;
    talk_ipv6(from, to).with_context(|| format!("IPv6 from {} to {}", from.name, to.name))
}

/// The same over IPv6, whose header is 20 bytes longer.
fn talk_ipv6(from: &Container, to: &Container) -> Result<()> {
    let addr = to.addr6.context("no IPv6 address")?;
    let size = (from.mtu - 48).to_string();
    for more in [&[][..], &["-M", "do", "-s", &size], &["-s", "4000"]] {
        let loss = ping(&from.netns, addr, 3, more)?;
        ensure!(loss.lost() == 0, "ping {more:?}: {loss}");
    }
    transfer(&from.netns, &to.netns, addr, BYTES)?;
    Ok(())
}

fn all_talk(containers: &[Container]) {
    let pairs = containers.iter().flat_map(|from| containers.iter().map(move |to| (from, to)));
    let failures: Vec<_> = pairs
        .filter(|(from, to)| from.addr != to.addr)
        .filter_map(|(from, to)| talk(from, to).err())
        .map(|error| format!("{error:#}\n"))
        .collect();
    assert!(failures.is_empty(), "{}", failures.concat());
}

#[test]
fn every_data_path_and_a_strict_third_party_forward_both_ways() {
    let Scene { cluster, containers, other: _other } = scene(&[Xdp, Tc, Kernel], &[], "").unwrap();
    assert!(containers.iter().all(|container| container.mtu == 1430));
    all_talk(&containers);
    for (node, mode) in cluster.nodes.iter().zip(["xdp", "tc", "kernel"]) {
        let status = node.status().unwrap();
        assert_eq!(status["datapath"]["mode"], mode);
        assert_eq!(status["uplink"]["address"], node.tunnel().to_string());
        assert_eq!(node.counter("uplink", "zero_checksum").unwrap(), 0);
        assert!(node.counter("uplink", "delivered").unwrap() > 0);
        assert!(node.counter("endpoint", "encapsulated").unwrap() > 0, "{mode} used its fast path");
    }
    for node in &cluster.nodes[..2] {
        // Fragments, and super-packets of TCP.
        assert!(node.counter("endpoint", "slow_checksum").unwrap() > 0);
    }
}

#[test]
fn without_checksums_where_all_are_told_so_nothing_is_slow() {
    let zero = "udp6zerocsumtx udp6zerocsumrx";
    let Scene { cluster, containers, other: _other } =
        scene(&[Xdp, Tc, Kernel], &["--udp6-zero-checksum"], zero).unwrap();
    all_talk(&containers);
    for node in &cluster.nodes {
        assert_eq!(node.counter("endpoint", "slow_checksum").unwrap(), 0);
    }
}

#[test]
fn packets_without_a_checksum_are_dropped_by_name_where_nobody_was_told() {
    let Scene { cluster, containers, other: _other } =
        scene(&[Xdp, Tc, Kernel], &[], "udp6zerocsumtx").unwrap();
    let [ours @ .., theirs] = &containers[..] else { panic!() };
    for (container, node) in ours.iter().zip(&cluster.nodes) {
        let loss = ping(&theirs.netns, container.addr, 3, &[]).unwrap();
        assert_eq!(loss.received, 0, "{}", node.name());
        assert!(node.counter("uplink", "zero_checksum").unwrap() > 0, "{}", node.name());
    }
}

#[test]
fn a_node_on_the_other_family_is_named() {
    let mut cluster = Cluster::on(Wire::over_ipv6().unwrap()).unwrap();
    for (name, datapath) in [("n1", Tc), ("n2", Kernel)] {
        cluster.add(name, Card::Veth, datapath, &[]).unwrap();
    }
    cluster.wait_ready().unwrap();
    cluster.create_network(BLUE).unwrap();
    let _containers = cluster.attach_each(BLUE).unwrap();
    let node = &cluster.nodes[0];
    node.ctl(&["node", "add-static", "old", "--vtep", "192.0.2.9"]).unwrap();
    let endpoint = ["--node", "old", "--ip", "10.1.0.9", "--mac", "02:00:00:00:00:09"];
    node.ctl(&[&["endpoint", "add-static", BLUE.name][..], &endpoint].concat()).unwrap();
    for node in &cluster.nodes {
        exec::eventually(std::time::Duration::from_secs(5), || {
            let status = node.status()?;
            let degraded = status["degraded"].as_array().context("no list")?;
            let said: Vec<_> = degraded.iter().filter_map(|line| line.as_str()).collect();
            let wanted =
                format!("old's tunnel address is IPv4 (192.0.2.9), this node's is IPv6 ({})", node.tunnel());
            ensure!(said.len() == 1 && said[0].starts_with(&wanted), "{said:?}");
            Ok(())
        })
        .unwrap();
    }
}
