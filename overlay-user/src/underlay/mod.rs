//! The underlay: which interface and address this node tunnels from, and how other nodes are
//! reached, kept current from netlink events.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::datapath::Underlay;

/// How the uplink is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Selector {
    /// The interface of the default route.
    #[default]
    DefaultRoute,
    /// An interface by name; its first global address.
    Interface(String),
    /// The interface that has this address.
    Address(Ipv4Addr),
}

impl FromStr for Selector {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.parse().map_or_else(|_| Self::Interface(text.to_owned()), Self::Address))
    }
}

/// Why there is no underlay to work on; the text says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UnderlayError(pub String);

/// Follows the underlay in the calling process's network namespace.
pub struct UnderlayFollower {
    current: watch::Receiver<Underlay>,
    peers: watch::Sender<BTreeSet<IpAddr>>,
}

impl UnderlayFollower {
    /// Finds the uplink and begins to follow it until `cancel`.
    pub async fn start(
        _selector: Selector,
        _port: u16,
        _cancel: CancellationToken,
    ) -> Result<Self, UnderlayError> {
        todo!()
    }

    /// The underlay as it is; changes when a link, address, route or neighbour changes.
    #[must_use]
    pub fn current(&self) -> watch::Receiver<Underlay> {
        self.current.clone()
    }

    /// Says which tunnel addresses to keep routes and neighbours for.
    pub fn set_peers(&self, peers: BTreeSet<IpAddr>) {
        self.peers.send_if_modified(|old| {
            let changed = *old != peers;
            *old = peers;
            changed
        });
    }
}
