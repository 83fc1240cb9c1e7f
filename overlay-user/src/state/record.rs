//! The records as they stand in the store: JSON, unknown fields ignored and kept by writers that
//! change a record.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{EndpointId, InterfaceName, NetworkName, NodeName, Policy, PoolId, PortDatapath};
use crate::MacAddr;

/// `meta`: which cluster this is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaRecord {
    /// Version of the record layouts; 1.
    pub schema: u32,
    /// Chosen when the cluster was made: a store without it was wiped or is another one.
    pub cluster: uuid::Uuid,
}

/// `networks/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// VXLAN network identifier.
    pub vni: u32,
    /// Its subnet.
    pub subnet: IpNet,
    /// The address kept for a gateway.
    pub gateway: IpAddr,
    /// Where addresses are taken from; the subnet if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<IpNet>,
    /// The other family's subnet, of a dual-stack network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dual: Option<SubnetRecord>,
    /// MTU of its endpoints' interfaces; from the underlay's if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// No way out to the world.
    #[serde(default)]
    pub internal: bool,
    /// What its owner decided.
    #[serde(flatten)]
    pub policy: Policy,
    /// Addresses that no endpoint gets, by what they are kept for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub aux: BTreeMap<String, IpAddr>,
    /// The pools that Docker has for it: those it was made with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<PoolId>,
    /// Its identity in Docker, where that is the same on all nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker: Option<String>,
}

/// `pools/<id>`, under a lease: a subnet that Docker was given and that is no network's yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolRecord {
    /// The node whose Docker it is.
    pub node: NodeName,
    /// The subnet.
    pub subnet: IpNet,
    /// Where addresses are to be taken from; the subnet if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<IpNet>,
}

/// One subnet of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetRecord {
    /// The prefix.
    pub subnet: IpNet,
    /// The address kept for a gateway.
    pub gateway: IpAddr,
    /// Where addresses are taken from; the subnet if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<IpNet>,
}

impl NetworkRecord {
    /// Its subnets, one or two.
    pub fn subnets(&self) -> impl Iterator<Item = SubnetRecord> {
        let Self { subnet, gateway, range, dual, .. } = *self;
        [SubnetRecord { subnet, gateway, range }].into_iter().chain(dual)
    }
}

/// `nodes/<node>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Tunnel address.
    pub vtep: IpAddr,
    /// VXLAN port.
    pub port: u16,
    /// Underlay MTU in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Data path: `xdp`, `tc`, `kernel`; empty for a third party's VTEP.
    #[serde(default)]
    pub datapath: String,
    /// Why that data path.
    #[serde(default)]
    pub reason: String,
    /// Version of overlayd.
    #[serde(default)]
    pub version: String,
    /// Raised at every start of the node's daemon.
    #[serde(default)]
    pub incarnation: u64,
    /// Where its interfaces are: which boot of which machine, and which network namespace of it. Empty if that
    /// is not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// The incarnation that joined with another tunnel address than the one before it had, and was not known to be
    /// on the same host: what is older may be on another machine.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub moved: u64,
    /// Endpoints are not attached there any more: an operator's decision, which its owner keeps.
    #[serde(default, skip_serializing_if = "is_false")]
    pub drained: bool,
    /// The prefixes its host has routes to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefixes: Vec<IpNet>,
    /// Entered by `node add-static`.
    #[serde(default, rename = "static")]
    pub is_static: bool,
}

impl NodeRecord {
    /// Whether `other` is of the same host: it has the same tunnel address, or is known to be.
    #[must_use]
    pub fn is_of_same_host(&self, other: &Self) -> bool {
        self.vtep == other.vtep || (!self.host.is_empty() && self.host == other.host)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

/// `alive/<node>`, under a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliveRecord {
    /// The node's incarnation.
    pub incarnation: u64,
    /// Revision its data path has applied when this was written.
    #[serde(default)]
    pub applied: i64,
}

/// What an address is kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AddressState {
    /// Claimed for an endpoint that is being made; under a lease.
    Reserved,
    /// An endpoint has it.
    Bound,
    /// Its endpoint is gone: given to nobody unasked until its lease ends.
    Cooling,
}

/// `addresses/<network>/<ip>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressRecord {
    /// What it is kept for.
    pub state: AddressState,
    /// By which node.
    pub node: NodeName,
    /// For which endpoint.
    pub endpoint: EndpointId,
    /// The endpoint's first name, to name the holder in errors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// `endpoints/<network>/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRecord {
    /// The node it is on.
    pub node: NodeName,
    /// Its MAC address.
    pub mac: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The names it is known by.
    #[serde(default)]
    pub names: Vec<String>,
    /// The container or namespace it is in, as given.
    #[serde(default)]
    pub container: String,
    /// Name of the interface inside.
    #[serde(default)]
    pub ifname: String,
    /// The incarnation of its node that attached it.
    #[serde(default)]
    pub incarnation: u64,
    /// How frames from the wire reach it: a word of [`Delivery`](super::Delivery)'s; empty for `tc`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub delivery: String,
}

/// `ports/<network>/<id>`: a gateway port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRecord {
    /// The node it is on.
    pub node: NodeName,
    /// The interface.
    pub device: InterfaceName,
    /// How many MAC addresses are learned behind it.
    pub max_macs: u32,
    /// After how many seconds without a frame one is forgotten.
    pub age: u32,
    /// What carries its frames.
    #[serde(default)]
    pub datapath: PortDatapath,
}

/// `learned/<network>/<12 hexadecimal digits>`: a MAC address behind a gateway port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearnedRecord {
    /// The port's node.
    pub node: NodeName,
    /// The port.
    pub port: EndpointId,
}

/// Where a record belongs, from its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordKey {
    /// `meta`
    Meta,
    /// `networks/<name>`
    Network(NetworkName),
    /// `nodes/<node>`
    Node(NodeName),
    /// `alive/<node>`
    Alive(NodeName),
    /// `endpoints/<network>/<id>`
    Endpoint(NetworkName, EndpointId),
    /// `ports/<network>/<id>`
    Port(NetworkName, EndpointId),
    /// `learned/<network>/<mac>`
    Learned(NetworkName, MacAddr),
    /// Allocation's own: `vnis/`, `subnets/`, `addresses/`, `macs/`, `pools/`.
    Allocation,
}
