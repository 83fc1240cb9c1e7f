//! Who is on each network: maps that share what they have in common, so that a million endpoints are
//! handed on, kept beside an older state and compared with it for the price of what has changed.

use std::sync::Arc;

use imbl::{OrdMap, ordmap::DiffItem};

use super::{Endpoint, NetworkName, NodeName};
use crate::MacAddr;

/// The endpoints of all networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    segments: OrdMap<NetworkName, Segment>,
    len: usize,
}

/// The endpoints of one network: those that see one Ethernet segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    endpoints: OrdMap<MacAddr, Arc<Endpoint>>,
    /// How many of them each node has; none is not there.
    nodes: OrdMap<NodeName, usize>,
}

// === impl Endpoints ===

impl Endpoints {
    /// Adds an endpoint, in the place of one with its MAC address.
    pub fn insert(&mut self, network: &NetworkName, endpoint: Arc<Endpoint>) {
        let segment = self.segments.entry(network.clone()).or_default();
        let node = endpoint.node.clone();
        let before = segment.endpoints.insert(endpoint.mac, endpoint);
        *segment.nodes.entry(node).or_default() += 1;
        match before {
            Some(before) => segment.count_out(&before.node),
            None => self.len += 1,
        }
    }

    /// Takes the endpoint with a MAC address away.
    pub fn remove(&mut self, network: &NetworkName, mac: MacAddr) -> Option<Arc<Endpoint>> {
        let segment = self.segments.get_mut(network)?;
        let endpoint = segment.endpoints.remove(&mac)?;
        segment.count_out(&endpoint.node);
        if segment.endpoints.is_empty() {
            self.segments.remove(network);
        }
        self.len -= 1;
        Some(endpoint)
    }

    /// Those of a network; `None` if it has none.
    #[must_use]
    pub fn segment(&self, network: &NetworkName) -> Option<&Segment> {
        self.segments.get(network)
    }

    /// The endpoint of a network with a MAC address.
    #[must_use]
    pub fn get(&self, network: &NetworkName, mac: MacAddr) -> Option<&Arc<Endpoint>> {
        self.segments.get(network)?.endpoints.get(&mac)
    }

    /// Those of a node, with their networks. Networks it has none in cost nothing.
    pub fn of_node(&self, node: &NodeName) -> impl Iterator<Item = (&NetworkName, &Arc<Endpoint>)> {
        let its = self.segments.iter().filter(move |(_, segment)| segment.nodes.contains_key(node));
        its.flat_map(move |(network, segment)| {
            segment.iter().filter(move |endpoint| endpoint.node == *node).map(move |e| (network, e))
        })
    }

    /// All, by network and MAC address.
    pub fn iter(&self) -> impl Iterator<Item = (&NetworkName, &Arc<Endpoint>)> {
        self.segments.iter().flat_map(|(network, segment)| segment.iter().map(move |e| (network, e)))
    }

    /// Tells `each` what differs in `other`, by network: what is here, and what is there in its place. Costs
    /// as much as there are differences.
    pub fn compare(
        &self,
        other: &Self,
        mut each: impl FnMut(&NetworkName, Option<&Arc<Endpoint>>, Option<&Arc<Endpoint>>),
    ) {
        let nobody = Segment::default();
        for item in self.segments.diff(&other.segments) {
            let (network, here, there) = match item {
                DiffItem::Add(network, there) => (network, &nobody, there),
                DiffItem::Remove(network, here) => (network, here, &nobody),
                DiffItem::Update { old: (network, here), new: (_, there) } => (network, here, there),
            };
            for item in here.endpoints.diff(&there.endpoints) {
                match item {
                    DiffItem::Add(_, there) => each(network, None, Some(there)),
                    DiffItem::Remove(_, here) => each(network, Some(here), None),
                    DiffItem::Update { old: (_, here), new: (_, there) } => {
                        each(network, Some(here), Some(there));
                    }
                }
            }
        }
    }

    /// How many each node has.
    pub fn by_node(&self) -> impl Iterator<Item = (&NodeName, usize)> {
        self.segments.values().flat_map(|segment| segment.nodes.iter().map(|(node, count)| (node, *count)))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

// === impl Segment ===

impl Segment {
    /// By their MAC addresses.
    #[must_use]
    pub fn endpoints(&self) -> &OrdMap<MacAddr, Arc<Endpoint>> {
        &self.endpoints
    }

    /// How many of them each node has; none is not there.
    #[must_use]
    pub fn nodes(&self) -> &OrdMap<NodeName, usize> {
        &self.nodes
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.endpoints.values()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.endpoints.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    fn count_out(&mut self, node: &NodeName) {
        match self.nodes.get_mut(node) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.nodes.remove(node)),
        }
    }
}
