//! Gateway ports: hosts that are no containers, behind an interface of a node.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use overlay_ebpf::abi::MacAddr;
use overlay_tests::{
    capture::PacketSocket,
    cluster::{Cluster, Network},
    container::{Container, IFNAME},
    exec::eventually,
    frame::{Station, udp},
    netns::Netns,
    node::{
        Datapath::{Kernel, Tc, Xdp},
        Node,
    },
    probe::{ping, transfer},
    traces::Traces,
};
use serde_json::Value;

const BLUE: Network<'_> = Network { name: "blue", vni: 4242, subnet: "10.1.0.0/24" };
const HOST: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 250);
const PORT: &str = "gw0";
/// How long a change may take on a busy machine.
const SOON: Duration = Duration::from_secs(15);

/// A host behind a veth pair, the node's end of which is called [`PORT`].
fn host_behind(node: &Node) -> Netns {
    let host = Netns::new("host").unwrap();
    let add = format!("ip link add {PORT} type veth peer name {IFNAME} netns {}", host.name());
    node.netns().exec(&add).unwrap();
    for line in [
        format!("ip link set {IFNAME} mtu 1450 up"),
        format!("ip addr add {HOST}/24 dev {IFNAME}"),
        // What a wire has and a veth pair has not: frames with their checksums, taken up one by one.
        format!("ethtool -K {IFNAME} tx off gro on"),
    ] {
        host.exec(&line).unwrap();
    }
    host
}

fn containers(cluster: &Cluster) -> Vec<Container> {
    let attach = |(index, node): (usize, &Node)| {
        let ip = format!("10.1.0.{}", 11 + index);
        let container = Container::attach(node, BLUE.name, node.name(), &["--ip", &ip]).unwrap();
        container.netns.exec(&format!("ethtool -K {IFNAME} tx off")).unwrap();
        container
    };
    cluster.nodes.iter().enumerate().map(attach).collect()
}

fn port(node: &Node) -> Result<Value> {
    node.json(&["port", "ls"])?.get(0).cloned().context("there is no port")
}

fn macs(node: &Node) -> Result<Vec<String>> {
    let port = port(node)?;
    let macs = port["macs"].as_array().context("it has no macs")?;
    Ok(macs.iter().filter_map(|mac| mac.as_str().map(str::to_owned)).collect())
}

fn mac_of(host: &Netns) -> String {
    let shown = host.exec(&format!("ip -brief link show dev {IFNAME}")).unwrap();
    shown.split_whitespace().nth(2).unwrap().to_owned()
}

/// Has the host and all containers talk to each other.
fn all_talk(host: &Netns, containers: &[Container]) {
    for container in containers {
        let name = &container.name;
        let reached = |from: &Netns, to: Ipv4Addr| {
            eventually(SOON, || {
                ensure!(ping(from, to, 1, &[])?.received == 1, "no answer");
                Ok(())
            })
        };
        reached(host, container.addr).with_context(|| format!("from the host to {name}")).unwrap();
        reached(&container.netns, HOST).with_context(|| format!("from {name} to the host")).unwrap();
        assert_eq!(ping(host, container.addr, 10, &[]).unwrap().lost(), 0, "to {name}");
        let full = ["-M", "do", "-s", "1422"];
        assert_eq!(ping(&container.netns, HOST, 5, &full).unwrap().lost(), 0, "from {name}");
        transfer(host, &container.netns, container.addr, 1_000_000).unwrap();
        transfer(&container.netns, host, HOST, 1_000_000).unwrap();
    }
}

#[test]
fn hosts_behind_a_port_and_containers_of_every_data_path_reach_each_other() {
    for (datapath, carried) in [("xdp", "xdp"), ("auto", "tc")] {
        let mut cluster = Cluster::start(&[Xdp, Xdp, Tc, Kernel]).unwrap();
        cluster.create_network(BLUE).unwrap();
        let containers = containers(&cluster);
        let host = host_behind(&cluster.nodes[0]);
        // A card takes redirected frames; a veth does if its other end has a queue for them.
        cluster.wire.netns().exec("ethtool -K port1 gro on").unwrap();
        cluster.nodes[0].ctl(&["port", "attach", "blue", "--dev", PORT, "--datapath", datapath]).unwrap();
        let shown = port(&cluster.nodes[0]).unwrap();
        assert_eq!(shown["datapath"], carried, "{shown}");
        assert_eq!(shown["reason"].as_str().unwrap().contains("veth"), carried == "tc", "{shown}");

        all_talk(&host, &containers);
        for node in &cluster.nodes {
            assert_eq!(macs(node).unwrap(), [mac_of(&host)], "on {}", node.name());
        }
        let node = &cluster.nodes[0];
        assert!(node.counter("port", "encapsulated").unwrap() > 100);
        let xmit = node.netns().exec(&format!("ethtool -S {PORT}")).unwrap();
        let redirected = !xmit.contains("tx_queue_0_xdp_xmit: 0\n");
        assert!(redirected, "frames from the wire go to the port by redirect: {xmit}");

        // The next daemon goes on with the port.
        cluster.nodes[0].kill().unwrap();
        assert_eq!(ping(&host, containers[1].addr, 10, &[]).unwrap().lost(), 0);
        cluster.nodes[0].launch().unwrap();
        cluster.nodes[0].wait_ready().unwrap();
        assert_eq!(ping(&host, containers[1].addr, 10, &[]).unwrap().lost(), 0);

        let node = &cluster.nodes[0];
        let refused = node.try_ctl(&["network", "rm", "blue"]).unwrap();
        assert!(!refused.status.success());
        node.ctl(&["port", "detach", PORT]).unwrap();
        assert_eq!(ping(&host, containers[1].addr, 3, &["-W", "0.2"]).unwrap().received, 0);
        let traces = Traces::of(node).unwrap();
        assert_eq!((traces.interfaces_of("port_in"), traces.interfaces_of("port_xdp")), (0, 0));
        let flags = node.netns().exec(&format!("ip -d link show {PORT}")).unwrap();
        assert!(flags.contains("promiscuity 0"), "{flags}");
        for node in &cluster.nodes {
            eventually(SOON, || {
                ensure!(node.json(&["port", "ls"])?.as_array().is_some_and(Vec::is_empty));
                Ok(())
            })
            .unwrap();
        }
    }
}

