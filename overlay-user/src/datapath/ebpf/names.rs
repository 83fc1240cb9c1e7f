//! What the keys of maps are called to an operator.

use std::net::IpAddr;

use super::index::Indices;
use crate::{
    MacAddr, Vni, netlink,
    plan::{Location, Network, Plan},
    state::{EndpointId, NodeName},
};

/// Who is behind VNIs, rows and slots.
pub struct Names<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// Rows of nodes in `vteps`.
    pub vteps: &'a Indices<NodeName>,
    /// Slots of this node's endpoints and ports.
    pub slots: &'a Indices<EndpointId>,
}

impl Names<'_> {
    /// A network by its VNI.
    #[must_use]
    pub fn network(&self, vni: u32) -> String {
        match self.planned(vni) {
            Some(network) => format!("network {}", network.name),
            None => format!("VNI {vni}"),
        }
    }

    /// An endpoint by its network and MAC address.
    #[must_use]
    pub fn endpoint(&self, vni: u32, mac: MacAddr) -> String {
        let network = self.network(vni);
        let Some(endpoint) = self.planned(vni).and_then(|network| network.endpoint(mac)) else {
            return format!("{network}, MAC address {mac}");
        };
        let place = match endpoint.location {
            Location::Local => "here".to_owned(),
            Location::Port(_) => "behind a port here".to_owned(),
            Location::Remote(node) => format!("on {node}"),
        };
        format!("{network}, endpoint {} ({mac}) {place}", endpoint.id)
    }

    /// An address by its network.
    #[must_use]
    pub fn address(&self, vni: u32, addr: IpAddr) -> String {
        format!("{}, address {addr}", self.network(vni))
    }

    /// A node by its row.
    #[must_use]
    pub fn node(&self, row: u32) -> String {
        let node = self.vteps.iter().find(|(_, index)| *index == row);
        node.map_or_else(|| format!("row {row}"), |(node, _)| format!("node {node}"))
    }

    /// An endpoint of this node by its slot.
    #[must_use]
    pub fn slot(&self, slot: u32) -> String {
        let endpoint = self.slots.iter().find(|(_, index)| *index == slot);
        endpoint.map_or_else(|| format!("slot {slot}"), |(id, _)| format!("endpoint {id} here"))
    }

    fn planned(&self, vni: u32) -> Option<&Network> {
        self.plan.networks.get(&Vni::new(vni).ok()?)
    }
}

/// An interface by its index.
#[must_use]
pub fn device(ifindex: u32) -> String {
    let name = netlink::name_at(ifindex);
    name.map_or_else(|| format!("interface {ifindex}, which is gone"), |name| format!("interface {name}"))
}
