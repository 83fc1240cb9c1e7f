//! The contenders: two containers on two nodes, joined in different ways.

use std::{fmt, net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use overlay_ebpf::abi::{Class, MacAddr, OUTCOMES};

use super::{
    by_hand::ByHand,
    docker::{Own, SUBNET, WayOut, plugged_in},
};
use crate::{
    cluster::{Cluster, Network},
    container::Container,
    docker::{DockerCluster, Dockerd},
    exec::eventually,
    netns::Netns,
    node::{Datapath, Node},
    wire::{Port, UPLINK},
};

/// The network of all contenders.
pub const VNI: u32 = 77;
/// The host behind a gateway port.
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 250);
const OURS: Network<'_> = Network { name: "bench", vni: VNI, subnet: SUBNET };

/// How two containers are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No overlay: bridged to the wire.
    Bare,
    /// Kernel VXLAN device and bridge, static forwarding database: what Docker's overlay makes.
    KernelVxlan,
    /// Routed VXLAN device, one subnet for each node: what flannel makes.
    Flannel,
    /// tc programs around an `external` VXLAN device: what Cilium makes.
    Cilium,
    /// Docker 20.10 with its own overlay driver and a key-value store.
    Docker,
    /// Ours as a plugin of Docker 20.10.
    PluggedIn,
    /// XDP redirects everything between uplink and container: no overlay, no checks, the limit.
    Redirect,
    /// Ours.
    Ours(Datapath),
    /// Ours by XDP, with endpoints that frames are redirected to (`--deliver xdp`).
    Redirected,
    /// Ours by XDP, with a host behind a gateway port in place of the client's container.
    GatewayPort,
}

/// What the wire does with large packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// Super-packets pass whole.
    Gso,
    /// One MTU at a time with checksums filled in, as on a network card's wire; GRO on.
    Mtu,
}

/// A container, and how its node sees it.
pub struct Side {
    pub container: Netns,
    /// Its interface.
    pub interface: String,
    pub addr: Ipv4Addr,
    pub mac: MacAddr,
    /// The node's end of the interface; empty if it is in no namespace of ours.
    pub host_device: String,
}

/// Two containers, `client` and `server`, and all that joins them.
pub struct Contender {
    pub kind: Kind,
    pub client: Side,
    pub server: Side,
    under: Under,
}

enum Under {
    ByHand(ByHand),
    Docker(Box<Own>),
    PluggedIn(DockerCluster),
    Ours(Cluster),
}

// === impl Kind ===

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bare => f.pad("no overlay"),
            Self::KernelVxlan => f.pad("kernel VXLAN + bridge"),
            Self::Flannel => f.pad("flannel's way"),
            Self::Cilium => f.pad("Cilium's way"),
            Self::Docker => f.pad("Docker 20.10 overlay"),
            Self::PluggedIn => f.pad("overlay in Docker 20.10"),
            Self::Redirect => f.pad("bare XDP redirect"),
            Self::Ours(datapath) => f.pad(&format!("overlay, {datapath}")),
            Self::Redirected => f.pad("overlay, xdp redirect"),
            Self::GatewayPort => f.pad("overlay, gateway port"),
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

// === impl Contender ===

impl Contender {
    /// Sets one up and pings across it.
    pub fn set_up(kind: Kind, carries: Carries) -> Result<Self> {
        let contender = match kind {
            Kind::Ours(datapath) => Self::ours(kind, datapath, carries, &[])?,
            Kind::Redirected => Self::ours(kind, Datapath::Xdp, carries, &["--deliver", "xdp"])?,
            Kind::GatewayPort => Self::ours(kind, Datapath::Xdp, carries, &[])?,
            Kind::Docker => Self::own_of_docker(carries, WayOut::None)?,
            Kind::PluggedIn => {
                let (cluster, [client, server]) = plugged_in(carries)?;
                Self { kind, client, server, under: Under::PluggedIn(cluster) }
            }
            _ => {
                let (by_hand, [client, server]) = ByHand::set_up(kind, carries)?;
                Self { kind, client, server, under: Under::ByHand(by_hand) }
            }
        };
        if kind != Kind::Redirect {
            let ping = format!("ping -c 3 -i 0.2 -W 2 {}", contender.server.addr);
            // Who is behind a gateway port is known to others a moment after it first spoke.
            eventually(Duration::from_secs(10), || contender.client.container.exec(&ping))
                .context("the containers do not reach each other")?;
        }
        Ok(contender)
    }

    /// Docker's own overlay.
    pub fn own_of_docker(carries: Carries, way_out: WayOut) -> Result<Self> {
        let (docker, [client, server]) = Own::start(carries, way_out)?;
        Ok(Self { kind: Kind::Docker, client, server, under: Under::Docker(Box::new(docker)) })
    }

    fn ours(kind: Kind, datapath: Datapath, carries: Carries, attach: &[&str]) -> Result<Self> {
        let cluster = Cluster::start(&[datapath, datapath])?;
        cluster.create_network(OURS)?;
        for node in &cluster.nodes {
            prepare(cluster.wire.netns(), node.netns(), node.port(), carries)?;
        }
        let attach = |node: &Node, name: &str| -> Result<Side> {
            let attached = Container::attach(node, OURS.name, name, attach)?;
            let Container { netns: container, addr, mac, host_device, .. } = attached;
            Ok(Side { container, interface: crate::container::IFNAME.into(), addr, mac, host_device })
        };
        let client = match kind {
            Kind::GatewayPort => behind_port(&cluster)?,
            _ => attach(&cluster.nodes[0], "client")?,
        };
        let server = attach(&cluster.nodes[1], "server")?;
        Ok(Self { kind, client, server, under: Under::Ours(cluster) })
    }

