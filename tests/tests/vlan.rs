//! Frames with VLAN tags inside a network: carried with their tags where its owner says so, else dropped.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Result, ensure};
use overlay_ebpf::abi::MacAddr;
use overlay_tests::{
    capture::PacketSocket,
    cluster::{Cluster, Network},
    container::{Container, IFNAME},
    exec::eventually,
    frame::{ArpOperation, Station, Vxlan, arp, in_vlan, udp},
    node::{
        Datapath::{self, Kernel, Tc, Xdp},
        Node,
    },
    probe::reach,
};

const BLUE: Network<'_> = Network { name: "blue", vni: 4242, subnet: "10.1.0.0/24" };

const DATAPATHS: [Datapath; 3] = [Xdp, Tc, Kernel];

const EVERYBODY: MacAddr = MacAddr([0xff; 6]);

/// A VLAN of the containers' own.
const VLAN: u16 = 7;

/// How long a change may take to reach all nodes on a busy machine.
const SOON: Duration = Duration::from_secs(10);

/// How long to wait for what should not come.
const SILENCE: Duration = Duration::from_millis(300);

/// A node of each data path with two containers each.
struct Scene {
    cluster: Cluster,
    first: Vec<Container>,
    second: Vec<Container>,
}

impl Scene {
    fn new() -> Self {
        let cluster = Cluster::start(&DATAPATHS).unwrap();
        cluster.create_network(BLUE).unwrap();
        let [first, second] = ["first", "second"].map(|name| -> Vec<_> {
            let attach = |node: &Node| {
                Container::attach(node, BLUE.name, &format!("{name}-{}", node.name()), &[]).unwrap()
            };
            cluster.nodes.iter().map(attach).collect()
        });
        for (n, from) in first.iter().enumerate() {
            for to in [&first[(n + 1) % 3], &second[n]] {
                reach(from, to).unwrap();
            }
        }
        Self { cluster, first, second }
    }

    fn set(&self, vlan: &str) {
        self.cluster.nodes[0].ctl(&["network", "set", BLUE.name, "--vlan", vlan]).unwrap();
    }

    /// Each node, its first container, and every other node's first container and its own second one.
    fn pairs(&self) -> impl Iterator<Item = (Datapath, &Node, &Container, &Container)> {
        self.cluster.nodes.iter().enumerate().flat_map(move |(n, node)| {
            let others = (1..3).map(move |step| &self.first[(n + step) % 3]);
            others.chain([&self.second[n]]).map(move |to| (DATAPATHS[n], node, &self.first[n], to))
        })
    }
}

fn station(container: &Container) -> Station {
    Station { mac: container.mac, addr: container.addr }
}

/// A station behind a tag, where addresses are others.
const fn elsewhere(mac: MacAddr, last: u8) -> Station {
    Station { mac, addr: Ipv4Addr::new(192, 168, 7, last) }
}

fn socket(container: &Container) -> PacketSocket {
    PacketSocket::open(&container.netns, IFNAME).unwrap()
}

/// Whether a frame that `from` sends arrives at `to` unchanged.
fn arrives(from: &Container, to: &Container, frame: &[u8], limit: Duration) -> bool {
    let listener = socket(to);
    socket(from).send(frame).unwrap();
    listener.find(limit, |seen| seen == frame).unwrap().is_some()
}

