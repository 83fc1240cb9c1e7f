//! What should be: a snapshot of the store, checked record by record.
//!
//! Everything in the store is untrusted. A record that does not hold up is left out and named in
//! [`State::rejected`]; the others are not affected.

mod decode;
mod endpoint;
mod key;
mod name;
mod network;
mod node;
mod policy;
mod port;
mod record;
mod record_set;
mod segment;
mod shown;
mod subnet;
mod text;

use std::{collections::BTreeMap, sync::Arc};

use imbl::{OrdMap, OrdSet};

use crate::MacAddr;

pub use decode::{MAX_VALUE, Record, RecordError, SCHEMA, decode};
pub use endpoint::{Addresses, Delivery, Endpoint, EndpointError, MOST_NAMES, Words};
pub use key::KeyError;
pub use name::{EndpointId, InterfaceName, NameError, NetworkName, NodeName, PoolId};
pub use network::{Network, NetworkError};
pub use node::{Node, NodeError, not_one_host};
pub use policy::{
    DEFAULT_BUM_RATE, Dscp, Flooding, MAX_BUM_RATE, ParseDscpError, ParseWordError, Policy, PolicyChange,
    PolicyError, Vlan,
};
pub use port::{LearnedMac, Port, PortDatapath, PortError};
pub use record::{
    AddressRecord, AddressState, AliveRecord, EndpointRecord, LearnedRecord, MetaRecord, NetworkRecord,
    NodeRecord, PoolRecord, PortRecord, RecordKey, SubnetRecord,
};
pub use record_set::{RawRecord, RecordSet};
pub use segment::{Endpoints, Segment};
pub use shown::{shown, shown_key};
pub use subnet::{AddressError, Subnet, family, same_family};
pub(crate) use text::checked_text;

/// The checked records of one revision of the store.
///
/// A copy costs next to nothing, and shares all that is equal with the state it was made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The store's revision this is: that of the newest change in it, or of the read it is from.
    pub revision: i64,
    /// Networks by name.
    pub networks: OrdMap<NetworkName, Network>,
    /// Nodes by name.
    pub nodes: OrdMap<NodeName, Node>,
    /// Endpoints by network.
    pub endpoints: Endpoints,
    /// Gateway ports by network and identity.
    pub ports: OrdMap<(NetworkName, EndpointId), Port>,
    /// MAC addresses learned behind them.
    pub learned: OrdMap<(NetworkName, MacAddr), LearnedMac>,
    /// Nodes whose lease is live.
    pub alive: OrdSet<NodeName>,
    /// Keys left out (relative to the cluster's prefix), and why; at most [`MOST_REJECTED`].
    pub rejected: Arc<BTreeMap<String, String>>,
    /// How many more are left out.
    pub rejected_more: usize,
}

/// Most keys that are named with the reason they are left out for: anybody who writes to the store can
/// make more, and each costs every node time with every change.
pub const MOST_REJECTED: usize = 1000;

impl State {
    /// The endpoints of a network, in the order of their MAC addresses.
    pub fn endpoints_of(&self, network: &NetworkName) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.endpoints.segment(network).into_iter().flat_map(Segment::iter)
    }

    /// The endpoint of a network with an identity. Looks at all of the network's.
    #[must_use]
    pub fn endpoint(&self, network: &NetworkName, id: &EndpointId) -> Option<&Arc<Endpoint>> {
        self.endpoints_of(network).find(|endpoint| endpoint.id == *id)
    }

    /// The gateway ports of a network.
    pub fn ports_of(&self, network: &NetworkName) -> impl Iterator<Item = (&EndpointId, &Port)> {
        self.ports
            .range((network.clone(), EndpointId::least())..)
            .take_while(move |((of, _), _)| of == network)
            .map(|((_, id), port)| (id, port))
    }

    /// The MAC addresses learned in a network.
    pub fn learned_of(&self, network: &NetworkName) -> impl Iterator<Item = (MacAddr, &LearnedMac)> {
        self.learned
            .range((network.clone(), MacAddr::default())..)
            .take_while(move |((of, _), _)| of == network)
            .map(|((_, mac), learned)| (*mac, learned))
    }
}
