//! What the handlers see of the daemon.

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot, watch};

use super::{ApiError, Kind};
use crate::{
    daemon::{Absences, AuditRequest, CounterRequest, Journal, Known, Membership, Progress},
    datapath::{Counters, Differences, Mode, Underlay},
    dns::Resolver,
    docker,
    state::{NodeName, State},
    store::{Followed, Store},
};

/// How long a read waits for the data path: it may be in the middle of a change.
const COUNTERS_PATIENCE: Duration = Duration::from_secs(3);

/// How long a change waits to be seen in the followed state before it is answered.
const ECHO_PATIENCE: Duration = Duration::from_millis(1500);

/// What the handlers see of the daemon.
pub struct Context {
    /// Where intent is written to.
    pub store: Store,
    /// This node.
    pub node: NodeName,
    /// The cluster's name.
    pub cluster: String,
    /// UDP port of VXLAN.
    pub port: u16,
    /// What is read from the store.
    pub followed: watch::Receiver<Followed>,
    /// Which state forwarding goes by: the followed one, or the one kept from before a restart.
    pub known: watch::Receiver<Known>,
    /// The underlay.
    pub underlay: watch::Receiver<Underlay>,
    /// How far the data path is.
    pub progress: watch::Receiver<Progress>,
    /// Whether this node is in the cluster.
    pub membership: watch::Receiver<Membership>,
    /// For how long other nodes have not lived.
    pub absences: watch::Receiver<Absences>,
    /// Where endpoints that are being made are noted.
    pub journal: Journal,
    /// Asks the data path for its counters.
    pub counters: mpsc::Sender<CounterRequest>,
    /// Has the data path compared with the kernel.
    pub audits: mpsc::Sender<AuditRequest>,
    /// Docker on this node.
    pub docker: Option<docker::View>,
    /// Which data path runs.
    pub mode: Mode,
    /// Why that one.
    pub reason: String,
    /// What answers containers' names, if anything does.
    pub dns: Option<Arc<Resolver>>,
}

impl Context {
    /// The state forwarding goes by.
    #[must_use]
    pub fn state(&self) -> Arc<State> {
        Arc::clone(&self.known.borrow().state)
    }

    /// Which incarnation of the node this daemon is; 0 while it has not joined.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        match *self.membership.borrow() {
            Membership::Joined(incarnation) => incarnation,
            Membership::Joining(_) => 0,
        }
    }

    /// Refuses if an operator wants this node to become empty.
    pub fn check_not_drained(&self) -> Result<(), ApiError> {
        let node = &self.node;
        if self.state().nodes.get(node).is_some_and(|node| node.drained) {
            let error = format!(
                "node {node} is drained: use another, or let it take endpoints again with `overlayctl node drain \
                 {node} --undo`"
            );
            return Err(ApiError::new(Kind::Conflict, error));
        }
        Ok(())
    }

    /// Waits until the followed state shows what was just written, so that the writer reads it back.
    /// Gives up silently: it was written all the same.
    pub async fn echo(&self, seen: impl Fn(&State) -> bool) {
        let mut known = self.known.clone();
        let _ = tokio::time::timeout(ECHO_PATIENCE, known.wait_for(|known| seen(&known.state))).await;
    }

    /// Waits until the data path has done what was written at `revision`, for a while.
    pub async fn applied(&self, revision: i64) {
        let mut progress = self.progress.clone();
        let done = progress.wait_for(|progress| progress.applied.is_some_and(|applied| applied >= revision));
        let _ = tokio::time::timeout(ECHO_PATIENCE, done).await;
    }

    /// Reads the counters.
    pub async fn counters(&self) -> Result<Counters, ApiError> {
        let fail = |why: String| {
            ApiError::new(Kind::Internal, format!("the data path's counters cannot be read: {why}"))
        };
        let (reply, answer) = oneshot::channel();
        let ask = async {
            self.counters.send(reply).await.map_err(|_| "it has stopped".to_owned())?;
            answer.await.map_err(|_| "it has stopped".to_owned())?.map_err(|error| error.to_string())
        };
        tokio::time::timeout(COUNTERS_PATIENCE, ask)
            .await
            .map_err(|_| fail("it is busy with a change".to_owned()))?
            .map_err(fail)
    }

    /// Has what the kernel has compared with what it should have; with `repair`, after everything was brought to
    /// that once more. The error is why that could not be done.
    pub async fn audit(&self, repair: bool) -> Result<Differences, String> {
        let stopped = || "the data path has stopped".to_owned();
        let (reply, answer) = oneshot::channel();
        self.audits.send(AuditRequest { repair, reply }).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?.map_err(|error| error.to_string())
    }
}
