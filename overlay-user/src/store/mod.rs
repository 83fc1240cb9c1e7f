//! etcd: reading it as a followed snapshot, and changing it by compare-and-swap transactions.
//!
//! Keys are `/overlay/v1/<cluster>/…`; ARCHITECTURE.md has the table. No call blocks for longer
//! than ten seconds.

mod address;
mod alive;
mod call;
mod cluster;
mod connection;
mod endpoint;
mod error;
mod follow;
mod holder;
mod identity;
mod keys;
mod left_out;
mod network;
mod node;
mod options;
mod pool;
mod port;
mod value;
mod watch;
mod withdraw;

use std::sync::Arc;

use tokio::sync::watch as tokio_watch;

pub use address::{Reservation, ReservedAddress};
pub use error::StoreError;
pub use follow::{Followed, StoreHealth};
pub use identity::Seen;
pub use network::{NetworkChange, NewNetwork};
pub use options::{StoreOptions, TlsFiles};

use self::{call::Call, connection::Connection, identity::Identity, keys::Keys};

/// A handle on the store; clones share its connection.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    options: Arc<StoreOptions>,
    keys: Keys,
    connection: Connection,
    identity: Identity,
    /// Raised whenever connections of before are of no use.
    resets: tokio_watch::Sender<u64>,
}

// === impl Store ===

impl Store {
    /// Checks the options. Connects when first used.
    pub fn new(options: StoreOptions) -> Result<Self, StoreError> {
        let options = Arc::new(options.checked()?);
        let keys = Keys::new(&options.cluster);
        let connection = Connection::new(Arc::clone(&options));
        let (identity, resets) = (Identity::default(), tokio_watch::Sender::default());
        Ok(Self { inner: Arc::new(Inner { options, keys, connection, identity, resets }) })
    }

    /// Connects anew, for commands and for what follows the store: this node's address has changed.
    pub async fn reconnect(&self) {
        self.inner.connection.reset().await;
        self.inner.resets.send_modify(|resets| *resets += 1);
    }

    /// Which cluster was seen in the store and up to which revision, by this process or, if it was
    /// [told](Self::expect), by an earlier one.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.inner.identity.seen()
    }

    /// Says what an earlier process saw in this store: a store that has less is not followed, and
    /// not joined either.
    pub fn expect(&self, seen: Seen) {
        self.inner.identity.expect(seen);
    }

    /// Begins what has to be done within one deadline.
    fn call(&self) -> Call<'_> {
        Call::new(&self.inner.connection)
    }

    fn keys(&self) -> &Keys {
        &self.inner.keys
    }
}
