//! Whether the store is the one that was seen before.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

use crate::state::{MetaRecord, SCHEMA};

/// What was seen of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The cluster, once one was seen.
    pub cluster: Option<Uuid>,
    /// The largest revision.
    pub revision: i64,
}

/// What was seen, for everything that uses one store.
#[derive(Debug, Default)]
pub(super) struct Identity {
    known: Mutex<Known>,
    /// The cluster that a process after this one will be told to expect.
    kept: watch::Sender<Option<Uuid>>,
}

#[derive(Debug, Default)]
struct Known {
    seen: Seen,
    /// The store went back in time. It stays so: its revision grows beyond what was seen again.
    went_back: Option<String>,
}

/// What all texts about a store that is not ours end with.
const CURE: &str = "Nothing is applied; forwarding goes on with the last state. Restore etcd's newest snapshot or \
                    correct --etcd, and restart overlayd; to take the store as it is now instead, have every node \
                    write what it knows into it: `overlayctl repair --republish`";

// === impl Identity ===

impl Identity {
    pub fn seen(&self) -> Seen {
        self.lock().seen
    }

    pub fn expect(&self, seen: Seen) {
        *self.lock() = Known { seen, went_back: None };
    }

    pub fn note_kept(&self, cluster: Option<Uuid>) {
        self.kept.send_replace(cluster);
    }

    pub async fn until_kept(&self) {
        let mut kept = self.kept.subscribe();
        // It ends with this.
        let _ = kept.wait_for(|kept| *kept == self.seen().cluster).await;
    }

    /// Checks a whole read of the store at `revision`, begun when `floor` had been seen, and
    /// remembers it.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    pub fn check(
        &self,
        key: &str,
        meta: Option<&MetaRecord>,
        revision: i64,
        floor: i64,
    ) -> Result<(), String> {
        self.check_same(key, meta)?;
        let mut known = self.lock();
        if known.went_back.is_none() && revision < floor {
            known.went_back = Some(format!(
                "etcd went back in time: it is at revision {revision} and was at {floor}, so it was restored from an \
                 older copy. {CURE}"
            ));
        }
        if let Some(text) = known.went_back.clone() {
            return Err(text);
        }
        known.remember(meta, revision);
        Ok(())
    }

    /// Checks that the store is not one that went back in time: what is missing in it is in use.
    pub fn check_forward(&self) -> Result<(), String> {
        self.lock().went_back.clone().map_or(Ok(()), Err)
    }

    /// Remembers changes of the store that was checked.
    pub fn remember(&self, meta: Option<&MetaRecord>, revision: i64) {
        self.lock().remember(meta, revision);
    }

    /// Checks that a store that may still be empty is the one seen.
    pub fn check_same(&self, key: &str, meta: Option<&MetaRecord>) -> Result<(), String> {
        if meta.is_none() && self.seen().cluster.is_none() { Ok(()) } else { self.check_meta(key, meta) }
    }

    /// Checks the cluster's own record; `None` is one that is not there or cannot be read.
    pub fn check_meta(&self, key: &str, meta: Option<&MetaRecord>) -> Result<(), String> {
        let Some(meta) = meta else {
            return Err(self.gone(key));
        };
        if meta.schema != SCHEMA {
            return Err(format!(
                "the store's records have schema {}, this overlayd knows {SCHEMA}: use the version of overlayd that \
                 the other nodes have",
                meta.schema
            ));
        }
        match self.seen().cluster {
            Some(known) if known != meta.cluster => Err(format!(
                "etcd holds another cluster: {key} says {}, it was {known}. {CURE}",
                meta.cluster
            )),
            _ => Ok(()),
        }
    }

    /// The error for a cluster's own record that is gone.
    pub fn gone(&self, key: &str) -> String {
        match self.seen().cluster {
            Some(known) => format!(
                "etcd does not know the cluster {known} any more: {key} is gone, so it was wiped or is another etcd. \
                 {CURE}"
            ),
            None => format!("{key} cannot be read: delete it if the cluster is new"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Nothing panics while it is held.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Known ===

impl Known {
    fn remember(&mut self, meta: Option<&MetaRecord>, revision: i64) {
        self.seen.cluster = meta.map(|m| m.cluster).or(self.seen.cluster);
        self.seen.revision = self.seen.revision.max(revision);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(n: u128) -> MetaRecord {
        MetaRecord { schema: SCHEMA, cluster: Uuid::from_u128(n) }
    }

    #[test]
    fn a_new_store_may_be_empty_and_then_have_a_cluster() {
        let identity = Identity::default();
        assert_eq!(identity.check("meta", None, 1, 0), Ok(()));
        assert_eq!(identity.check("meta", Some(&meta(1)), 2, 1), Ok(()));
        assert_eq!(identity.seen(), Seen { cluster: Some(Uuid::from_u128(1)), revision: 2 });
    }

    #[test]
    fn a_store_that_is_not_the_one_seen_is_told() {
        let identity = Identity::default();
        identity.expect(Seen { cluster: Some(Uuid::from_u128(1)), revision: 9 });
        for (meta, revision, says) in [
            (None, 9, "is gone"),
            (None, 1, "is gone"),
            (Some(meta(2)), 9, "another cluster"),
            (Some(MetaRecord { schema: 2, ..meta(1) }), 9, "schema 2"),
        ] {
            let text = identity.check("meta", meta.as_ref(), revision, 9).unwrap_err();
            assert!(text.contains(says), "{text}");
        }
        assert_eq!(identity.check("meta", Some(&meta(1)), 9, 9), Ok(()));
    }

    #[test]
    fn a_store_that_went_back_stays_so_when_it_grows() {
        let identity = Identity::default();
        identity.expect(Seen { cluster: Some(Uuid::from_u128(1)), revision: 9 });
        let text = identity.check("meta", Some(&meta(1)), 8, 9).unwrap_err();
        assert!(text.contains("at revision 8 and was at 9"), "{text}");
        assert_eq!(identity.check("meta", Some(&meta(1)), 20, 9), Err(text));
    }
}
