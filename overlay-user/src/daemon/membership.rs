//! This node's own records: who it is, and that it lives.

use std::{net::IpAddr, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use ipnet::IpNet;
use tokio::{sync::watch, task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{Known, Membership, Progress, Source};
use crate::{
    datapath::{Mode, Underlay},
    state::{NodeName, NodeRecord},
    store::{Store, StoreError},
};

/// Waits between attempts, with jitter: all nodes of a cluster find etcd back at once.
const BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(500))
    .with_max_delay(GREATEST_WAIT)
    .without_max_times()
    .with_jitter();

/// The longest wait between two attempts.
const GREATEST_WAIT: Duration = Duration::from_secs(5);

/// Keeps this node in the cluster.
pub struct Member {
    pub node: NodeName,
    pub port: u16,
    /// Where this node's interfaces are.
    pub host: String,
    pub mode: Mode,
    pub reason: String,
    pub store: Store,
    pub known: watch::Receiver<Known>,
    pub underlay: watch::Receiver<Underlay>,
    /// The prefixes the host has routes to.
    pub prefixes: watch::Receiver<Vec<IpNet>>,
    pub progress: watch::Receiver<Progress>,
    pub membership: watch::Sender<Membership>,
}

/// What ends a membership, or its record's truth.
enum Change {
    /// The record does not say any more what is.
    Outdated,
    /// Somebody removed the record.
    Removed,
    /// A later incarnation of this node runs elsewhere.
    TakenOver,
}

// === impl Member ===

impl Member {
    /// Joins and stays a member until `cancel`.
    pub async fn run(mut self, cancel: CancellationToken) {
        let (applied, applied_seen) = watch::channel(0);
        let forward = forward_applied(self.progress.clone(), applied);
        tokio::select! {
            () = self.stay(&applied_seen, &cancel) => {}
            () = forward => {}
        }
    }

    async fn stay(&mut self, applied: &watch::Receiver<i64>, cancel: &CancellationToken) {
        loop {
            let Some((incarnation, record)) = self.join(cancel).await else { return };
            let leave = cancel.child_token();
            let mut alive = tokio::spawn({
                let (store, node) = (self.store.clone(), self.node.clone());
                let (applied, leave) = (applied.clone(), leave.clone());
                async move { store.stay_alive(node, incarnation, applied, leave).await }
            });
            let over = self.keep_true(incarnation, record, &mut alive, cancel).await;
            leave.cancel();
            match over {
                Some(Change::Removed) => {
                    tracing::warn!("somebody removed this node: joining again");
                    alive.abort();
                }
                Some(Change::TakenOver) => {
                    let reason = "another overlayd has taken this node's name over: stop one of the two";
                    self.membership.send_replace(Membership::Joining(Some(reason.to_owned())));
                    return;
                }
                Some(Change::Outdated) | None => {
                    let _ = alive.await;
                    return;
                }
            }
        }
    }

    /// Joins, however often it takes, and says as what. `None` if cancelled.
    async fn join(&mut self, cancel: &CancellationToken) -> Option<(u64, NodeRecord)> {
        let mut attempts = Attempts::new("this node could not join the cluster: trying on");
        loop {
            let record = self.record();
            let error = tokio::select! {
                joined = self.store.join(&self.node, record.clone()) => match joined {
                    Ok(incarnation) => {
                        tracing::info!(incarnation, "this node is in the cluster");
                        self.membership.send_replace(Membership::Joined(incarnation));
                        return Some((incarnation, record));
                    }
                    Err(error) => error,
                },
                () = cancel.cancelled() => return None,
            };
            self.membership.send_replace(Membership::Joining(Some(error.to_string())));
            cancel.run_until_cancelled(attempts.failed(error)).await?;
        }
    }

    /// Keeps the record at what is, until the membership is over. `None` if cancelled.
    async fn keep_true(
        &mut self,
        incarnation: u64,
        mut written: NodeRecord,
        alive: &mut JoinHandle<()>,
        cancel: &CancellationToken,
    ) -> Option<Change> {
        loop {
            let change = cancel.run_until_cancelled(self.change(&written, alive)).await?;
            let Change::Outdated = change else { return Some(change) };
            tracing::info!("this node's address, MTU or routes have changed: announcing it");
            let mut attempts = Attempts::new("the change could not be announced: trying on");
            // Which address the connection to the store was made from.
            let mut from = written.vtep;
            loop {
                let record = self.record();
                if record.vtep != from {
                    from = record.vtep;
                    self.store.reconnect().await;
                }
                let error = tokio::select! {
                    updated = self.store.update_node(&self.node, incarnation, record.clone()) => match updated {
                        Ok(()) => {
                            written = record;
                            break;
                        }
                        Err(StoreError::NotFound(_)) => return Some(Change::Removed),
                        Err(error) => error,
                    },
                    // What is under way goes out from an address that nobody answers to any more.
                    () = moves(self.underlay.clone(), from) => continue,
                    () = cancel.cancelled() => return None,
                };
                let reason = format!("its change of address, MTU or routes is not announced yet: {error}");
                self.membership.send_replace(Membership::Joining(Some(reason)));
                tokio::select! {
                    () = attempts.failed(error) => {}
                    () = moves(self.underlay.clone(), from) => {}
                    () = cancel.cancelled() => return None,
                }
            }
            self.membership.send_replace(Membership::Joined(incarnation));
        }
    }

    /// Waits for a change.
    async fn change(&mut self, written: &NodeRecord, alive: &mut JoinHandle<()>) -> Change {
        // What is followed lags behind: until the record was seen, it is not missed.
        let mut seen = false;
        loop {
            tokio::select! {
                Ok(()) = self.underlay.changed() => {
                    if self.record() != *written {
                        return Change::Outdated;
                    }
                }
                Ok(()) = self.prefixes.changed() => {
                    if self.record() != *written {
                        return Change::Outdated;
                    }
                }
                Ok(()) = self.known.changed() => {
                    let known = self.known.borrow_and_update();
                    // What was kept from the last run says nothing about this membership.
                    let there = known.source == Source::Store && known.state.nodes.contains_key(&self.node);
                    if seen && !there {
                        return Change::Removed;
                    }
                    seen |= there;
                }
                _ = &mut *alive => return Change::TakenOver,
            }
        }
    }

    /// The record as it should be now. The store counts the incarnation.
    fn record(&mut self) -> NodeRecord {
        let underlay = self.underlay.borrow_and_update();
        NodeRecord {
            vtep: underlay.addr,
            port: self.port,
            mtu: Some(underlay.mtu),
            datapath: self.mode.name().to_owned(),
            reason: self.reason.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            incarnation: 0,
            host: self.host.clone(),
            moved: 0,
            drained: false,
            prefixes: self.prefixes.borrow_and_update().clone(),
            is_static: false,
        }
    }
}

/// Ends when the underlay's address is another than `from`.
async fn moves(mut underlay: watch::Receiver<Underlay>, from: IpAddr) {
    if underlay.wait_for(|underlay| underlay.addr != from).await.is_err() {
        // Nobody follows the underlay any more.
        std::future::pending::<()>().await;
    }
}

/// Attempts at one thing: waits between them, and a line when there is something new to say.
struct Attempts {
    what: &'static str,
    waits: backon::ExponentialBackoff,
    last: Option<StoreError>,
}

impl Attempts {
    fn new(what: &'static str) -> Self {
        Self { what, waits: BACKOFF.build(), last: None }
    }

    /// Logs the error if it is news, and waits.
    async fn failed(&mut self, error: StoreError) {
        let known = match (&self.last, &error) {
            // How long the store has been away is no news.
            (Some(StoreError::Unreachable(_)), StoreError::Unreachable(_)) => true,
            (Some(last), error) => last.to_string() == error.to_string(),
            (None, _) => false,
        };
        if !known {
            tracing::warn!(reason = %error, "{}", self.what);
        }
        self.last = Some(error);
        sleep(self.waits.next().unwrap_or(GREATEST_WAIT)).await;
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
