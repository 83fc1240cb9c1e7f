//! The contenders: two containers on two nodes, joined in different ways.

use std::{fmt, net::Ipv4Addr};

use anyhow::{Result, ensure};

use crate::{
    cluster::{Cluster, Network},
    container::Container,
    netns::Netns,
    node::Datapath,
    wire::{Card, Port, UPLINK, Wire},
};

const VNI: u32 = 77;
const OURS: Network<'_> = Network { name: "bench", vni: VNI, subnet: "10.77.0.0/24" };

/// How two containers are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No overlay: bridged to the wire.
    Bare,
    /// Kernel VXLAN device and bridge, static forwarding database: what Docker's overlay makes.
    KernelVxlan,
    /// Routed VXLAN device, one subnet for each node: what flannel makes.
    Flannel,
    /// Ours.
    Ours(Datapath),
}

/// What the wire does with large packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// Super-packets pass whole.
    Gso,
    /// One MTU at a time with checksums filled in, as on a network card's wire; GRO on.
    Mtu,
}

/// Two containers and all that joins them.
pub struct Peer {
    pub kind: Kind,
    pub client: Netns,
    pub server: Netns,
    /// The server's address.
    pub addr: Ipv4Addr,
    under: Under,
}

enum Under {
    /// Nodes and the wire, set up by hand.
    ByHand {
        _nodes: [Netns; 2],
        _wire: Wire,
    },
    Ours(Cluster),
}

/// One node set up by hand, before it has a container.
struct Half {
    node: Netns,
    port: Port,
}

// === impl Kind ===

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bare => f.pad("no overlay"),
            Self::KernelVxlan => f.pad("kernel VXLAN + bridge"),
            Self::Flannel => f.pad("flannel's way"),
            Self::Ours(datapath) => f.pad(&format!("overlay, {datapath}")),
        }
    }
}

impl fmt::Display for Carries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Gso => "gso",
            Self::Mtu => "mtu",
        })
    }
}

// === impl Peer ===

impl Peer {
    /// Sets one up and pings once across it.
    pub fn set_up(kind: Kind, carries: Carries) -> Result<Self> {
        let peer = match kind {
            Kind::Ours(datapath) => Self::ours(datapath, carries)?,
            _ => Self::by_hand(kind, carries)?,
        };
        peer.client.exec(&format!("ping -c 3 -i 0.2 -W 2 {}", peer.addr))?;
        Ok(peer)
    }

    fn ours(datapath: Datapath, carries: Carries) -> Result<Self> {
        let cluster = Cluster::start(&[datapath, datapath])?;
        cluster.create_network(OURS)?;
        for node in &cluster.nodes {
            prepare(cluster.wire.netns(), node.netns(), node.port(), carries)?;
        }
        let client = Container::attach(&cluster.nodes[0], OURS.name, "client", &[])?;
        let server = Container::attach(&cluster.nodes[1], OURS.name, "server", &[])?;
        let addr = server.addr;
        let kind = Kind::Ours(datapath);
        Ok(Self { kind, client: client.netns, server: server.netns, addr, under: Under::Ours(cluster) })
    }

    fn by_hand(kind: Kind, carries: Carries) -> Result<Self> {
        let wire = Wire::new()?;
        let half = |name: &str| -> Result<Half> {
            let node = Netns::new(name)?;
            let port = wire.plug(&node, Card::Veth)?;
            prepare(wire.netns(), &node, &port, carries)?;
            Ok(Half { node, port })
        };
        let halves = [half("a")?, half("b")?];
        let (client, server) = (Netns::new("client")?, Netns::new("server")?);
        for (i, container) in [&client, &server].into_iter().enumerate() {
            join(kind, &halves[i], &halves[1 - i], i, container)?;
        }
        let addr = address(kind, 1);
        let [first, second] = halves.map(|half| half.node);
        let under = Under::ByHand { _nodes: [first, second], _wire: wire };
        Ok(Self { kind, client, server, addr, under })
    }

