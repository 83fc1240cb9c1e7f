//! Gateway ports: hosts that are no containers, behind an interface of a node.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    net::Ipv4Addr,
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use overlay_ebpf::abi::MacAddr;
use overlay_tests::{
    capture::PacketSocket,
    cluster::{Cluster, Network},
    container::{Container, IFNAME},
    exec::eventually,
    frame::{ArpOperation, Station, arp, udp},
    netns::Netns,
    node::{
        Datapath::{Kernel, Tc, Xdp},
        Node,
    },
    probe::{ping, transfer},
    traces::Traces,
    wire::{Card, UPLINK},
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

/// The program behind a tap device called [`PORT`] on a node, as a virtual machine's monitor is.
struct Tap(File);

impl Tap {
    fn new(node: &Node) -> Self {
        let opened = node.netns().run(|| {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open("/dev/net/tun")?;
            // SAFETY: made of integers, arrays and a pointer, for all of which zero is a value.
            let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
            for (to, from) in request.ifr_name.iter_mut().zip(PORT.bytes()) {
                *to = from.cast_signed();
            }
            request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_TAP | libc::IFF_NO_PI)?;
            // SAFETY: the request lives through the call and is of the kernel's layout.
            let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
            ensure!(made == 0, "no tap device: {}", std::io::Error::last_os_error());
            Ok(file)
        });
        node.netns().exec(&format!("ip link set {PORT} mtu 1450")).unwrap();
        Self(opened.unwrap())
    }

    fn send(&self, frame: &[u8]) {
        (&self.0).write_all(frame).unwrap();
    }

    /// Whether a frame that begins so comes within half a second.
    fn receives(&self, beginning: &[u8]) -> bool {
        let (begin, mut buffer) = (Instant::now(), vec![0; 1 << 16]);
        while begin.elapsed() < Duration::from_millis(500) {
            match (&self.0).read(&mut buffer) {
                Ok(length) if buffer[..length].starts_with(beginning) => return true,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => panic!("{error}"),
            }
        }
        false
    }
}

#[test]
fn a_tap_device_is_a_port() {
    for datapath in ["xdp", "tc"] {
        let cluster = Cluster::start(&[Xdp, Tc]).unwrap();
        cluster.create_network(BLUE).unwrap();
        let containers = containers(&cluster);
        let node = &cluster.nodes[0];
        cluster.wire.netns().exec("ethtool -K port1 gro on").unwrap();
        let tap = Tap::new(node);
        node.ctl(&["port", "attach", "blue", "--dev", PORT, "--datapath", datapath]).unwrap();
        assert_eq!(port(node).unwrap()["datapath"], datapath);

        let guest = Station { mac: MacAddr([2, 0, 0, 0, 8, 1]), addr: HOST };
        for container in &containers {
            let there = Station { mac: container.mac, addr: container.addr };
            let socket = PacketSocket::open(&container.netns, IFNAME).unwrap();
            for size in [18, 1450 - 28] {
                let (out, back) = (vec![0x5a; size], vec![0xa5; size]);
                let out = udp(guest, there, (5000, 6000), &out);
                let back = udp(there, guest, (6000, 5000), &back);
                // Until it is learned, other nodes take nothing from it and send it nothing.
                eventually(SOON, || {
                    tap.send(&out);
                    let arrived = socket.find(Duration::from_millis(500), |seen| seen == out)?;
                    ensure!(arrived.is_some(), "{size} bytes do not reach {} ({datapath})", container.name);
                    socket.send(&back)?;
                    ensure!(
                        tap.receives(&back),
                        "{size} bytes of {} do not arrive ({datapath})",
                        container.name
                    );
                    Ok(())
                })
                .unwrap();
            }
            let everybody = MacAddr([0xff; 6]);
            let asked = Station { mac: MacAddr([0; 6]), addr: container.addr };
            tap.send(&arp(guest.mac, everybody, ArpOperation::Request, guest, asked));
            assert!(
                tap.receives(&arp(there.mac, guest.mac, ArpOperation::Reply, there, guest)),
                "{datapath}"
            );
        }
        for outcome in ["encapsulated", "delivered", "arp_answered"] {
            assert!(node.counter("port", outcome).unwrap() > 0, "{datapath}: {outcome}");
        }
    }
}

#[test]
fn jumbo_frames_pass_a_port_both_ways() {
    for datapath in ["xdp", "tc"] {
        let mut cluster = Cluster::empty().unwrap();
        cluster.wire.netns().exec("ip link set wire mtu 9000").unwrap();
        for (name, on) in [("n1", Xdp), ("n2", Tc), ("n3", Kernel)] {
            let mut node = Node::plug(&cluster.wire, name, Card::Veth, on, &[]).unwrap();
            // With GRO at its end of the wire, the uplink takes redirected frames.
            cluster.wire.netns().exec(&format!("ip link set {} mtu 9000", node.port().name)).unwrap();
            cluster.wire.netns().exec(&format!("ethtool -K {} gro on", node.port().name)).unwrap();
            node.netns().exec(&format!("ip link set {UPLINK} mtu 9000")).unwrap();
            node.launch().unwrap();
            cluster.nodes.push(node);
        }
        cluster.wait_ready().unwrap();
        cluster.create_network(BLUE).unwrap();
        let containers = containers(&cluster);
        let node = &cluster.nodes[0];
        let host = host_behind(node);
        host.exec(&format!("ip link set {IFNAME} mtu 8950")).unwrap();
        node.netns().exec(&format!("ip link set {PORT} mtu 8950")).unwrap();
        node.ctl(&["port", "attach", "blue", "--dev", PORT, "--datapath", datapath]).unwrap();
        assert_eq!(port(node).unwrap()["datapath"], datapath);

        all_talk(&host, &containers);
        // IPv4 and ICMP headers are 28 bytes.
        let largest = ["-M", "do", "-s", "8922"];
        for container in &containers {
            let name = &container.name;
            assert_eq!(ping(&host, container.addr, 5, &largest).unwrap().lost(), 0, "to {name}, {datapath}");
            assert_eq!(
                ping(&container.netns, HOST, 5, &largest).unwrap().lost(),
                0,
                "from {name}, {datapath}"
            );
        }
    }
}
