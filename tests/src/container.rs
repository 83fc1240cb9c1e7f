//! A container, as far as the network goes: a namespace with an interface in an overlay.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
    /// Its address in the overlay; unspecified on a network without IPv4.
    pub addr: Ipv4Addr,
    /// Its IPv6 address there, on a network that has IPv6.
    pub addr6: Option<Ipv6Addr>,
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
        Self::attach_by(|arguments| node.json(arguments), network, name, more)
    }

    /// As [`Self::attach`], by what runs overlayctl and reads its JSON.
    pub fn attach_by(
        overlayctl: impl Fn(&[&str]) -> Result<Value>,
        network: &str,
        name: &str,
        more: &[&str],
    ) -> Result<Self> {
        let netns = Netns::new(name)?;
        let path = netns.path();
        let path = path.to_string_lossy();
        let attach = ["endpoint", "attach", network, "--netns", &path, "--ifname", IFNAME, "--name", name];
        let printed = overlayctl(&[&attach[..], more].concat())?;
        let container = Self::parse(name, netns, &printed);
        container.with_context(|| format!("cannot make sense of what endpoint attach printed: {printed}"))
    }

    fn parse(name: &str, netns: Netns, printed: &Value) -> Result<Self> {
        let text = |field: &str| printed[field].as_str().with_context(|| format!("it has no {field}"));
        let (mut addr, mut addr6) = (Ipv4Addr::UNSPECIFIED, None);
        for address in printed["addresses"].as_array().context("it has no addresses")? {
            let address = address.as_str().and_then(|text| text.split('/').next()).unwrap_or_default();
            match address.parse()? {
                IpAddr::V4(v4) => addr = v4,
                IpAddr::V6(v6) => addr6 = Some(v6),
            }
        }
        Ok(Self {
            name: name.to_owned(),
            netns,
            addr,
            addr6,
            mac: text("mac")?.parse().ok().context("its mac is none")?,
            id: text("id")?.to_owned(),
            host_device: text("host_device")?.to_owned(),
            mtu: printed["mtu"].as_u64().context("it has no mtu")?,
        })
    }
}