#[test]
fn macs_are_learned_up_to_the_cap_forgotten_when_silent_and_never_taken_over() {
    let cluster = Cluster::start(&[Xdp, Tc]).unwrap();
    cluster.create_network(BLUE).unwrap();
    let containers = containers(&cluster);
    let node = &cluster.nodes[0];
    let host = host_behind(node);
    let attach = ["port", "attach", "blue", "--dev", PORT, "--max-macs", "2", "--age", "3"];
    node.ctl(&[&attach[..], &["--datapath", "xdp"]].concat()).unwrap();
    assert_eq!(port(node).unwrap()["max_macs"], 2);

    let socket = PacketSocket::open(&host, IFNAME).unwrap();
    let to = Station { mac: containers[1].mac, addr: containers[1].addr };
    let say = |mac: MacAddr| {
        let from = Station { mac, addr: Ipv4Addr::new(10, 1, 0, 200) };
        socket.send(&udp(from, to, (5000, 6000), b"hello")).unwrap();
    };
    let stranger = |last| MacAddr([2, 0, 0, 0, 7, last]);
    eventually(SOON, || {
        (1..=5).map(stranger).for_each(say);
        ensure!(macs(node)?.len() == 2, "{:?}", macs(node)?);
        ensure!(node.counter("port", "learn_limit")? > 0, "none is too many");
        Ok(())
    })
    .unwrap();
    eventually(SOON, || {
        ensure!(macs(&cluster.nodes[1])?.len() == 2, "the other node does not know them");
        Ok(())
    })
    .unwrap();

    // An endpoint's own, on this node or another, is refused and not learned.
    let refused = node.counter("port", "spoofed_mac").unwrap();
    for container in &containers {
        say(container.mac);
    }
    eventually(SOON, || {
        ensure!(node.counter("port", "spoofed_mac")? >= refused + 2);
        Ok(())
    })
    .unwrap();

    // Silence.
    eventually(SOON, || {
        ensure!(macs(node)?.is_empty(), "{:?}", macs(node)?);
        Ok(())
    })
    .unwrap();
    assert!(node.status().unwrap()["rejected"].as_object().unwrap().is_empty());
}

#[test]
fn what_cannot_be_a_port_is_refused_by_name_and_one_that_goes_is_told() {
    let cluster = Cluster::start(&[Tc, Kernel]).unwrap();
    cluster.create_network(BLUE).unwrap();
    let [node, kernel] = &cluster.nodes[..] else { panic!() };
    let refusal = |node: &Node, arguments: &[&str]| {
        let output = node.try_ctl(&[&["port", "attach", "blue", "--dev"], arguments].concat()).unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(refusal(node, &["none0"]).contains("no such interface"));
    assert!(refusal(node, &["eth0"]).contains("uplink"));
    assert!(refusal(node, &["lo"]).contains("Ethernet"));
    let _host = host_behind(kernel);
    assert!(refusal(kernel, &[PORT]).contains("kernel data path has no gateway ports"));

    let _host = host_behind(node);
    assert!(refusal(node, &[PORT, "--max-macs", "0"]).contains("1 to"));
    node.ctl(&["port", "attach", "blue", "--dev", PORT]).unwrap();
    assert!(refusal(node, &[PORT]).contains("already"));
    node.netns().exec(&format!("ip link del {PORT}")).unwrap();
    // Something has to happen for the data path to look.
    let _one = Container::attach(node, BLUE.name, "one", &[]).unwrap();
    eventually(SOON, || {
        let problems = node.status()?["problems"].to_string();
        ensure!(problems.contains(PORT) && problems.contains("is gone"), "{problems}");
        Ok(())
    })
    .unwrap();
    node.ctl(&["port", "detach", PORT]).unwrap();
    eventually(SOON, || {
        ensure!(node.status()?["problems"].as_array().is_some_and(Vec::is_empty));
        Ok(())
    })
    .unwrap();
}
