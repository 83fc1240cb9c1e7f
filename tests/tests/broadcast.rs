//! Frames for everybody: each member of the network gets one copy, on every data path, and nobody
//! else any.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use overlay_ebpf::abi::MacAddr;
use overlay_tests::{
    capture::PacketSocket,
    cluster::{Cluster, Network},
    container::{Container, IFNAME},
    frame::{ArpOperation, Station, arp, experimental, udp},
    node::Datapath::{self, Kernel, Tc, Xdp},
    probe::reach,
};

const BLUE: Network<'_> = Network { name: "blue", vni: 4242, subnet: "10.1.0.0/24" };
const RED: Network<'_> = Network { name: "red", vni: 77, subnet: "10.1.0.0/24" };

/// Those of the nodes, in their order.
const DATAPATHS: [Datapath; 3] = [Xdp, Tc, Kernel];

const BROADCAST: MacAddr = MacAddr([0xff; 6]);

const NOBODY: Station = Station { mac: MacAddr([0; 6]), addr: Ipv4Addr::UNSPECIFIED };

/// Longer than a copy takes to arrive.
const SOON: Duration = Duration::from_secs(3);

/// A container and what arrives at it.
struct Listener {
    container: Container,
    socket: PacketSocket,
}

/// Two containers of blue and one of red on a node with each data path.
struct Scene {
    cluster: Cluster,
    blue: Vec<Listener>,
    red: Vec<Listener>,
}

impl Scene {
    fn new() -> Self {
        let cluster = Cluster::start(&DATAPATHS).unwrap();
        let listeners = |network: Network<'_>, count: usize| -> Vec<_> {
            cluster.create_network(network).unwrap();
            let attach = |index: usize| {
                let node = &cluster.nodes[index % cluster.nodes.len()];
                let name = format!("{}-{}-{index}", network.name, node.name());
                let container = Container::attach(node, network.name, &name, &[]).unwrap();
                let socket = PacketSocket::open(&container.netns, IFNAME).unwrap();
                Listener { container, socket }
            };
            (0..count).map(attach).collect()
        };
        let (blue, red) = (listeners(BLUE, 6), listeners(RED, 3));
        for side in [&blue, &red] {
            for from in side {
                for to in side.iter().filter(|to| to.container.id != from.container.id) {
                    reach(&from.container, &to.container).unwrap();
                }
            }
        }
        Self { cluster, blue, red }
    }

    /// How many copies of `frame` everybody gets, by name, when it is sent from within `sender`.
    fn copies(&self, sender: &Listener, frame: &[u8]) -> Vec<(&str, usize)> {
        sender.socket.send(frame).unwrap();
        let everybody = || self.blue.iter().chain(&self.red);
        let mut counts: Vec<_> = everybody().map(|l| (l.container.name.as_str(), 0)).collect();
        // Until all that should have come has, then as long again as a second copy might take.
        let mut end = Instant::now() + SOON;
        while Instant::now() < end {
            for (listener, (_, count)) in everybody().zip(&mut counts) {
                let same = |seen: &[u8]| seen == frame;
                while listener.socket.find(Duration::from_millis(1), same).unwrap().is_some() {
                    *count += 1;
                }
            }
            if counts.iter().filter(|(_, count)| *count > 0).count() >= self.blue.len() - 1 {
                end = end.min(Instant::now() + Duration::from_millis(100));
            }
        }
        counts
    }

    /// Sends a frame for everybody from each data path.
    fn reaches_all_of_blue(&self, what: &str, frame: impl Fn(Station) -> Vec<u8>) {
        self.reaches(what, frame, |_, _| true);
    }

    /// Sends a frame from each data path; all of blue must get it whom `wanted` has, by the data path
    /// and the receiver.
    fn reaches(
        &self,
        what: &str,
        frame: impl Fn(Station) -> Vec<u8>,
        wanted: impl Fn(Datapath, &str) -> bool,
    ) {
        for (sender, datapath) in self.blue.iter().zip(DATAPATHS) {
            let copies = self.copies(sender, &frame(station(&sender.container)));
            for (name, count) in copies {
                let one = name.starts_with("blue") && name != sender.container.name && wanted(datapath, name);
                assert_eq!(count, usize::from(one), "{what} from a {datapath} node: copies at {name}");
            }
        }
    }
}

fn station(container: &Container) -> Station {
    Station { mac: container.mac, addr: container.addr }
}

