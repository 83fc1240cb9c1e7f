//! etcd: reading it as a followed snapshot, and changing it by compare-and-swap transactions.
//!
//! Keys are `/overlay/v1/<cluster>/…`; ARCHITECTURE.md has the table. No call blocks for longer
//! than ten seconds.

mod address;
mod alive;
mod amend;
mod awaited;
mod call;
mod claim;
mod cluster;
mod connection;
mod docker_id;
mod endpoint;
mod error;
mod examine;
mod follow;
mod holder;
mod identity;
mod keys;
mod left_out;
mod members;
mod network;
mod node;
mod options;
mod pool;
mod port;
mod republish;
mod reread;
mod sieve;
mod stretch;
mod value;
mod vigilance;
mod watch;
mod withdraw;

use std::sync::Arc;

pub use address::{Reservation, ReservedAddress};
pub use claim::{ClaimedPool, NewPool};
pub use error::StoreError;
pub use examine::{Examined, Flaw};
pub use follow::{Followed, StoreHealth};
pub use identity::Seen;
pub use members::{Member, MemberStatus};
pub use network::{NetworkChange, NewNetwork};
pub use options::{StoreOptions, TlsFiles};
pub use republish::{Knowledge, Republished};
pub use vigilance::Vigilance;

use tokio::sync::Notify;

use self::{awaited::Awaited, call::Call, connection::Connection, identity::Identity, keys::Keys};

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
    awaited: Awaited,
    /// Everything is to be read again.
    read_again: Notify,
    /// Connections of before are of no use.
    reconnect: Notify,
}

// === impl Store ===

impl Store {
    /// Checks the options. Connects when first used.
    pub fn new(options: StoreOptions) -> Result<Self, StoreError> {
        let options = Arc::new(options.checked()?);
        let keys = Keys::new(&options.cluster);
        let connection = Connection::new(Arc::clone(&options));
        let inner = Inner {
            options,
            keys,
            connection,
            identity: Identity::default(),
            awaited: Awaited::default(),
            read_again: Notify::new(),
            reconnect: Notify::new(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Connects anew, for commands and for what follows the store: this node's address has changed.
    pub async fn reconnect(&self) {
        self.inner.connection.reset().await;
        self.inner.reconnect.notify_one();
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

    /// Says which cluster is kept on disk as the one that was seen.
    pub fn note_kept(&self, cluster: Option<uuid::Uuid>) {
        self.inner.identity.note_kept(cluster);
    }

    /// Waits until the cluster that is believed is [kept](Self::note_kept): a process that is killed after that
    /// does not come back to another.
    pub async fn until_kept(&self) {
        self.inner.identity.until_kept().await;
    }

    /// Begins what has to be done within one deadline.
    fn call(&self) -> Call<'_> {
        Call::new(&self.inner.connection)
    }

    fn keys(&self) -> &Keys {
        &self.inner.keys
    }
}