    /// The namespace of node 0, the client's, or 1, the server's.
    pub fn node(&self, index: usize) -> &Netns {
        match &self.under {
            Under::ByHand(by_hand) => by_hand.node(index),
            Under::Docker(docker) => docker.node(index),
            Under::PluggedIn(cluster) => cluster.nodes[index].node.netns(),
            Under::Ours(cluster) => cluster.nodes[index].netns(),
        }
    }

    /// Where a node is plugged in.
    pub fn port(&self, index: usize) -> &Port {
        match &self.under {
            Under::ByHand(by_hand) => by_hand.port(index),
            Under::Docker(docker) => docker.port(index),
            Under::PluggedIn(cluster) => cluster.nodes[index].node.port(),
            Under::Ours(cluster) => cluster.nodes[index].port(),
        }
    }

    /// The namespace of the wire.
    pub fn wire(&self) -> &Netns {
        match &self.under {
            Under::ByHand(by_hand) => by_hand.wire(),
            Under::Docker(docker) => docker.wire(),
            Under::PluggedIn(cluster) => cluster.wire.netns(),
            Under::Ours(cluster) => cluster.wire.netns(),
        }
    }

    /// The dockerd of a node, if it has one.
    pub fn docker(&self, index: usize) -> Result<&Dockerd> {
        match &self.under {
            Under::Docker(own) => Ok(own.docker(index)),
            Under::PluggedIn(cluster) => Ok(&cluster.nodes[index].docker),
            _ => bail!("{} has no Docker", self.kind),
        }
    }

    /// As [`Self::docker`], to be killed.
    pub fn docker_mut(&mut self, index: usize) -> Result<&mut Dockerd> {
        match &mut self.under {
            Under::Docker(own) => Ok(own.docker_mut(index)),
            Under::PluggedIn(cluster) => Ok(&mut cluster.nodes[index].docker),
            _ => bail!("{} has no Docker", self.kind),
        }
    }

    /// The nodes, if they have both daemons.
    pub fn plugged_in(&mut self) -> Option<&mut DockerCluster> {
        match &mut self.under {
            Under::PluggedIn(cluster) => Some(cluster),
            _ => None,
        }
    }

    /// A node of ours that forwards by its programs.
    pub fn with_programs(&self, index: usize) -> Option<&Node> {
        match &self.under {
            Under::Ours(cluster) if self.kind != Kind::Ours(Datapath::Kernel) => cluster.nodes.get(index),
            Under::PluggedIn(cluster) => cluster.nodes.get(index).map(|node| &node.node),
            _ => None,
        }
    }

    /// How many packets our programs forwarded, and how many they left to the slow path so far;
    /// `None` for contenders that have no programs of ours.
    pub fn forwarded_and_slow(&self) -> Result<Option<(u64, u64)>> {
        let (mut forwarded, mut slow) = (0, 0);
        for index in 0..2 {
            let Some(node) = self.with_programs(index) else { return Ok(None) };
            let status = node.status()?;
            let counters = status["counters"].as_array().context("status has no counters")?;
            for counter in counters.iter().filter(|counter| counter["hook"] != "slowpath") {
                let name = counter["outcome"].as_str().unwrap_or_default();
                let packets = counter["packets"].as_u64().unwrap_or(0);
                match OUTCOMES.iter().find(|outcome| outcome.name() == name).map(|o| o.class()) {
                    Some(Class::Forwarded) => forwarded += packets,
                    Some(Class::SlowPath) => slow += packets,
                    _ => {}
                }
            }
            ensure!(forwarded > 0, "nothing went by the fast path of {}", node.name());
        }
        Ok(Some((forwarded, slow)))
    }
}

/// A host behind a gateway port of the first node, whose frames XDP carries.
fn behind_port(cluster: &Cluster) -> Result<Side> {
    let (node, interface, host_device) = (&cluster.nodes[0], "eth0", "gw0");
    let container = Netns::new("host")?;
    let add = format!("ip link add {host_device} type veth peer name {interface} netns {}", container.name());
    node.netns().exec(&add)?;
    for line in [
        format!("ip link set {interface} mtu 1450 up"),
        format!("ip addr add {GUEST}/24 dev {interface}"),
        // As behind a wire: checksums filled in; and redirected frames are taken up.
        format!("ethtool -K {interface} tx off gro on"),
    ] {
        container.exec(&line)?;
    }
    cluster.wire.netns().exec(&format!("ethtool -K {} gro on", node.port().name))?;
    node.ctl(&["port", "attach", OURS.name, "--dev", host_device, "--datapath", "xdp"])?;
    let mac = container.mac(interface)?;
    Ok(Side { container, interface: interface.into(), addr: GUEST, mac, host_device: host_device.into() })
}

/// Gives both ends of a node's cable the offloads of the wire.
pub fn prepare(wire: &Netns, node: &Netns, port: &Port, carries: Carries) -> Result<()> {
    if carries == Carries::Mtu {
        node.exec(&format!("ethtool -K {UPLINK} tx off tso off gso off gro on"))?;
        wire.exec(&format!("ethtool -K {} tx off tso off gso off gro on", port.name))?;
    }
    Ok(())
}
