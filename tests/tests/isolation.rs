//! Who must not reach whom, and who must not be taken for whom.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{net::Ipv4Addr, time::Duration};

use anyhow::ensure;
use overlay_ebpf::abi::MacAddr;
use overlay_tests::{
    capture::PacketSocket,
    cluster::{Cluster, Network},
    container::{Container, IFNAME},
    exec::eventually,
    frame::{ArpOperation, Station, arp, udp},
    node::Datapath::{self, Kernel, Tc, Xdp},
    probe::{ping, ping_all},
};

const BLUE: Network<'_> = Network { name: "blue", vni: 100, subnet: "10.1.0.0/24" };
const RED: Network<'_> = Network { name: "red", vni: 200, subnet: "10.1.0.0/24" };

const SOON: Duration = Duration::from_secs(3);

/// In what must not arrive.
const MARKER: &[u8] = b"from somebody else";

fn station(container: &Container) -> Station {
    Station { mac: container.mac, addr: container.addr }
}

#[test]
fn networks_with_the_same_subnet_do_not_see_each_other() {
    let cluster = Cluster::start(&[Xdp, Tc, Kernel]).unwrap();
    let mut containers = Vec::new();
    for network in [BLUE, RED] {
        cluster.create_network(network).unwrap();
        for (node, number) in cluster.nodes.iter().zip(10..) {
            // Blue's and red's containers on a node are told apart by nothing but their network.
            let host = if network.vni == BLUE.vni { number } else { number + 10 };
            let name = format!("{}{number}", network.name);
            let ip = format!("10.1.0.{host}");
            containers.push(Container::attach(node, network.name, &name, &["--ip", &ip]).unwrap());
        }
    }
    let (blue, red) = containers.split_at(3);
    for side in [blue, red] {
        for from in side {
            for to in side.iter().filter(|to| to.addr != from.addr) {
                ping_all(from, to).unwrap();
            }
        }
    }
    for from in blue {
        for to in red {
            assert_eq!(
                ping(&from.netns, to.addr, 1, &[]).unwrap().received,
                0,
                "{} reaches {}",
                from.name,
                to.name
            );
            // Not even one that knows the other's MAC address.
            let spy = PacketSocket::open(&to.netns, IFNAME).unwrap();
            let socket = PacketSocket::open(&from.netns, IFNAME).unwrap();
            socket.send(&udp(station(from), station(to), (1, 2), MARKER)).unwrap();
            let marked = |frame: &[u8]| frame.windows(MARKER.len()).any(|part| part == MARKER);
            assert!(spy.find(Duration::from_millis(100), marked).unwrap().is_none());
        }
    }
}

#[test]
fn the_same_address_in_two_networks_is_two_containers() {
    let cluster = Cluster::start(&[Xdp, Tc]).unwrap();
    let containers = [BLUE, RED].map(|network| {
        cluster.create_network(network).unwrap();
        [10, 20].map(|host| {
            let node = &cluster.nodes[usize::from(host == 20)];
            let ip = format!("10.1.0.{host}");
            Container::attach(node, network.name, &format!("{}{host}", network.name), &["--ip", &ip]).unwrap()
        })
    });
    let spy = PacketSocket::open(&containers[1][1].netns, IFNAME).unwrap();
    for [from, to] in &containers {
        ping_all(from, to).unwrap();
    }
    let [blue_from, blue_to] = &containers[0];
    let socket = PacketSocket::open(&blue_from.netns, IFNAME).unwrap();
    let at_blue = PacketSocket::open(&blue_to.netns, IFNAME).unwrap();
    let frame = udp(station(blue_from), station(blue_to), (1, 2), MARKER);
    socket.send(&frame).unwrap();
    let same = |seen: &[u8]| seen == frame.as_slice();
    assert!(at_blue.find(SOON, same).unwrap().is_some());
    assert!(spy.find(Duration::from_millis(100), same).unwrap().is_none());
}

