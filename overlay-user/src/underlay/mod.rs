//! The underlay: which interface and address this node tunnels from, and how other nodes are
//! reached, kept current from netlink events.

mod follow;
mod peer;
mod prefixes;
mod uplink;

use std::{collections::BTreeSet, net::IpAddr, str::FromStr};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::follow::Follower;
pub use self::prefixes::follow_prefixes;
use crate::datapath::Underlay;

/// How the uplink is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Selector {
    /// The interface of the default route, that of IPv4 if there is one.
    #[default]
    DefaultRoute,
    /// An interface by name; its first global address, an IPv4 one if it has any.
    Interface(String),
    /// The interface that has this address.
    Address(IpAddr),
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
    /// Finds the uplink and begins to follow it until `cancel`, or until the follower is dropped.
    ///
    /// An uplink chosen by the default route stays the uplink if that route moves to another
    /// interface later: this node's tunnel address is known to others. One that goes away and comes
    /// back under its name is found again; meanwhile the last underlay stands.
    ///
    /// The kernel keeps the next hops to the peers resolved, also after this ends: pinned programs
    /// go on forwarding to them.
    ///
    /// # Errors
    /// If there is no such interface or address; the text names those there are.
    pub async fn start(
        selector: Selector,
        port: u16,
        cancel: CancellationToken,
    ) -> Result<Self, UnderlayError> {
        let (peers, wanted) = watch::channel(BTreeSet::new());
        let (follower, current) = Follower::begin(selector, port, wanted).await?;
        tokio::spawn(async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = follower.run() => {}
            }
        });
        Ok(Self { current, peers })
    }

    /// The underlay as it is. It changes when a link, address, route or neighbour changes.
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
