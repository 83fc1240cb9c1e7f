//! Docker's own overlay driver with an external store, as it was until Docker 23: a real dockerd on
//! each node, and etcd with its old API.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::Result;

use crate::{
    bench::contender::{Carries, Side, prepare},
    docker::{self, Dockerd, Release},
    etcd::Etcd,
    exec::eventually,
    netns::Netns,
    wire::{Card, Port, UPLINK, Wire},
};

/// The network of both containers.
pub const NETWORK: &str = "bench";
/// Its subnet.
pub const SUBNET: &str = "10.77.0.0/24";
/// How long the other daemon may take to hear of a network on a busy machine.
const HEARD: Duration = Duration::from_secs(40);

/// Whether containers have a way out of their network.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum WayOut {
    /// By Docker's bridge and firewall rules, as usual.
    Usual,
    /// None, and no firewall rules.
    None,
}

/// Two nodes with a dockerd each.
pub struct Own {
    nodes: [Host; 2],
    _etcd: Etcd,
    wire: Wire,
}

/// A node without a daemon of ours.
struct Host {
    docker: Dockerd,
    port: Port,
    netns: Netns,
}

impl Own {
    pub fn start(carries: Carries, way_out: WayOut) -> Result<(Self, [Side; 2])> {
        let wire = Wire::new()?;
        let etcd = Etcd::start_with(&wire, &["--enable-v2"])?;
        let nodes = [Host::start(&wire, "a", carries, way_out)?, Host::start(&wire, "b", carries, way_out)?];
        for node in &nodes {
            node.docker.wait_ready()?;
            node.docker.import()?;
        }
        let internal = (way_out == WayOut::None).then_some("--internal");
        let create = ["network", "create", "-d", "overlay", "--subnet", SUBNET];
        nodes[0].docker.docker(&create.into_iter().chain(internal).chain([NETWORK]).collect::<Vec<_>>())?;
        let sides = [side(&nodes[0].docker, "client")?, side(&nodes[1].docker, "server")?];
        Ok((Self { nodes, _etcd: etcd, wire }, sides))
    }

    pub const fn docker(&self, index: usize) -> &Dockerd {
        &self.nodes[index].docker
    }

    pub const fn docker_mut(&mut self, index: usize) -> &mut Dockerd {
        &mut self.nodes[index].docker
    }

    pub const fn node(&self, index: usize) -> &Netns {
        &self.nodes[index].netns
    }

    pub const fn port(&self, index: usize) -> &Port {
        &self.nodes[index].port
    }

    pub const fn wire(&self) -> &Netns {
        self.wire.netns()
    }
}

impl Host {
    fn start(wire: &Wire, name: &str, carries: Carries, way_out: WayOut) -> Result<Self> {
        let netns = Netns::new(name)?;
        let port = wire.plug(&netns, Card::Veth)?;
        prepare(wire.netns(), &netns, &port, carries)?;
        let (store, advertise) = (format!("etcd://{}:2379", Wire::gateway()), format!("{UPLINK}:2376"));
        let store = ["--cluster-store", &store, "--cluster-advertise", &advertise, "--live-restore"];
        let none = ["--bridge", "none", "--iptables=false", "--ip6tables=false"];
        let more = [&store[..], if way_out == WayOut::None { &none } else { &[] }].concat();
        let mut docker = Dockerd::place(&netns, name, Release::V20_10, &more)?;
        docker.launch()?;
        Ok(Self { docker, port, netns })
    }
}

/// Starts a container that does nothing, and takes hold of its network namespace.
pub fn side(docker: &Dockerd, name: &str) -> Result<Side> {
    // The other daemon may have heard of the network a moment later.
    eventually(HEARD, || docker.docker(&["network", "inspect", NETWORK]))?;
    docker.idle(name, NETWORK, &[])?;
    let addr: Ipv4Addr = docker.addr(name, NETWORK)?;
    let container = docker.netns(name)?;
    let interface = docker::interface(&container, addr.into())?;
    let mac = container.mac(&interface)?;
    Ok(Side { container, interface, addr, mac, host_device: String::new() })
}
