//! A node's sign of life: a key under a lease that ends when nobody keeps it.

use std::time::Duration;

use etcd_client::{Compare, CompareOp, KeyValue, PutOptions, TxnOp};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Store, StoreError,
    error::CallError,
    value::{decoded, encoded},
};
use crate::state::{AliveRecord, NodeName};

/// How long a node is taken to live after its last sign.
pub(super) const ALIVE_SECONDS: i64 = 15;

/// How often the lease is renewed.
const RENEW: Duration = Duration::from_secs(5);

/// The least time between two values of the key: each is news to every node, and with every change in
/// the cluster every node has one.
const NEWS: Duration = Duration::from_secs(30);

/// Before trying again to get a lease.
const PAUSE: Duration = Duration::from_secs(1);

/// What there is to give the lease up on leaving.
const FAREWELL: Duration = Duration::from_secs(2);

/// Why a lease is no longer kept.
enum End {
    /// It has ended: another is needed.
    LeaseEnded,
    /// A later incarnation of the node has taken over.
    Superseded(u64),
}

// === impl Store ===

impl Store {
    /// Keeps `alive/<node>` under a lease until `cancel`, made anew when it is lost. Ends by itself
    /// when a later incarnation of the node took over.
    pub async fn stay_alive(
        &self,
        node: NodeName,
        incarnation: u64,
        mut applied: watch::Receiver<i64>,
        cancel: CancellationToken,
    ) {
        let mut lease = None;
        let stay = self.stay(&node, incarnation, &mut applied, &mut lease);
        if cancel.run_until_cancelled(stay).await.is_none()
            && let Some(lease) = lease
        {
            // If it cannot be given up it ends by itself.
            let _ = timeout(FAREWELL, self.call().revoke(lease)).await;
        }
    }

    /// Keeps one lease after another until the node is taken over.
    async fn stay(
        &self,
        node: &NodeName,
        incarnation: u64,
        applied: &mut watch::Receiver<i64>,
        lease: &mut Option<i64>,
    ) {
        loop {
            let error = match self.call().grant(ALIVE_SECONDS).await {
                Ok(granted) => match self.keep(node, incarnation, applied, *lease.insert(granted)).await {
                    Ok(End::LeaseEnded) => continue,
                    Ok(End::Superseded(other)) => {
                        tracing::error!(%node, incarnation, other, "another overlayd has taken this node over");
                        return;
                    }
                    Err(error) => error,
                },
                Err(error) => error.into(),
            };
            tracing::debug!(%node, %error, "no sign of life was given");
            sleep(PAUSE).await;
        }
    }

    /// Keeps one lease and the key under it.
    async fn keep(
        &self,
        node: &NodeName,
        incarnation: u64,
        applied: &mut watch::Receiver<i64>,
        lease: i64,
    ) -> Result<End, StoreError> {
        let mut record = AliveRecord { incarnation, applied: *applied.borrow_and_update() };
        let mut told = Instant::now();
        loop {
            if told.elapsed() >= NEWS {
                record.applied = *applied.borrow_and_update();
                told = Instant::now();
            }
            if let Some(end) = self.give_sign(node, &record, lease).await? {
                return Ok(end);
            }
            sleep(RENEW).await;
            match self.call().keep_alive(lease).await {
                Ok(()) => {}
                Err(CallError::LeaseEnded) => return Ok(End::LeaseEnded),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes the key if it is not as it should be, unless a later incarnation has. In a store that
    /// does not know the node nothing is written.
    async fn give_sign(
        &self,
        node: &NodeName,
        record: &AliveRecord,
        lease: i64,
    ) -> Result<Option<End>, StoreError> {
        let call = self.call();
        let (key, value) = (self.keys().alive(node), encoded(record)?);
        loop {
            let found = call.get(&key).await?;
            if let Some(found) = &found {
                let other = decoded::<AliveRecord>(found.value()).map_or(0, |other| other.incarnation);
                if other > record.incarnation {
                    return Ok(Some(End::Superseded(other)));
                }
                if found.value() == value && found.lease() == lease {
                    return Ok(None);
                }
            }
            let revision = found.as_ref().map_or(0, KeyValue::mod_revision);
            let compares = vec![
                Compare::mod_revision(key.as_str(), CompareOp::Equal, revision),
                Compare::create_revision(self.keys().node(node), CompareOp::Greater, 0),
            ];
            let put = TxnOp::put(key.as_str(), value.clone(), Some(PutOptions::new().with_lease(lease)));
            if call.commit(compares, vec![put], None).await?.is_some() {
                return Ok(None);
            }
            if call.get(&self.keys().node(node)).await?.is_none() {
                return Err(StoreError::NotFound(format!("there is no node {node}")));
            }
        }
    }
}
