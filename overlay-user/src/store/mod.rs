//! etcd: reading it as a followed snapshot, and changing it by compare-and-swap transactions.
//!
//! Keys are `/overlay/v1/<cluster>/…`; ARCHITECTURE.md has the table. No call blocks for longer
//! than ten seconds.

use std::{net::IpAddr, path::PathBuf, sync::Arc};

use ipnet::IpNet;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    MacAddr, Vni,
    state::{EndpointId, EndpointRecord, NetworkName, NetworkRecord, NodeName, NodeRecord, State},
};

/// Where the store is and who we are to it.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Client URLs of the members.
    pub endpoints: Vec<String>,
    /// The cluster's name: part of every key.
    pub cluster: String,
    /// Files of PEM certificates and keys.
    pub tls: Option<TlsFiles>,
    /// etcd user and password.
    pub credentials: Option<(String, String)>,
}

/// Files for TLS to the store.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Authorities to trust.
    pub ca: Option<PathBuf>,
    /// Our certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// What following the store has come to.
#[derive(Clone, Debug)]
pub struct Followed {
    /// The newest state read; the last good one while the store is away.
    pub state: Arc<State>,
    /// Whether it is current.
    pub health: StoreHealth,
}

/// Whether the followed state is current.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreHealth {
    /// Nothing was read yet; why, if an attempt failed.
    Connecting(Option<String>),
    /// The watch is live.
    Synced,
    /// The store went away; the last error. Forwarding goes on with the last state.
    Lost(String),
    /// The store is not the one we knew (wiped, or restored from an older copy): nothing is applied.
    Frozen(String),
}

/// A network to be created. What is not given is chosen.
#[derive(Clone, Debug)]
pub struct NewNetwork {
    /// Its name.
    pub name: NetworkName,
    /// Its subnet; else a free pool.
    pub subnet: Option<IpNet>,
    /// Its gateway; else the first address of the subnet.
    pub gateway: Option<IpAddr>,
    /// Where addresses are taken from; else the subnet.
    pub range: Option<IpNet>,
    /// Its VNI; else a free one.
    pub vni: Option<Vni>,
    /// MTU of its endpoints' interfaces.
    pub mtu: Option<u16>,
    /// No way out to the world.
    pub internal: bool,
    /// The subnet may overlap that of another network.
    pub allow_overlap: bool,
}

/// An address claimed for an endpoint under a lease, until it is bound or released.
#[derive(Debug)]
pub struct Reservation {
    /// The network.
    pub network: NetworkName,
    /// The endpoint it is for.
    pub endpoint: EndpointId,
    /// The address, with the subnet's prefix length.
    pub address: IpNet,
}

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No answer in time; the text has the last error and since when.
    #[error("etcd is unreachable: {0}; running endpoints are not affected")]
    Unreachable(String),
    /// It is there already, or taken; the text names the holder.
    #[error("{0}")]
    Conflict(String),
    /// There is no such thing; the text names it.
    #[error("{0}")]
    NotFound(String),
    /// The request makes no sense; the text says why.
    #[error("{0}")]
    Invalid(String),
}

/// A handle on the store; clones share its connection.
#[derive(Clone)]
pub struct Store {
    options: Arc<StoreOptions>,
}

impl Store {
    /// Checks the options. Connects when first used.
    pub fn new(options: StoreOptions) -> Result<Self, StoreError> {
        Ok(Self { options: Arc::new(options) })
    }

    /// Follows the store until `cancel`: reads everything at one revision, then watches from the
    /// next; on any doubt reads again. Never gives up.
    #[must_use]
    pub fn follow(&self, cancel: CancellationToken) -> watch::Receiver<Followed> {
        let _ = (&self.options, cancel);
        todo!()
    }

    /// Writes `meta` if this is the first node, and this node's record with the next incarnation.
    /// Returns the incarnation. Refuses if another live daemon has the name.
    pub async fn join(&self, _node: &NodeName, _record: NodeRecord) -> Result<u64, StoreError> {
        todo!()
    }

    /// Keeps `alive/<node>` under a lease until `cancel`, made anew when it is lost.
    pub async fn stay_alive(
        &self,
        _node: NodeName,
        _incarnation: u64,
        _applied: watch::Receiver<i64>,
        _cancel: CancellationToken,
    ) {
        todo!()
    }

    /// Creates a network in one transaction.
    pub async fn create_network(&self, _new: NewNetwork) -> Result<NetworkRecord, StoreError> {
        todo!()
    }

    /// Removes a network nobody is on; the error names who is.
    pub async fn remove_network(&self, _name: &NetworkName) -> Result<(), StoreError> {
        todo!()
    }

    /// Claims `wanted`, or any free address, for an endpoint of `node`.
    pub async fn reserve_address(
        &self,
        _network: &NetworkName,
        _node: &NodeName,
        _endpoint: &EndpointId,
        _name: Option<&str>,
        _wanted: Option<IpAddr>,
    ) -> Result<Reservation, StoreError> {
        todo!()
    }

    /// Makes the reservation permanent and publishes the endpoint, in one transaction. Returns its revision.
    pub async fn bind_endpoint(
        &self,
        _reservation: &Reservation,
        _record: &EndpointRecord,
    ) -> Result<i64, StoreError> {
        todo!()
    }

    /// Gives a reservation back.
    pub async fn release(&self, _reservation: Reservation) -> Result<(), StoreError> {
        todo!()
    }

    /// Withdraws an endpoint; its addresses cool down. Returns the revision. Without error if it is gone already.
    pub async fn remove_endpoint(&self, _network: &NetworkName, _id: &EndpointId) -> Result<i64, StoreError> {
        todo!()
    }

    /// Enters a third party's VTEP as a node.
    pub async fn add_static_node(
        &self,
        _name: &NodeName,
        _vtep: IpAddr,
        _port: u16,
    ) -> Result<(), StoreError> {
        todo!()
    }

    /// Enters an endpoint behind a third party's VTEP.
    pub async fn add_static_endpoint(
        &self,
        _network: &NetworkName,
        _node: &NodeName,
        _address: IpAddr,
        _mac: MacAddr,
        _names: Vec<String>,
    ) -> Result<EndpointId, StoreError> {
        todo!()
    }

    /// Removes a node, its endpoints and their addresses. Refuses a live node.
    pub async fn remove_node(&self, _name: &NodeName) -> Result<(), StoreError> {
        todo!()
    }
}