fn cannot_send_as_somebody_else(datapath: Datapath) {
    let cluster = Cluster::start(&[datapath, Tc]).unwrap();
    cluster.create_network(BLUE).unwrap();
    let node = &cluster.nodes[0];
    let [liar, neighbour] =
        ["liar", "neighbour"].map(|n| Container::attach(node, BLUE.name, n, &[]).unwrap());
    let far = Container::attach(&cluster.nodes[1], BLUE.name, "far", &[]).unwrap();
    ping_all(&liar, &neighbour).unwrap();
    ping_all(&liar, &far).unwrap();

    let socket = PacketSocket::open(&liar.netns, IFNAME).unwrap();
    let (honest, stolen) = (station(&liar), station(&neighbour));
    let forged_mac = Station { mac: stolen.mac, addr: honest.addr };
    let forged_addr = Station { mac: honest.mac, addr: stolen.addr };
    let outside = Station { mac: honest.mac, addr: Ipv4Addr::new(192, 0, 2, 1) };
    let cases = [
        ("another's MAC", udp(forged_mac, station(&far), (1, 2), MARKER), "spoofed_mac"),
        ("another's address", udp(forged_addr, station(&far), (1, 2), MARKER), "spoofed_address"),
        ("an address of the world's", udp(outside, station(&far), (1, 2), MARKER), "spoofed_address"),
        ("both", udp(stolen, station(&far), (1, 2), MARKER), "spoofed_mac"),
        (
            "an answer for another's address",
            reply(honest.mac, Station { mac: honest.mac, addr: stolen.addr }, &far),
            "spoofed_arp",
        ),
        ("an answer with another's MAC", reply(honest.mac, stolen, &far), "spoofed_arp"),
    ];
    for (what, frame, outcome) in cases {
        let spy = PacketSocket::open(&far.netns, IFNAME).unwrap();
        let before = node.counter("endpoint", outcome).unwrap();
        socket.send(&frame).unwrap();
        eventually(SOON, || {
            let counted = node.counter("endpoint", outcome)? - before;
            ensure!(counted == 1, "{what}: counted {counted} times as {outcome}");
            Ok(())
        })
        .unwrap();
        let same = |seen: &[u8]| seen == frame.as_slice();
        assert!(spy.find(Duration::from_millis(100), same).unwrap().is_none(), "{what}: delivered");
    }
    // Honest all the same.
    ping_all(&liar, &far).unwrap();
}

#[test]
fn a_container_cannot_send_as_somebody_else() {
    for datapath in [Xdp, Tc, Kernel] {
        cannot_send_as_somebody_else(datapath);
    }
}

#[test]
fn a_container_that_changes_its_addresses_is_cut_off_until_it_changes_them_back() {
    let cluster = Cluster::start(&[Tc, Xdp, Kernel]).unwrap();
    cluster.create_network(BLUE).unwrap();
    let containers = cluster.attach_each(BLUE).unwrap();
    for [liar, far] in [[0, 1], [1, 2], [2, 0]].map(|pair| pair.map(|index: usize| &containers[index])) {
        changes_its_addresses(liar, far);
    }
}

fn changes_its_addresses(liar: &Container, far: &Container) {
    ping_all(liar, far).unwrap();
    let wrong = Ipv4Addr::new(10, 1, 0, 199);
    liar.netns.exec(&format!("ip address add {wrong}/24 dev {IFNAME}")).unwrap();
    assert_eq!(ping(&liar.netns, far.addr, 3, &["-I", &wrong.to_string()]).unwrap().received, 0);
    ping_all(liar, far).unwrap();

    liar.netns.exec(&format!("ip link set {IFNAME} address 02:00:00:00:00:99")).unwrap();
    assert_eq!(ping(&liar.netns, far.addr, 3, &[]).unwrap().received, 0);
    liar.netns.exec(&format!("ip link set {IFNAME} address {}", liar.mac)).unwrap();
    ping_all(liar, far).unwrap();
}

/// An ARP answer sent by `sender` that says that the claimed address is at the claimed MAC.
fn reply(sender: MacAddr, claimed: Station, to: &Container) -> Vec<u8> {
    arp(sender, to.mac, ArpOperation::Reply, claimed, station(to))
}
