//! A wire, a store and nodes.

use anyhow::{Context as _, Result};

use crate::{
    container::Container,
    etcd::Etcd,
    node::{Datapath, Node},
    wire::{Card, Wire},
};

/// A cluster. Nodes are dropped first, the wire last.
pub struct Cluster {
    /// Its nodes, in the order they were asked for.
    pub nodes: Vec<Node>,
    /// Its store.
    pub etcd: Etcd,
    /// Its underlay.
    pub wire: Wire,
}

/// A network of a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Network<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its VNI.
    pub vni: u32,
    /// Its subnet.
    pub subnet: &'a str,
}

impl Cluster {
    /// Starts a cluster with a node `n1`, `n2`, … for each data path, and waits until all are healthy.
    pub fn start(datapaths: &[Datapath]) -> Result<Self> {
        let names: Vec<_> = (1..=datapaths.len()).map(|number| format!("n{number}")).collect();
        let nodes =
            names.iter().zip(datapaths).map(|(name, datapath)| (name.as_str(), Card::Veth, *datapath));
        Self::start_with(&nodes.collect::<Vec<_>>())
    }

    /// As [`Self::start`], with a choice of names and cards.
    pub fn start_with(nodes: &[(&str, Card, Datapath)]) -> Result<Self> {
        let mut cluster = Self::empty()?;
        for (name, card, datapath) in nodes {
            cluster.add(name, *card, *datapath, &[])?;
        }
        cluster.wait_ready()?;
        Ok(cluster)
    }

    /// A wire and a store without nodes.
    pub fn empty() -> Result<Self> {
        Self::on(Wire::new()?)
    }

    /// A store on a wire, without nodes.
    pub fn on(wire: Wire) -> Result<Self> {
        let etcd = Etcd::start(&wire)?;
        Ok(Self { nodes: Vec::new(), etcd, wire })
    }

    /// Starts one more node; `more` goes to its daemon.
    pub fn add(&mut self, name: &str, card: Card, datapath: Datapath, more: &[&str]) -> Result<()> {
        self.nodes.push(Node::start(&self.wire, name, card, datapath, more)?);
        Ok(())
    }

    /// Waits until all nodes are healthy.
    pub fn wait_ready(&self) -> Result<()> {
        self.nodes.iter().try_for_each(Node::wait_ready)
    }

    /// Creates a network, whatever other networks' subnets are.
    pub fn create_network(&self, network: Network<'_>) -> Result<()> {
        let node = self.nodes.first().context("a cluster without nodes")?;
        let vni = network.vni.to_string();
        let (name, subnet) = (network.name, network.subnet);
        node.ctl(&["network", "create", name, "--subnet", subnet, "--vni", &vni, "--allow-overlap"])?;
        Ok(())
    }

    /// Attaches a container of each node, named after it, to a network.
    pub fn attach_each(&self, network: Network<'_>) -> Result<Vec<Container>> {
        let attach = |node: &Node| Container::attach(node, network.name, node.name(), &[]);
        self.nodes.iter().map(attach).collect()
    }
}
