//! What the demo plays on.

use anyhow::Result;
use overlay_tests::{
    cluster::{Cluster, Network},
    container::Container,
    node::{Datapath, Node},
    probe,
    wire::Card,
};

/// Two networks that have nothing but their VNI to tell them apart.
pub const NETWORKS: [Network<'static>; 2] = [
    Network { name: "blue", vni: 4096, subnet: "10.10.0.0/24" },
    Network { name: "red", vni: 4097, subnet: "10.10.0.0/24" },
];

/// The nodes, each named after its data path.
const NODES: [(&str, Card, Datapath); 3] = [
    ("xdp", Card::Veth, Datapath::Xdp),
    ("tc", Card::Veth, Datapath::Tc),
    ("kernel", Card::Veth, Datapath::Kernel),
];

/// Containers of each network on each node.
const PER_NODE: usize = 2;

/// A cluster, and the containers of each of [`NETWORKS`].
pub struct Stage {
    pub cluster: Cluster,
    pub containers: [Vec<Container>; 2],
}

impl Stage {
    /// Sets everything up, and says what.
    pub fn set() -> Result<(Self, String)> {
        println!("    a real etcd, and a node for each data path on a bridge");
        let cluster = Cluster::start_with(&NODES)?;
        let mut containers = [Vec::new(), Vec::new()];
        for (network, containers) in NETWORKS.into_iter().zip(&mut containers) {
            println!(
                "    overlayctl network create {} --subnet {} --allow-overlap",
                network.name, network.subnet
            );
            cluster.create_network(network)?;
            for (index, node) in cluster.nodes.iter().enumerate() {
                for number in 0..PER_NODE {
                    containers.push(attach(node, network, index * PER_NODE + number)?);
                }
            }
        }
        let stage = Self { cluster, containers };
        let detail = format!("xdp, tc and kernel; blue and red, both {}", NETWORKS[0].subnet);
        Ok((stage, detail))
    }

    /// The first container of a network on the node with this index.
    pub fn first(&self, network: usize, node: usize) -> &Container {
        first(&self.containers[network], node)
    }
}

/// The first of a network's containers on the node with this index.
pub fn first(containers: &[Container], node: usize) -> &Container {
    &containers[node * PER_NODE]
}

/// A container whose address has a twin in the other network.
fn attach(node: &Node, network: Network<'_>, number: usize) -> Result<Container> {
    let name = format!("{}-{}-{}", network.name, node.name(), number % PER_NODE + 1);
    let ip = format!("10.10.0.{}", number + 10);
    let container = Container::attach(node, network.name, &name, &["--ip", &ip])?;
    println!("    {name:16} {ip:12} {} MTU {}", container.mac, container.mtu);
    Ok(container)
}

/// Every ordered pair of containers of a network.
pub fn pairs(containers: &[Container]) -> impl Iterator<Item = (&Container, &Container)> {
    let all = containers.iter().flat_map(move |from| containers.iter().map(move |to| (from, to)));
    all.filter(|(from, to)| from.addr != to.addr)
}

/// Pings every pair of a network; how many packets were answered.
pub fn ping_pairs(containers: &[Container]) -> Result<(usize, u64)> {
    let mut count = (0, 0);
    for (from, to) in pairs(containers) {
        let loss = probe::ping_all(from, to)?;
        count = (count.0 + 1, count.1 + loss.received);
    }
    Ok(count)
}
