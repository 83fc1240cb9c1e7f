//! What should be: a snapshot of the store, checked record by record.
//!
//! Everything in the store is untrusted. A record that does not hold up is left out and named in
//! [`State::rejected`]; the others are not affected.

mod name;
mod record;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

pub use name::{EndpointId, InterfaceName, NameError, NetworkName, NodeName};
pub use record::{
    AddressRecord, AddressState, AliveRecord, EndpointRecord, MetaRecord, NetworkRecord, NodeRecord,
    RecordKey,
};

use crate::{MacAddr, Vni};

/// The checked records of one revision of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The store's revision this is.
    pub revision: i64,
    /// Networks by name.
    pub networks: BTreeMap<NetworkName, Network>,
    /// Nodes by name.
    pub nodes: BTreeMap<NodeName, Node>,
    /// Endpoints by network and identity.
    pub endpoints: BTreeMap<(NetworkName, EndpointId), Endpoint>,
    /// Nodes whose lease is live.
    pub alive: BTreeSet<NodeName>,
    /// Keys left out (relative to the cluster's prefix), and why.
    pub rejected: BTreeMap<String, String>,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its VNI; no two networks of a state have the same.
    pub vni: Vni,
    /// Its subnet.
    pub subnet: ipnet::IpNet,
    /// The address kept for a gateway.
    pub gateway: IpAddr,
    /// Where addresses are taken from unless asked for: the subnet or a part of it.
    pub range: ipnet::IpNet,
    /// MTU of its endpoints' interfaces; `None`: from the underlay's.
    pub mtu: Option<u16>,
    /// No way out to the world.
    pub internal: bool,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its tunnel address.
    pub vtep: IpAddr,
    /// MTU of its underlay, if it said so.
    pub mtu: Option<u16>,
    /// Which data path it runs; empty for a third party's VTEP.
    pub datapath: String,
    /// Why that one.
    pub reason: String,
    /// Entered by `node add-static`: nobody runs overlayd there.
    pub is_static: bool,
}

/// An endpoint: one interface in a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The node it is on.
    pub node: NodeName,
    /// Its MAC address; no two endpoints of a network have the same.
    pub mac: MacAddr,
    /// Its addresses, all in the network's subnet; no two endpoints of a network share one.
    pub addresses: BTreeSet<IpAddr>,
    /// The names it is known by.
    pub names: Vec<String>,
}

impl State {
    /// The endpoints of a network, in the order of their identities.
    pub fn endpoints_of(&self, network: &NetworkName) -> impl Iterator<Item = (&EndpointId, &Endpoint)> {
        self.endpoints.iter().filter(move |((n, _), _)| n == network).map(|((_, id), e)| (id, e))
    }
}
