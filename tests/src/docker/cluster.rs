//! A wire, a store, and nodes with Docker.

use anyhow::Result;

use super::{DockerNode, Release};
use crate::{etcd::Etcd, wire::Wire};

/// A cluster of nodes with Docker. Nodes are dropped first, the wire last.
pub struct DockerCluster {
    /// Its nodes, in the order they were asked for.
    pub nodes: Vec<DockerNode>,
    /// Its store.
    pub etcd: Etcd,
    /// Its underlay.
    pub wire: Wire,
}

impl DockerCluster {
    /// Starts a node `node1`, `node2`, … for each release, and waits until all can run containers. `dockerd`
    /// goes to its daemons.
    pub fn start(releases: &[Release], dockerd: &[&str]) -> Result<Self> {
        let mut cluster = Self::empty()?;
        for release in releases {
            cluster.add(*release, dockerd, &[])?;
        }
        cluster.wait_ready()?;
        Ok(cluster)
    }

    /// A wire and a store without nodes.
    pub fn empty() -> Result<Self> {
        Self::empty_with(&[])
    }

    /// As [`Self::empty`]; `more` goes to etcd.
    pub fn empty_with(more: &[&str]) -> Result<Self> {
        let wire = Wire::new()?;
        let etcd = Etcd::start_with(&wire, more)?;
        Ok(Self { nodes: Vec::new(), etcd, wire })
    }

    /// Starts one more node; `dockerd` and `overlayd` go to its daemons.
    pub fn add(&mut self, release: Release, dockerd: &[&str], overlayd: &[&str]) -> Result<()> {
        let name = format!("node{}", self.nodes.len() + 1);
        self.nodes.push(DockerNode::start(&self.wire, &name, release, dockerd, overlayd)?);
        Ok(())
    }

    /// Waits until all daemons answer, and makes the image where it is not.
    pub fn wait_ready(&self) -> Result<()> {
        for node in &self.nodes {
            node.wait_ready()?;
            node.docker.import()?;
        }
        Ok(())
    }
}
