//! This node's own records: who it is, and that it lives.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::{sync::watch, task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{Membership, Progress};
use crate::{
    datapath::{Mode, Underlay},
    state::{NodeName, NodeRecord},
    store::{Store, StoreError},
};

/// Waits between attempts to join, with jitter: all nodes of a cluster find etcd back at once.
const BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(500))
    .with_max_delay(Duration::from_secs(5))
    .without_max_times()
    .with_jitter();

/// Keeps this node in the cluster.
pub struct Member {
    pub node: NodeName,
    pub port: u16,
    pub mode: Mode,
    pub reason: String,
    pub store: Store,
    pub underlay: watch::Receiver<Underlay>,
    pub progress: watch::Receiver<Progress>,
    pub membership: watch::Sender<Membership>,
}

impl Member {
    /// Joins, and joins again when what the record says has changed, until `cancel`.
    pub async fn run(mut self, cancel: CancellationToken) {
        let (applied, applied_seen) = watch::channel(0);
        let forward = forward_applied(self.progress.clone(), applied);
        let joined = async {
            loop {
                let record = self.record();
                let Some(incarnation) = self.join(&record, &cancel).await else { return };
                let leave = cancel.child_token();
                let alive: JoinHandle<()> = tokio::spawn({
                    let (store, node, leave) = (self.store.clone(), self.node.clone(), leave.clone());
                    let applied = applied_seen.clone();
                    async move { store.stay_alive(node, incarnation, applied, leave).await }
                });
                let changed = self.outdated(&record, &cancel).await;
                leave.cancel();
                if alive.await.is_err() || !changed {
                    return;
                }
                tracing::info!("this node's address or MTU has changed: announcing it");
            }
        };
        tokio::select! { () = joined => {}, () = forward => {} }
    }

    /// The record as it should be now. `join` fills in the incarnation.
    fn record(&mut self) -> NodeRecord {
        let underlay = self.underlay.borrow_and_update();
        NodeRecord {
            vtep: underlay.addr.into(),
            port: self.port,
            mtu: Some(underlay.mtu),
            datapath: self.mode.name().to_owned(),
            reason: self.reason.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            incarnation: 0,
            is_static: false,
        }
    }

    /// Joins, however often it takes. `None` if cancelled.
    async fn join(&mut self, record: &NodeRecord, cancel: &CancellationToken) -> Option<u64> {
        let mut backoff = BACKOFF.build();
        let mut logged = None;
        loop {
            let joined = tokio::select! {
                joined = self.store.join(&self.node, record.clone()) => joined,
                () = cancel.cancelled() => return None,
            };
            let error = match joined {
                Ok(incarnation) => {
                    tracing::info!(incarnation, vtep = %record.vtep, "this node is in the cluster");
                    self.membership.send_replace(Membership::Joined(incarnation));
                    return Some(incarnation);
                }
                Err(error) => error,
            };
            let reason = error.to_string();
            if is_news(logged.as_ref(), &error) {
                tracing::warn!(reason, "this node could not join the cluster: trying on");
            }
            logged = Some(error);
            self.membership.send_replace(Membership::Joining(Some(reason)));
            let wait = backoff.next().unwrap_or(Duration::from_secs(5));
            tokio::select! { () = sleep(wait) => {}, () = cancel.cancelled() => return None }
        }
    }

    /// Waits until `record` no longer is what it should be; false if that will not happen any more.
    async fn outdated(&mut self, record: &NodeRecord, cancel: &CancellationToken) -> bool {
        loop {
            tokio::select! {
                changed = self.underlay.changed() => if changed.is_err() { return false },
                () = cancel.cancelled() => return false,
            }
            if self.record() != *record {
                return true;
            }
        }
    }
}

/// Whether an error is worth a line after the last one. How long the store has been away is not.
fn is_news(last: Option<&StoreError>, error: &StoreError) -> bool {
    match (last, error) {
        (Some(StoreError::Unreachable(_)), StoreError::Unreachable(_)) => false,
        (Some(last), error) => last.to_string() != error.to_string(),
        (None, _) => true,
    }
}

/// Passes the applied revision on, which others see in `alive/<node>`.
async fn forward_applied(mut progress: watch::Receiver<Progress>, applied: watch::Sender<i64>) {
    loop {
        if let Some(revision) = progress.borrow_and_update().applied {
            applied.send_if_modified(|old| std::mem::replace(old, revision) != revision);
        }
        if progress.changed().await.is_err() {
            return;
        }
    }
}
