//! A victim, honest peers, and an attacker on the wire.

use std::time::Duration;

use anyhow::{Result, ensure};
use overlay_ebpf::abi::MacAddr;
use overlay_tests::{
    capture::PacketSocket,
    cluster::{Cluster, Network},
    container::{Container, IFNAME},
    exec::eventually,
    frame::{Station, Vxlan, udp},
    netns::Netns,
    node::{
        Datapath::{self, Tc},
        Node,
    },
    probe::ping_all,
    wire::{Card, UPLINK},
};

pub const BLUE: Network<'_> = Network { name: "blue", vni: 4242, subnet: "10.1.0.0/24" };

/// In every hostile packet, so that one that gets through is recognised.
pub const MARKER: &[u8] = b"never to be delivered";

/// How long a packet may take to be counted or delivered.
pub const SOON: Duration = Duration::from_secs(3);

/// A victim on the first of three nodes, honest peers on the others, and an attacker on the wire.
pub struct Scene {
    pub cluster: Cluster,
    pub victim: Container,
    pub peer: Container,
    /// On a third node.
    pub bystander: Container,
    pub attacker: Netns,
    pub attacker_station: Station,
    pub wire: PacketSocket,
    /// The attacker's port of the wire, in the wire's namespace.
    pub attacker_port: String,
    inside: PacketSocket,
}

fn mac_of(netns: &Netns, interface: &str) -> MacAddr {
    let line = netns.exec(&format!("ip -brief link show dev {interface}")).unwrap();
    line.split_whitespace().nth(2).unwrap().parse().unwrap()
}

pub fn uplink(node: &Node) -> Station {
    Station { mac: mac_of(node.netns(), UPLINK), addr: node.addr() }
}

pub fn station(container: &Container) -> Station {
    Station { mac: container.mac, addr: container.addr }
}

impl Scene {
    pub fn new(datapath: Datapath) -> Self {
        Self::with(datapath, &[])
    }

    /// `more` goes to the daemon of the victim's node.
    pub fn with(datapath: Datapath, more: &[&str]) -> Self {
        let mut cluster = Cluster::empty().unwrap();
        cluster.add("n1", Card::Veth, datapath, more).unwrap();
        for name in ["n2", "n3"] {
            cluster.add(name, Card::Veth, Tc, &[]).unwrap();
        }
        cluster.wait_ready().unwrap();
        cluster.create_network(BLUE).unwrap();
        let [victim, peer, bystander] = [("victim", 0), ("peer", 1), ("bystander", 2)]
            .map(|(name, node)| Container::attach(&cluster.nodes[node], BLUE.name, name, &[]).unwrap());
        ping_all(&peer, &victim).unwrap();
        ping_all(&bystander, &victim).unwrap();
        let attacker = Netns::new("attacker").unwrap();
        let port = cluster.wire.plug(&attacker, Card::Veth).unwrap();
        let attacker_station = Station { mac: mac_of(&attacker, UPLINK), addr: port.addr };
        let wire = PacketSocket::open(&attacker, UPLINK).unwrap();
        let inside = PacketSocket::open(&victim.netns, IFNAME).unwrap();
        let attacker_port = port.name;
        Self { cluster, victim, peer, bystander, attacker, attacker_station, wire, attacker_port, inside }
    }

    pub fn node(&self) -> &Node {
        &self.cluster.nodes[0]
    }

    /// The honest peer's node, as an attacker on the wire can claim to be.
    pub fn forged_vtep(&self) -> Station {
        Station { mac: self.attacker_station.mac, addr: self.cluster.nodes[1].addr() }
    }

    /// What the peer might send to the victim.
    pub fn inner(&self) -> Vec<u8> {
        udp(station(&self.peer), station(&self.victim), (1000, 2000), MARKER)
    }

    /// The packet that carries `inner` to the victim's node, from the peer's.
    pub fn packet(&self, inner: &[u8]) -> Vec<u8> {
        Vxlan { from: self.forged_vtep(), to: uplink(self.node()), vni: BLUE.vni, inner }.frame()
    }

    /// Whether the marker reached the victim.
    pub fn delivered(&self, limit: Duration) -> bool {
        let found = self.inside.find(limit, |frame| frame.windows(MARKER.len()).any(|part| part == MARKER));
        found.unwrap().is_some()
    }

    /// Sends a packet that must be counted under a name.
    pub fn counted(&self, what: &str, frame: &[u8], hook: &str, outcome: &str) -> Result<()> {
        let before = self.node().counter(hook, outcome)?;
        self.wire.send(frame)?;
        eventually(SOON, || {
            let counted = self.node().counter(hook, outcome)? - before;
            ensure!(
                counted == 1,
                "{what}: counted {counted} times as {outcome}; counters: {}",
                self.node().status()?["counters"]
            );
            Ok(())
        })
    }

    /// Sends a packet that must not be delivered, but counted under a name.
    pub fn refused(&self, what: &str, frame: &[u8], hook: &str, outcome: &str) -> Result<()> {
        self.counted(what, frame, hook, outcome)?;
        ensure!(!self.delivered(Duration::from_millis(20)), "{what}: delivered");
        Ok(())
    }
}

/// Every packet that entered has one other outcome as well.
pub fn accounted(node: &Node) -> Result<()> {
    eventually(SOON, || {
        let status = node.status()?;
        for hook in ["endpoint", "uplink", "slowpath"] {
            let of = |received: bool| -> u64 {
                let counters = status["counters"].as_array().into_iter().flatten();
                let wanted =
                    counters.filter(|c| c["hook"] == hook && (c["outcome"] == "received") == received);
                wanted.filter_map(|counter| counter["packets"].as_u64()).sum()
            };
            let (entered, ended) = (of(true), of(false));
            ensure!(
                entered == ended,
                "{hook}: {entered} received, {ended} accounted for: {}",
                status["counters"]
            );
        }
        Ok(())
    })
}
