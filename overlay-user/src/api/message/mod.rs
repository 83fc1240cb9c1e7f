//! Requests and answers, the same types on both sides of the socket. Their JSON is what
//! `overlayctl -o json` prints: field names do not change.

mod status;

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use self::status::{
    Counter, DatapathStatus, DnsStatus, DockerState, DockerStatus, Health, Peer, Status, StoreState,
    StoreStatus, Uplink,
};
use super::mac;
use crate::{
    MacAddr,
    datapath::{Mode, Traffic},
    state::{Delivery, EndpointId, InterfaceName, NetworkName, NodeName, Policy, PolicyChange, PortDatapath},
};

/// Asks for a network. What is not given is chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateNetwork {
    /// Its name.
    pub name: NetworkName,
    /// Its subnets, one of each family at most; else a free IPv4 pool.
    #[serde(default)]
    pub subnets: Vec<IpNet>,
    /// Its gateways, by family; else the subnet's first address.
    #[serde(default)]
    pub gateways: Vec<IpAddr>,
    /// Where addresses are taken from, by family; else the subnet.
    #[serde(default)]
    pub ip_ranges: Vec<IpNet>,
    /// Its VNI; else a free one.
    #[serde(default)]
    pub vni: Option<u32>,
    /// MTU of its endpoints' interfaces in bytes; 0: from the underlay's.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// No way out to the world.
    #[serde(default)]
    pub internal: bool,
    /// What is not to be as it is by default.
    #[serde(default)]
    pub policy: PolicyChange,
    /// The subnet may overlap that of another network, or routes of nodes.
    #[serde(default)]
    pub allow_overlap: bool,
    /// Addresses that no endpoint gets, by what they are kept for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub aux: BTreeMap<String, IpAddr>,
}

/// Changes what a network's owner decides: what is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SetNetwork {
    /// MTU of its endpoints' interfaces in bytes; 0: from the underlay's. Interfaces there are keep
    /// theirs, and what is larger is answered with the new one.
    pub mtu: Option<u16>,
    /// What becomes of its packets.
    pub policy: PolicyChange,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its name.
    pub name: NetworkName,
    /// Its VNI.
    pub vni: u32,
    /// Its subnet; the IPv4 one of a dual-stack network.
    #[serde(flatten)]
    pub subnet: Subnet,
    /// The IPv6 subnet of a dual-stack network.
    pub dual: Option<Subnet>,
    /// MTU of its endpoints' interfaces in bytes; `null`: the underlay's less 50.
    pub mtu: Option<u16>,
    /// No way out to the world.
    pub internal: bool,
    /// Addresses that no endpoint gets, by what they are kept for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub aux: BTreeMap<String, IpAddr>,
    /// What its owner decided about its packets.
    pub policy: Policy,
    /// How many endpoints it has.
    pub endpoints: usize,
}

/// One subnet of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// The prefix.
    pub subnet: IpNet,
    /// The address kept for a gateway.
    pub gateway: IpAddr,
    /// Where addresses are taken from.
    pub ip_range: IpNet,
}

/// A network and who is on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkDetail {
    /// The network.
    #[serde(flatten)]
    pub network: Network,
    /// Its endpoints.
    pub members: Vec<Endpoint>,
}

/// Asks for an interface in a container's namespace, on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// The network.
    pub network: NetworkName,
    /// The container's network namespace.
    pub netns: Namespace,
    /// Name of the interface inside.
    pub ifname: InterfaceName,
    /// Its addresses, one of each family at most; else free ones.
    #[serde(default)]
    pub ips: Vec<IpAddr>,
    /// Its MAC address; else one made from the IP address.
    #[serde(default, with = "mac::option")]
    pub mac: Option<MacAddr>,
    /// The names it is to be known by.
    #[serde(default)]
    pub names: Vec<NodeName>,
    /// How frames from the wire are to reach it.
    #[serde(default)]
    pub delivery: Delivery,
}

/// A network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Namespace {
    /// A file bound to it, by its absolute path.
    Path(PathBuf),
    /// That of a process.
    Pid(u32),
}

