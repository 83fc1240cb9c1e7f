//! A container, as far as the network goes: a namespace with an interface in an overlay.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result};
use overlay_ebpf::abi::MacAddr;
use serde_json::Value;

use crate::{netns::Netns, node::Node};

/// Name of the interface inside.
pub const IFNAME: &str = "eth0";

/// A container and its endpoint.
pub struct Container {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub netns: Netns,
    /// Its address in the overlay.
    pub addr: Ipv4Addr,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Identity of its endpoint.
    pub id: String,
    /// The node's end of its interface.
    pub host_device: String,
    /// MTU of its interface in bytes.
    pub mtu: u64,
}

impl Container {
    /// Makes a namespace and has the node attach it to a network. `more` goes to `endpoint attach`.
    pub fn attach(node: &Node, network: &str, name: &str, more: &[&str]) -> Result<Self> {
        let netns = Netns::new(name)?;
        let path = netns.path();
        let path = path.to_string_lossy();
        let attach = ["endpoint", "attach", network, "--netns", &path, "--ifname", IFNAME, "--name", name];
        let printed = node.json(&[&attach[..], more].concat())?;
        let container = Self::parse(name, netns, &printed);
        container.with_context(|| format!("cannot make sense of what endpoint attach printed: {printed}"))
    }

    fn parse(name: &str, netns: Netns, printed: &Value) -> Result<Self> {
        let text = |field: &str| printed[field].as_str().with_context(|| format!("it has no {field}"));
        let addr = text("address")?.split('/').next().unwrap_or_default().parse::<IpAddr>()?;
        let IpAddr::V4(addr) = addr else { anyhow::bail!("{addr} is not an IPv4 address") };
        Ok(Self {
            name: name.to_owned(),
            netns,
            addr,
            mac: text("mac")?.parse().ok().context("its mac is none")?,
            id: text("id")?.to_owned(),
            host_device: text("host_device")?.to_owned(),
            mtu: printed["mtu"].as_u64().context("it has no mtu")?,
        })
    }
}
