//! A node with Docker: overlayd and dockerd beside each other.

use anyhow::Result;

use super::{Dockerd, Release};
use crate::{
    node::{Datapath, Node},
    wire::{Card, Wire},
};

/// Where dockerd looks for the plugin.
const PLUGIN: &str = "/run/docker/plugins/overlayd.sock";

/// A node and its dockerd.
pub struct DockerNode {
    /// Its Docker. Dropped first: its containers' interfaces are the node's.
    pub docker: Dockerd,
    /// The node, without which there is no network.
    pub node: Node,
}

impl DockerNode {
    /// Plugs one in and starts both daemons. Waits for neither.
    pub fn start(
        wire: &Wire,
        name: &str,
        release: Release,
        dockerd: &[&str],
        overlayd: &[&str],
    ) -> Result<Self> {
        let mut node = Node::plug(wire, name, Card::Veth, Datapath::Auto, overlayd)?;
        let docker = Dockerd::place(node.netns(), name, release, dockerd)?;
        node.serve_docker(&docker.host(), PLUGIN);
        let mut node = Self { docker, node };
        node.launch_overlayd()?;
        node.docker.launch()?;
        Ok(node)
    }

    /// Starts overlayd, where its dockerd finds the plugin's socket.
    pub fn launch_overlayd(&mut self) -> Result<()> {
        let entry = self.docker.space().entry();
        self.node.launch_by(&entry.each_ref().map(String::as_str))
    }

    /// Does to the node what a reset does to a machine: processes, namespaces, interfaces and all that was in
    /// memory are gone, what was on disk stays; then starts both daemons. Waits for neither.
    pub fn boot(&mut self) -> Result<()> {
        self.node.kill()?;
        self.docker.reset(self.node.netns(), self.node.name())?;
        self.node.reset()?;
        self.launch_overlayd()?;
        self.docker.launch()
    }

    /// Waits until both daemons answer.
    pub fn wait_ready(&self) -> Result<()> {
        self.node.wait_ready()?;
        self.docker.wait_ready()
    }

    /// Its name in the cluster.
    #[must_use]
    pub fn name(&self) -> &str {
        self.node.name()
    }
}
