//! What this node must forward: a pure function of the state.
//!
//! A node carries the networks it has endpoints in, and no others.

mod changed;
mod planner;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

pub use changed::changed_stations;
use imbl::{OrdMap, OrdSet};
pub use planner::Planner;

use crate::{
    MacAddr, Vni,
    state::{
        self, Delivery, EndpointId, Flooding, InterfaceName, LearnedMac, NetworkName, NodeName, Policy,
        PortDatapath, State,
    },
};

/// What one node must forward. Equal states give equal plans. A copy costs next to nothing, and shares
/// with the state and with older plans what is equal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The other nodes that have endpoints in this node's networks.
    pub vteps: OrdMap<NodeName, Vtep>,
    /// The networks with endpoints on this node.
    pub networks: BTreeMap<Vni, Network>,
    /// Tunnel addresses of every node of the cluster, this one included: no endpoint may send
    /// VXLAN to them.
    pub protected: OrdSet<IpAddr>,
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
    /// This node.
    pub node: NodeName,
    /// The other nodes with endpoints in it: who may send into it, and who gets its broadcasts.
    pub members: OrdSet<NodeName>,
    /// Every endpoint in it, wherever it is.
    pub stations: OrdMap<MacAddr, Arc<state::Endpoint>>,
    /// Those of them that are on this node.
    pub local: OrdMap<MacAddr, Arc<state::Endpoint>>,
    /// Every MAC address learned behind a gateway port.
    pub learned: BTreeMap<MacAddr, LearnedMac>,
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

/// One endpoint, as a network's forwarding sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint<'a> {
    /// Its identity in the store; that of its port for a learned MAC address.
    pub id: &'a EndpointId,
    /// Its addresses, in order.
    pub addresses: &'a [IpAddr],
    /// Where it is.
    pub location: Location<'a>,
    /// How frames from the wire reach it, if it is here.
    pub delivery: Delivery,
    /// It was learned behind a gateway port: nobody has told its addresses.
    pub learned: bool,
}

/// Where an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location<'a> {
    /// On this node, behind the interface [`EndpointId::host_device`].
    Local,
    /// Behind a gateway port of this node.
    Port(&'a EndpointId),
    /// On another node.
    Remote(&'a NodeName),
}

// === impl Network ===

impl Network {
    /// A network with nobody on it.
    #[must_use]
    pub fn new(name: NetworkName, node: NodeName, mtu: Option<u16>, policy: Policy) -> Self {
        Self {
            name,
            mtu,
            policy,
            node,
            members: OrdSet::new(),
            stations: OrdMap::new(),
            local: OrdMap::new(),
            learned: BTreeMap::new(),
            ports: BTreeMap::new(),
            has_ports: false,
        }
    }

    /// Adds an endpoint.
    pub fn insert(&mut self, endpoint: Arc<state::Endpoint>) {
        if endpoint.node == self.node {
            self.local.insert(endpoint.mac, Arc::clone(&endpoint));
        } else {
            self.members.insert(endpoint.node.clone());
        }
        self.stations.insert(endpoint.mac, endpoint);
    }

    /// Everybody in it: endpoints by their MAC addresses, then the hosts learned behind ports.
    pub fn endpoints(&self) -> impl Iterator<Item = (MacAddr, Endpoint<'_>)> {
        let stations = self.stations.iter().map(|(mac, station)| (*mac, self.station(station)));
        stations.chain(self.learned.iter().map(|(mac, learned)| (*mac, self.host(learned))))
    }

    /// Who has a MAC address.
    #[must_use]
    pub fn endpoint(&self, mac: MacAddr) -> Option<Endpoint<'_>> {
        let station = self.stations.get(&mac).map(|station| self.station(station));
        station.or_else(|| self.learned.get(&mac).map(|learned| self.host(learned)))
    }

    /// How its forwarding sees one of its `stations`.
    #[must_use]
    pub fn station<'a>(&self, station: &'a state::Endpoint) -> Endpoint<'a> {
        let state::Endpoint { id, node, addresses, delivery, .. } = station;
        let location = if *node == self.node { Location::Local } else { Location::Remote(node) };
        Endpoint { id, addresses, location, delivery: *delivery, learned: false }
    }

    /// How its forwarding sees a host behind a port.
    fn host<'a>(&self, LearnedMac { node, port }: &'a LearnedMac) -> Endpoint<'a> {
        let location = if *node == self.node { Location::Port(port) } else { Location::Remote(node) };
        Endpoint { id: port, addresses: &[], location, delivery: Delivery::Tc, learned: true }
    }

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
    /// Whether `other` differs from it, if at all, in nothing but who is on other nodes.
    #[must_use]
    pub fn differs_in_stations_only(&self, other: &Self) -> bool {
        let same = |one: &Network, other: &Network| {
            let Network { name, mtu, policy, node, members, stations: _, local, learned, ports, has_ports } =
                one;
            (name, mtu, policy, node) == (&other.name, &other.mtu, &other.policy, &other.node)
                && (members, local, learned) == (&other.members, &other.local, &other.learned)
                && (ports, has_ports) == (&other.ports, &other.has_ports)
        };
        (&self.vteps, &self.protected) == (&other.vteps, &other.protected)
            && self.networks.keys().eq(other.networks.keys())
            && self.networks.values().zip(other.networks.values()).all(|(one, other)| same(one, other))
    }

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

/// Computes the plan of `node`. A [`Planner`] computes the same from one state to the next for less.
#[must_use]
pub fn plan(state: &State, node: &NodeName) -> Plan {
    Planner::new(node.clone()).plan(state)
}

#[cfg(test)]
mod tests;