/// An endpoint that was just attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// Its identity.
    pub id: EndpointId,
    /// Its network.
    pub network: NetworkName,
    /// Its first address, with the subnet's prefix length.
    pub address: IpNet,
    /// All of them: one of each family the network has, IPv4 first.
    pub addresses: Vec<IpNet>,
    /// Its MAC address.
    #[serde(with = "mac")]
    pub mac: MacAddr,
    /// Name of the host's end.
    pub host_device: String,
    /// Name of the container's end.
    pub ifname: InterfaceName,
    /// The network's VNI.
    pub vni: u32,
    /// MTU of the interface in bytes.
    pub mtu: u16,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its identity.
    pub id: EndpointId,
    /// Its network.
    pub network: NetworkName,
    /// The node it is on.
    pub node: NodeName,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its MAC address.
    #[serde(with = "mac")]
    pub mac: MacAddr,
    /// The names it is known by.
    pub names: Vec<String>,
    /// How frames from the wire reach it.
    pub delivery: Delivery,
    /// Name of the host's end, if it is on this node.
    pub host_device: Option<String>,
}

/// An endpoint and what it sent and got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointDetail {
    /// The endpoint.
    #[serde(flatten)]
    pub endpoint: Endpoint,
    /// The network's VNI.
    pub vni: u32,
    /// Packets and bytes, if it is on this node.
    pub traffic: Option<Traffic>,
}

/// Enters an endpoint behind a third party's VTEP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddStaticEndpoint {
    /// Its network.
    pub network: NetworkName,
    /// The static node it is behind.
    pub node: NodeName,
    /// Its addresses, one of each family at most.
    pub ips: Vec<IpAddr>,
    /// Its MAC address.
    #[serde(with = "mac")]
    pub mac: MacAddr,
    /// The names it is to be known by.
    #[serde(default)]
    pub names: Vec<NodeName>,
}

/// Enters a third party's VTEP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddStaticNode {
    /// Its name.
    pub name: NodeName,
    /// Its tunnel address.
    pub vtep: IpAddr,
    /// Its VXLAN port; else this node's.
    #[serde(default)]
    pub port: Option<u16>,
}

/// Says whether a node takes new endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainNode {
    /// It does not.
    pub drained: bool,
    /// Those it has are withdrawn: asked of that node itself.
    #[serde(default)]
    pub withdraw: bool,
}

/// A node that was drained, or takes endpoints again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// The node.
    pub node: NodeName,
    /// It takes no new endpoints.
    pub drained: bool,
    /// The endpoints it has.
    pub endpoints: Vec<Endpoint>,
}

/// Makes an interface of this node part of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachPort {
    /// The network.
    pub network: NetworkName,
    /// The interface.
    pub device: InterfaceName,
    /// How many MAC addresses are learned behind it.
    #[serde(default = "default_max_macs")]
    pub max_macs: u32,
    /// After how many seconds without a frame one is forgotten.
    #[serde(default = "default_age")]
    pub age: u32,
    /// What is to carry its frames.
    #[serde(default)]
    pub datapath: PortDatapath,
}

/// How many MAC addresses are learned behind a port if nobody says.
pub const DEFAULT_MAX_MACS: u32 = 1024;

/// After how many seconds one is forgotten if nobody says.
pub const DEFAULT_AGE: u32 = 300;

const fn default_max_macs() -> u32 {
    DEFAULT_MAX_MACS
}

const fn default_age() -> u32 {
    DEFAULT_AGE
}

/// An interface that is part of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Its identity.
    pub id: EndpointId,
    /// Its network.
    pub network: NetworkName,
    /// The node it is on.
    pub node: NodeName,
    /// The interface.
    pub device: InterfaceName,
    /// How many MAC addresses are learned behind it.
    pub max_macs: u32,
    /// After how many seconds without a frame one is forgotten.
    pub age: u32,
    /// The MAC addresses learned behind it.
    pub macs: Vec<String>,
    /// What carries its frames, if it is on this node and up.
    pub datapath: Option<Mode>,
    /// Why that.
    pub reason: Option<String>,
}

/// Names what was made or removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The name, or an endpoint's identity.
    pub name: String,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// Its tunnel address.
    pub vtep: IpAddr,
    /// Its underlay's MTU in bytes, if known.
    pub mtu: Option<u16>,
    /// Its data path; empty for a third party's VTEP.
    pub datapath: String,
    /// Why that one.
    pub reason: String,
    /// Whether it lives.
    pub state: Liveness,
    /// It takes no new endpoints.
    pub drained: bool,
    /// How many endpoints it has.
    pub endpoints: usize,
    /// It is the one that answers.
    pub this: bool,
}

/// Whether a node lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Liveness {
    /// Its lease is live.
    Alive,
    /// Its lease is gone. Its endpoints stay forwarded to.
    Suspect,
    /// Its lease has been gone for a minute. Its endpoints stay forwarded to.
    Down,
    /// Nobody runs overlayd there: not known.
    Static,
}