#[test]
fn tags_are_carried_where_the_owner_says_so_and_else_dropped() {
    let scene = Scene::new();
    for (_, node, from, to) in scene.pairs() {
        let frame = in_vlan(&udp(elsewhere(from.mac, 1), elsewhere(to.mac, 2), (5000, 6000), b"no"), VLAN);
        let before = node.counter("endpoint", "inner_vlan").unwrap();
        assert!(!arrives(from, to, &frame, SILENCE), "{} to {}", from.name, to.name);
        assert_eq!(node.counter("endpoint", "inner_vlan").unwrap(), before + 1, "{}", node.name());
    }
    scene.set("trunk");
    for (datapath, _, from, to) in scene.pairs() {
        let (here, there) = (elsewhere(from.mac, 1), elsewhere(to.mac, 2));
        let frames = [
            ("unicast", udp(here, there, (5000, 6000), b"yes")),
            ("the longest", udp(here, there, (5000, 6000), &[0x5a; 1450 - 28 - 4])),
            ("a broadcast", udp(here, Station { mac: EVERYBODY, ..there }, (5000, 6000), b"all")),
            ("a question", arp(from.mac, EVERYBODY, ArpOperation::Request, here, there)),
        ];
        // The segment without a tag has this address too. Linux's bridge answers for it there, as
        // ARCHITECTURE.md says.
        let same = arp(from.mac, EVERYBODY, ArpOperation::Request, here, Station { addr: to.addr, ..there });
        let by_bridge = datapath == Kernel && !scene.second.iter().any(|second| second.id == to.id);
        let same =
            (!by_bridge).then_some(("a question for an address that is there without a tag too", same));
        for (what, frame) in frames.into_iter().chain(same) {
            eventually(SOON, || {
                let arrived = arrives(from, to, &in_vlan(&frame, VLAN), SILENCE);
                ensure!(arrived, "{what} of {} does not reach {}", from.name, to.name);
                Ok(())
            })
            .unwrap();
        }
    }
    scene.set("drop");
    for (_, _, from, to) in scene.pairs() {
        let frame = in_vlan(&udp(elsewhere(from.mac, 1), elsewhere(to.mac, 2), (5000, 6000), b"no"), VLAN);
        eventually(SOON, || {
            ensure!(!arrives(from, to, &frame, SILENCE), "{} still reaches {}", from.name, to.name);
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn behind_a_tag_nobody_speaks_for_another_mac_and_no_node_unpacks_vxlan() {
    let scene = Scene::new();
    scene.set("trunk");
    for (_, node, from, to) in scene.pairs() {
        let forged = in_vlan(&udp(elsewhere(to.mac, 1), elsewhere(to.mac, 2), (5000, 6000), b"forged"), VLAN);
        let before = node.counter("endpoint", "spoofed_mac").unwrap();
        assert!(!arrives(from, to, &forged, SILENCE), "{} to {}", from.name, to.name);
        assert_eq!(node.counter("endpoint", "spoofed_mac").unwrap(), before + 1, "{}", node.name());

        // What each node would deliver, were it to take the frame out of the VLAN and unpack it.
        for target in &scene.cluster.nodes {
            let injected = udp(station(from), station(to), (5000, 6000), b"injected");
            let packed = Vxlan { from: station(from), to: station(to), vni: BLUE.vni, inner: &injected };
            let to_node = Station { mac: to.mac, addr: target.addr() };
            let packed = in_vlan(&udp(station(from), to_node, (49_152, 4789), &packed.payload()), VLAN);
            let listener = socket(to);
            eventually(SOON, || {
                let arrived = arrives(from, to, &packed, SILENCE);
                ensure!(arrived, "the network of {} is no trunk yet", node.name());
                Ok(())
            })
            .unwrap();
            let unpacked = listener.find(SILENCE, |seen| seen == injected).unwrap();
            assert!(unpacked.is_none(), "{} to {} by {}", from.name, to.name, target.name());
        }
    }
}

#[test]
fn vlan_0_is_no_way_around_what_binds_a_sender() -> Result<()> {
    let scene = Scene::new();
    scene.set("trunk");
    for (_, node, from, to) in scene.pairs() {
        // A receiver takes a tag of VLAN 0 for none (IEEE 802.1Q, section 6.9).
        let forged = udp(Station { mac: from.mac, addr: to.addr }, station(to), (5000, 6000), b"forged");
        let tagged = in_vlan(&forged, VLAN);
        eventually(SOON, || {
            ensure!(arrives(from, to, &tagged, SILENCE), "the network of {} is no trunk yet", node.name());
            Ok(())
        })?;
        let before = node.counter("endpoint", "inner_vlan")?;
        for priority in [0, 5 << 13] {
            let tagged = in_vlan(&forged, priority);
            assert!(!arrives(from, to, &tagged, SILENCE), "{} to {}", from.name, to.name);
        }
        assert_eq!(node.counter("endpoint", "inner_vlan")?, before + 2, "{}", node.name());
    }
    Ok(())
}
