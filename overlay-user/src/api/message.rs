//! Requests and answers, the same types on both sides of the socket. Their JSON is what
//! `overlayctl -o json` prints: field names do not change.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::mac;
use crate::{
    MacAddr,
    datapath::{Count, Mode, Traffic},
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

/// How a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// `healthy`, or `degraded` for the reasons in `degraded`.
    pub health: Health,
    /// What is wrong, one sentence each.
    pub degraded: Vec<String>,
    /// This node's name.
    pub node: NodeName,
    /// It takes no new endpoints.
    pub drained: bool,
    /// Version of overlayd.
    pub version: String,
    /// The cluster's name.
    pub cluster: String,
    /// The interface that is tunnelled from.
    pub uplink: Uplink,
    /// What forwards packets.
    pub datapath: DatapathStatus,
    /// The store.
    pub store: StoreStatus,
    /// How many networks the cluster has.
    pub networks: usize,
    /// How many of the endpoints are on this node.
    pub endpoints_local: usize,
    /// How many are elsewhere.
    pub endpoints_remote: usize,
    /// The other nodes.
    pub peers: Vec<Peer>,
    /// What the data path could not do, and why.
    pub problems: Vec<String>,
    /// Docker on this node; `null` if it is nothing to overlayd.
    #[serde(default)]
    pub docker: Option<DockerStatus>,
    /// Keys of the store that were left out, and why.
    pub rejected: BTreeMap<String, String>,
    /// How many more keys were left out.
    pub rejected_more: usize,
    /// Who answers containers' names; `null` if nobody does.
    #[serde(default)]
    pub dns: Option<DnsStatus>,
    /// What became of packets: every outcome that is not zero.
    pub counters: Vec<Counter>,
}

/// Whether all is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// It is.
    Healthy,
    /// Something is not as it should be.
    Degraded,
}

/// The interface that is tunnelled from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uplink {
    /// Its name.
    pub name: String,
    /// This node's tunnel address.
    pub address: IpAddr,
    /// Its driver as the kernel names it.
    pub driver: String,
    /// MTU in bytes.
    pub mtu: u16,
    /// UDP port of VXLAN.
    pub port: u16,
}

/// What forwards packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatapathStatus {
    /// Which one.
    pub mode: Mode,
    /// Why that one.
    pub reason: String,
    /// How long it took to bring it to the newest state, in milliseconds.
    pub apply_ms: Option<u64>,
    /// Rows and kernel objects changed since overlayd started: none if it found all as it should be.
    pub rows_changed: u64,
}

/// What answers containers' names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsStatus {
    /// Its address in every container.
    pub address: Ipv4Addr,
    /// How many containers it serves.
    pub containers: usize,
    /// Queries it has answered.
    pub answered: u64,
    /// Those that another server has answered.
    pub forwarded: u64,
    /// Those that no other server has answered.
    pub unanswered: u64,
    /// Those that were none for it, or too many.
    pub refused: u64,
}

/// The store as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// How it is.
    pub state: StoreState,
    /// Why it is not synced, if so.
    pub reason: Option<String>,
    /// The newest revision read.
    pub revision: i64,
    /// The newest revision that is forwarded by.
    pub applied: Option<i64>,
}

/// How the store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreState {
    /// Not read since the start.
    Connecting,
    /// Current.
    Synced,
    /// Away.
    Lost,
    /// Another one than it was: nothing is applied.
    Frozen,
}

/// Docker as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DockerStatus {
    /// The socket of its API.
    pub socket: PathBuf,
    /// The socket it finds the driver at.
    pub plugin: PathBuf,
    /// Whether it answers.
    pub state: DockerState,
    /// Its version, if it answers.
    pub version: Option<String>,
    /// The version of its API that is spoken with it.
    pub api: Option<String>,
    /// Why it does not answer.
    pub reason: Option<String>,
    /// For how many seconds it has not.
    pub away_seconds: Option<u64>,
    /// What is not as it should be, one sentence each.
    pub problems: Vec<String>,
}

/// Whether Docker answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DockerState {
    /// There was none yet.
    None,
    /// It does.
    Followed,
    /// It does not: its containers run on, and it is brought up to date when it is back.
    Away,
}

/// Another node as this one sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name.
    pub name: NodeName,
    /// Its tunnel address.
    pub address: IpAddr,
    /// Its data path; empty for a third party's VTEP.
    pub datapath: String,
    /// Whether it lives.
    pub state: Liveness,
    /// It takes no new endpoints.
    pub drained: bool,
    /// Whether this node has a route to it; `null` if they share no network.
    pub routed: Option<bool>,
    /// Packets and bytes.
    pub traffic: Traffic,
}

/// How often something became of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// Where the packet entered.
    pub hook: String,
    /// What became of it.
    pub outcome: String,
    /// What kind of outcome that is: `received`, `forwarded`, `passed`, `slowpath`, `drop`; `other`
    /// if this version does not know it.
    pub class: String,
    /// Packets and bytes.
    #[serde(flatten)]
    pub count: Count,
    /// What it means.
    pub explanation: String,
}
