//! What this node must forward: a pure function of the state.
//!
//! A node carries the networks it has endpoints in, and no others.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    MacAddr, Vni,
    state::{
        self, Delivery, EndpointId, Flooding, InterfaceName, NetworkName, NodeName, Policy, PortDatapath,
        State,
    },
};

/// What one node must forward. Equal states give equal plans.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The other nodes that have endpoints in this node's networks.
    pub vteps: BTreeMap<NodeName, Vtep>,
    /// The networks with endpoints on this node.
    pub networks: BTreeMap<Vni, Network>,
    /// Tunnel addresses of every node of the cluster, this one included: no endpoint may send
    /// VXLAN to them.
    pub protected: BTreeSet<IpAddr>,
}

/// A node's tunnel end point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vtep {
    /// Its tunnel address on the underlay.
    pub addr: IpAddr,
}

/// One network as this node carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its name.
    pub name: NetworkName,
    /// MTU of its endpoints' interfaces, in bytes; `None`: from the underlay's.
    pub mtu: Option<u16>,
    /// What its owner decided about its packets.
    pub policy: Policy,
    /// The other nodes with endpoints in it: who may send into it, and who gets its broadcasts.
    pub members: BTreeSet<NodeName>,
    /// Every endpoint in it, wherever it is, and every MAC address learned behind a gateway port.
    pub endpoints: BTreeMap<MacAddr, Endpoint>,
    /// Its gateway ports on this node.
    pub ports: BTreeMap<EndpointId, Port>,
    /// It has gateway ports, on whatever node.
    pub has_ports: bool,
}

/// One gateway port of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The interface.
    pub device: InterfaceName,
    /// What is asked for to carry its frames.
    pub datapath: PortDatapath,
    /// It has learned as many MAC addresses as it may.
    pub full: bool,
}

/// What becomes of a network's frames for everybody, by their kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloodingOf {
    /// Of broadcasts.
    pub broadcast: Flooding,
    /// Of multicast.
    pub multicast: Flooding,
    /// Of frames to a MAC address that no endpoint has.
    pub unknown_unicast: Flooding,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its identity in the store; that of its port for a learned MAC address.
    pub id: EndpointId,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Where it is.
    pub location: Location,
    /// How frames from the wire reach it, if it is here.
    pub delivery: Delivery,
    /// It was learned behind a gateway port: nobody has told its addresses.
    pub learned: bool,
}

/// Where an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// On this node, behind the interface [`EndpointId::host_device`].
    Local,
    /// Behind a gateway port of this node.
    Port(EndpointId),
    /// On another node.
    Remote(NodeName),
}

// === impl Network ===

impl Network {
    /// Whether it is on more other nodes than its owner lets it flood to.
    #[must_use]
    pub fn is_over_cap(&self) -> bool {
        self.policy.flood_cap.is_some_and(|cap| self.members.len() > cap as usize)
    }

    /// What becomes of its frames for everybody: its owner's decision, or nothing is flooded where
    /// there are more nodes than the cap.
    #[must_use]
    pub fn flooding(&self) -> FloodingOf {
        let Policy { broadcast, multicast, unknown_unicast, .. } = self.policy;
        if self.is_over_cap() {
            let drop = Flooding::Drop;
            return FloodingOf { broadcast: drop, multicast: drop, unknown_unicast: drop };
        }
        FloodingOf { broadcast, multicast, unknown_unicast }
    }
}

impl Plan {
    /// What its owners' decisions keep from being forwarded, one sentence each.
    pub fn capped(&self) -> impl Iterator<Item = String> {
        self.networks.values().filter(|network| network.is_over_cap()).map(|network| {
            format!(
                "network {} is on {} other nodes, more than its flood cap, so its broadcasts and multicast are \
                 dropped: raise it with `overlayctl network set {} --flood-cap N`",
                network.name,
                network.members.len(),
                network.name
            )
        })
    }
}

/// Computes the plan of `node`. Endpoints of nodes without a usable record are left out: there is
/// nowhere to send to.
#[must_use]
pub fn plan(state: &State, node: &NodeName) -> Plan {
    let mut plan = Plan { protected: state.nodes.values().map(|n| n.vtep).collect(), ..Plan::default() };
    if !state.nodes.contains_key(node) {
        return plan;
    }
    for (name, network) in &state.networks {
        let has_endpoint = state.endpoints_of(name).any(|(_, e)| e.node == *node);
        if !has_endpoint && !state.ports_of(name).any(|(_, port)| port.node == *node) {
            continue;
        }
        let mut carried = Network {
            name: name.clone(),
            mtu: network.mtu,
            policy: network.policy,
            members: BTreeSet::new(),
            endpoints: BTreeMap::new(),
            ports: BTreeMap::new(),
            has_ports: false,
        };
        for (id, endpoint) in state.endpoints_of(name) {
            let Some(at) = state.nodes.get(&endpoint.node) else {
                continue;
            };
            let location = if endpoint.node == *node {
                Location::Local
            } else {
                carried.members.insert(endpoint.node.clone());
                plan.vteps.insert(endpoint.node.clone(), Vtep { addr: at.vtep });
                Location::Remote(endpoint.node.clone())
            };
            let state::Endpoint { mac, addresses, delivery, .. } = endpoint.clone();
            carried
                .endpoints
                .insert(mac, Endpoint { id: id.clone(), addresses, location, delivery, learned: false });
        }
        add_ports(&mut plan, &mut carried, state, node);
        plan.networks.insert(network.vni, carried);
    }
    plan
}

/// Adds the gateway ports of a network and who was learned behind them. A node with a port is in the
/// network whether or not it has endpoints.
fn add_ports(plan: &mut Plan, carried: &mut Network, state: &State, node: &NodeName) {
    let mut counts: BTreeMap<&EndpointId, u32> = BTreeMap::new();
    for (mac, learned) in state.learned_of(&carried.name.clone()) {
        *counts.entry(&learned.port).or_default() += 1;
        let location = if learned.node == *node {
            Location::Port(learned.port.clone())
        } else {
            Location::Remote(learned.node.clone())
        };
        let (id, delivery) = (learned.port.clone(), Delivery::Tc);
        carried
            .endpoints
            .insert(mac, Endpoint { id, addresses: BTreeSet::new(), location, delivery, learned: true });
    }
    for (id, port) in state.ports_of(&carried.name.clone()) {
        let Some(at) = state.nodes.get(&port.node) else { continue };
        carried.has_ports = true;
        if port.node == *node {
            let full = counts.get(id).is_some_and(|count| *count >= port.max_macs);
            let port = Port { device: port.device.clone(), datapath: port.datapath, full };
            carried.ports.insert(id.clone(), port);
        } else {
            carried.members.insert(port.node.clone());
            plan.vteps.insert(port.node.clone(), Vtep { addr: at.vtep });
        }
    }
}

#[cfg(test)]
mod tests;
