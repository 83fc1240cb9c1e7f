//! The network and IPAM driver `overlayd`, as Docker calls it: HTTP on a socket that Docker finds by its name.
//!
//! Docker waits for an answer without a limit of its own, repeats what it is not sure of, and forgets nothing that a
//! driver told it. So each request has a deadline, may come twice and in any order, and none asks Docker
//! anything: it would not answer before it has been answered itself.

mod asked;
mod inherited;
mod ipam_driver;
mod message;
mod network_driver;
mod options;
mod pool;
mod server;
mod socket;
mod turns;

use std::{sync::Arc, time::Duration};

use ipnet::IpNet;
use tokio::{sync::watch, time::timeout};

pub use self::{
    inherited::Inherited,
    options::NETWORK,
    server::{refuse, router, serve},
    socket::{PluginSocket, PluginSocketError},
};
use self::{
    pool::{Origin, PoolRef},
    turns::Turns,
};
use super::{DockerNetwork, DockerNetworkId, Registry};
use crate::{
    api::{ApiError, Context, Kind},
    config::DockerScope,
    state::{Network, NetworkName, State},
};

/// The driver's name, and that of its address space.
const OVERLAYD: &str = "overlayd";

/// How long a network is waited for that was made on another node a moment ago.
const FOLLOWED_PATIENCE: Duration = Duration::from_secs(3);

/// How long a network is waited for that Docker has made and not told the name of yet.
const PUBLISHED_PATIENCE: Duration = Duration::from_secs(5);

/// What the requests are answered by.
pub struct Plugin {
    context: Arc<Context>,
    registry: Arc<Registry>,
    scope: DockerScope,
    /// Docker's events are followed: the name of a network that is made there will be told.
    names_are_told: bool,
    /// Prefixes that this host has routes to.
    prefixes: watch::Receiver<Vec<IpNet>>,
    turns: Turns,
}

impl Plugin {
    /// The driver of a node. `names_are_told`: who follows Docker's events publishes the networks that are made
    /// there.
    #[must_use]
    pub fn new(
        context: Arc<Context>,
        registry: Arc<Registry>,
        scope: DockerScope,
        names_are_told: bool,
        prefixes: watch::Receiver<Vec<IpNet>>,
    ) -> Arc<Self> {
        Arc::new(Self { context, registry, scope, names_are_told, prefixes, turns: Turns::default() })
    }

    /// Looks something up in the followed state, and waits for a while until it is there.
    async fn followed<T>(&self, patience: Duration, find: impl Fn(&State) -> Option<T>) -> Option<T> {
        let mut known = self.context.known.clone();
        let found = known.wait_for(|known| find(&known.state).is_some());
        let found = timeout(patience, found).await.ok()?.ok()?;
        find(&found.state)
    }

    /// A network by its name.
    async fn network_named(&self, name: &NetworkName) -> Result<Network, ApiError> {
        let find = |state: &State| state.networks.get(name).cloned();
        self.followed(FOLLOWED_PATIENCE, find).await.ok_or_else(|| {
            ApiError::not_found(format!(
                "there is no network {name}: `overlayctl network create {name}` makes it"
            ))
        })
    }

    /// The network that a pool is of; `None` for a claim that is no network's yet.
    fn network_of_pool(&self, pool: &PoolRef) -> Option<(NetworkName, Network)> {
        network_of_pool(&self.context.state(), pool)
    }

    /// The network that Docker has under an identity. One that it has not told the name of is waited for.
    async fn network_of(&self, id: &DockerNetworkId) -> Result<NetworkName, ApiError> {
        let mut content = self.registry.content();
        let settled =
            content.wait_for(|content| !matches!(content.networks.get(id), Some(DockerNetwork::Pending(_))));
        if let Ok(Ok(content)) = timeout(PUBLISHED_PATIENCE, settled).await {
            if let Some(DockerNetwork::Known(name)) = content.networks.get(id) {
                return Ok(name.clone());
            }
        } else {
            return Err(unpublished());
        }
        // Docker with a store of its own tells only the node that made a network, which may be a moment ago.
        let patience = match self.scope {
            DockerScope::Global => FOLLOWED_PATIENCE,
            DockerScope::Local => Duration::ZERO,
        };
        let found = self.followed(patience, |state| network_in(state, id)).await;
        found.ok_or_else(|| {
            ApiError::not_found(format!(
                "overlayd on {} does not know Docker's network {:.12}: remove it with `docker network rm` and make it \
                 again",
                self.context.node, id
            ))
        })
    }
}

/// The network that all Dockers have under an identity.
fn network_in(state: &State, id: &DockerNetworkId) -> Option<NetworkName> {
    let found = state.networks.iter().find(|(_, network)| network.docker.as_deref() == Some(id.as_str()));
    found.map(|(name, _)| name.clone())
}

fn network_of_pool(state: &State, pool: &PoolRef) -> Option<(NetworkName, Network)> {
    let found = match &pool.origin {
        Origin::Network(name) => state.networks.get_key_value(name),
        Origin::Claim(id) => state.networks.iter().find(|(_, network)| network.pools.contains(id)),
    };
    found.map(|(name, network)| (name.clone(), network.clone()))
}

/// The error for a network whose name is not told in time.
fn unpublished() -> ApiError {
    ApiError::new(
        Kind::Unavailable,
        format!(
            "the network is not known to the other nodes yet, after {} s: try again; `overlayctl status` may say why",
            PUBLISHED_PATIENCE.as_secs()
        ),
    )
}