#[test]
fn a_broadcast_reaches_every_member_of_its_network_once() {
    let scene = Scene::new();
    let subnet = Station { mac: BROADCAST, addr: Ipv4Addr::new(10, 1, 0, 255) };
    let everybody = Station { mac: BROADCAST, addr: Ipv4Addr::BROADCAST };
    // RFC 1112, section 6.4: the group's low 23 bits.
    let group = Station { mac: MacAddr([1, 0, 0x5e, 0, 0, 0xfb]), addr: Ipv4Addr::new(224, 0, 0, 251) };
    let unregistered = Station { mac: MacAddr([1, 0, 0x5e, 1, 2, 3]), addr: Ipv4Addr::new(239, 1, 2, 3) };
    for (what, to) in [
        ("a broadcast to the subnet", subnet),
        ("a broadcast", everybody),
        ("multicast DNS", group),
        ("multicast nobody joined", unregistered),
    ] {
        scene.reaches_all_of_blue(what, |from| udp(from, to, (5353, 5353), what.as_bytes()));
    }
    scene.reaches_all_of_blue("a broadcast that is not IP", |from| {
        experimental(from.mac, BROADCAST, &[0x5a; 60])
    });
    let neighbours = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
    scene.reaches_all_of_blue("IPv6 multicast", |from| all_nodes(from.mac, neighbours));
}

#[test]
fn a_container_without_an_address_yet_can_not_be_heard() {
    let scene = Scene::new();
    for (sender, node) in scene.blue.iter().zip(&scene.cluster.nodes) {
        // As a DHCP client begins (RFC 2131, section 4.1).
        let from = Station { mac: sender.container.mac, addr: Ipv4Addr::UNSPECIFIED };
        let to = Station { mac: BROADCAST, addr: Ipv4Addr::BROADCAST };
        let before = node.counter("endpoint", "spoofed_address").unwrap();
        let copies = scene.copies(sender, &udp(from, to, (68, 67), b"discover"));
        assert!(copies.iter().all(|(_, count)| *count == 0), "{copies:?}");
        let counted = node.counter("endpoint", "spoofed_address").unwrap() - before;
        assert_eq!(counted, 1, "{}", node.name());
    }
}

#[test]
fn arp_is_answered_for_who_is_there_and_reaches_nobody_else() {
    let scene = Scene::new();
    for (sender, node) in scene.blue.iter().zip(&scene.cluster.nodes) {
        let own = station(&sender.container);
        for target in scene.blue.iter().filter(|l| l.container.id != sender.container.id) {
            let asked = Station { addr: target.container.addr, ..NOBODY };
            let request = arp(own.mac, BROADCAST, ArpOperation::Request, own, asked);
            let answer =
                arp(target.container.mac, own.mac, ArpOperation::Reply, station(&target.container), own);
            sender.socket.send(&request).unwrap();
            let found = sender.socket.find(SOON, |seen| seen.starts_with(&answer)).unwrap();
            assert!(found.is_some(), "{}: no answer for {}", node.name(), target.container.name);
        }
    }
    // For nobody's address. The kernel data path has it flooded, as ARCHITECTURE.md says.
    let senders = scene.blue.iter().zip(&scene.cluster.nodes).zip(DATAPATHS);
    for ((sender, node), _) in senders.filter(|(_, datapath)| *datapath != Kernel) {
        let own = station(&sender.container);
        let asked = Station { addr: Ipv4Addr::new(10, 1, 0, 254), ..NOBODY };
        let copies = scene.copies(sender, &arp(own.mac, BROADCAST, ArpOperation::Request, own, asked));
        assert!(copies.iter().all(|(_, count)| *count == 0), "{}: {copies:?}", node.name());
        assert_eq!(node.counter("endpoint", "arp_unknown").unwrap(), 1, "{}", node.name());
    }
}

#[test]
fn a_gratuitous_announcement_reaches_every_member() {
    let scene = Scene::new();
    // Linux's bridge keeps them from ports whose neighbours it answers for, as ours does for the
    // VXLAN device: there they reach the node's own containers.
    let from_here = |datapath: Datapath, name: &str| datapath != Kernel || name.starts_with("blue-n3-");
    let request = |own: Station| {
        let asked = Station { addr: own.addr, ..NOBODY };
        arp(own.mac, BROADCAST, ArpOperation::Request, own, asked)
    };
    scene.reaches("a gratuitous ARP request", request, from_here);
    let reply = |own: Station| arp(own.mac, BROADCAST, ArpOperation::Reply, own, own);
    scene.reaches("a gratuitous ARP reply", reply, from_here);
}

/// An IPv6 packet without a next header (RFC 8200, section 4.7) to all nodes of the link.
fn all_nodes(from: MacAddr, to: MacAddr) -> Vec<u8> {
    let source = from.link_local();
    let target = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    [&to.0[..], &from.0, &[0x86, 0xdd], &[0x60, 0, 0, 0, 0, 0, 59, 255], &source, &target].concat()
}