    /// Packets that left the fast path so far; `None` for contenders that are not ours or have none.
    pub fn slow(&self) -> Result<Option<u64>> {
        let Under::Ours(cluster) = &self.under else { return Ok(None) };
        if self.kind == Kind::Ours(Datapath::Kernel) {
            return Ok(None);
        }
        let mut slow = 0;
        for node in &cluster.nodes {
            for outcome in overlay_ebpf::abi::OUTCOMES {
                if outcome.class() == overlay_ebpf::abi::Class::SlowPath {
                    slow +=
                        node.counter("endpoint", outcome.name())? + node.counter("uplink", outcome.name())?;
                }
            }
            ensure!(
                node.counter("endpoint", "encapsulated")? > 0,
                "nothing went by the fast path of {}",
                node.name()
            );
        }
        Ok(Some(slow))
    }
}

/// Gives both ends of a node's cable the offloads of the wire.
fn prepare(wire: &Netns, node: &Netns, port: &Port, carries: Carries) -> Result<()> {
    if carries == Carries::Mtu {
        node.exec(&format!("ethtool -K {UPLINK} tx off tso off gso off gro on"))?;
        wire.exec(&format!("ethtool -K {} tx off tso off gso off gro on", port.name))?;
    }
    Ok(())
}

/// The container's address on node `i`.
fn address(kind: Kind, i: usize) -> Ipv4Addr {
    let i = u8::from(i != 0);
    match kind {
        Kind::Flannel => Ipv4Addr::new(10, 244, i, 2),
        _ => Ipv4Addr::new(10, 77, 0, 2 + i),
    }
}

fn mac(i: usize) -> String {
    format!("02:42:0a:4d:00:{:02x}", 2 + i)
}

/// Puts a container on node `i` set up by hand.
fn join(kind: Kind, here: &Half, there: &Half, i: usize, container: &Netns) -> Result<()> {
    let node = &here.node;
    let exec = |line: String| node.exec(&line).map(|_| ());
    exec(format!("ip link add ve type veth peer name eth0 address {} netns {}", mac(i), container.name()))?;
    exec("ip link add cni0 type bridge".into())?;
    exec("ip link set ve master cni0 up".into())?;
    exec("ip link set cni0 up".into())?;
    let address = address(kind, i);
    let mtu = if kind == Kind::Bare { 1500 } else { 1450 };
    exec(format!("ip link set ve mtu {mtu}"))?;
    container.exec(&format!("ip link set eth0 mtu {mtu} up"))?;
    container.exec(&format!("ip address add {address}/24 dev eth0"))?;

    let (own, other) = (here.port.addr, there.port.addr);
    let options = "dstport 4789 nolearning noudpcsum";
    match kind {
        Kind::Bare => exec(format!("ip link set {UPLINK} master cni0")),
        Kind::KernelVxlan => {
            exec(format!("ip link add vx mtu 1450 type vxlan id {VNI} local {own} {options}"))?;
            exec("ip link set vx master cni0 up".into())?;
            exec(format!("bridge fdb add {} dev vx dst {other} self permanent", mac(1 - i)))?;
            exec(format!("bridge fdb append 00:00:00:00:00:00 dev vx dst {other} self permanent"))
        }
        Kind::Flannel => {
            let vtep_mac = |i: usize| format!("02:00:00:00:f1:{i:02x}");
            let (subnet, remote) = (i, 1 - i);
            exec(format!(
                "ip link add vx address {} mtu 1450 type vxlan id {VNI} local {own} {options}",
                vtep_mac(i)
            ))?;
            exec(format!("ip address add 10.244.{subnet}.0/32 dev vx"))?;
            exec("ip link set vx up".into())?;
            exec(format!("ip address add 10.244.{subnet}.1/24 dev cni0"))?;
            exec("sysctl -qw net.ipv4.ip_forward=1".into())?;
            exec(format!("ip neigh add 10.244.{remote}.0 lladdr {} dev vx nud permanent", vtep_mac(remote)))?;
            exec(format!("bridge fdb add {} dev vx dst {other} self permanent", vtep_mac(remote)))?;
            exec(format!("ip route add 10.244.{remote}.0/24 via 10.244.{remote}.0 dev vx onlink"))?;
            container.exec(&format!("ip route add default via 10.244.{subnet}.1")).map(|_| ())
        }
        Kind::Ours(_) => unreachable!("set up by overlayd"),
    }
}
