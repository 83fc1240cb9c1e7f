//! The cluster's own record: made by its first node, and looked at before anything new is written.

use etcd_client::{Compare, CompareOp, TxnOp};
use uuid::Uuid;

use super::{
    Store, StoreError,
    call::Call,
    value::{decoded, encoded},
};
use crate::state::{MetaRecord, SCHEMA};

// === impl Store ===

impl Store {
    /// Checks that this is the cluster that was seen, and makes it one if it is new.
    pub(super) async fn found_cluster(&self, call: &Call<'_>) -> Result<(), StoreError> {
        self.inner.identity.check_forward().map_err(StoreError::Conflict)?;
        let key = self.keys().meta();
        if self.seen().cluster.is_none() && call.get(&key).await?.is_none() {
            let value = encoded(&MetaRecord { schema: SCHEMA, cluster: Uuid::new_v4() })?;
            let is_new = Compare::create_revision(key.as_str(), CompareOp::Equal, 0);
            // If it did not hold, another node was first.
            call.commit(vec![is_new], vec![TxnOp::put(key.as_str(), value, None)], None).await?;
        }
        let found = call.get(&key).await?;
        let meta = found.and_then(|kv| decoded(kv.value()));
        self.inner.identity.check_meta(&key, meta.as_ref()).map_err(StoreError::Conflict)
    }

    /// Checks that this is the cluster that was seen, if one was, and not an older copy of it.
    pub(super) async fn check_cluster(&self, call: &Call<'_>) -> Result<(), StoreError> {
        self.inner.identity.check_forward().map_err(StoreError::Conflict)?;
        if self.seen().cluster.is_none() {
            return Ok(());
        }
        let key = self.keys().meta();
        let meta = call.get(&key).await?.and_then(|kv| decoded(kv.value()));
        self.inner.identity.check_meta(&key, meta.as_ref()).map_err(StoreError::Conflict)
    }
}
