//! The reconciler: brings the data path to what the store and the underlay say, again and again.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    AuditRequest, CounterRequest, Known, Progress, SightingRequest, Source, pace::Pace, progress::AuditReply,
};
use crate::{
    datapath::{Applied, Datapath, DatapathError, Differences, Ready, Underlay},
    device::Mtus,
    plan::{Plan, Planner},
    state::{NodeName, State},
    underlay::UnderlayFollower,
};

/// How long looking up routes may take.
const LOOK_UP: Duration = Duration::from_secs(2);

/// Owns the data path.
pub struct Reconciler {
    pub node: NodeName,
    pub known: watch::Receiver<Known>,
    pub underlay: watch::Receiver<Underlay>,
    /// Told which nodes to keep routes for.
    pub underlay_follower: UnderlayFollower,
    pub datapath: Box<dyn Datapath>,
    pub progress: watch::Sender<Progress>,
    pub counter_requests: mpsc::Receiver<CounterRequest>,
    pub sighting_requests: mpsc::Receiver<SightingRequest>,
    pub audit_requests: mpsc::Receiver<AuditRequest>,
    /// Where every state goes that was applied.
    pub applied: watch::Sender<Arc<State>>,
    /// What endpoints' interfaces were brought to.
    pub mtus: Mtus,
    /// The last plan's nodes could not be looked up: said once.
    pub unrouted: bool,
    /// When to try again.
    pub pace: Pace,
}

/// What the data path is brought to.
#[derive(PartialEq)]
struct Target {
    source: Source,
    plan: Plan,
    underlay: Arc<Underlay>,
}

/// How bringing the data path to a target went.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Done {
    /// All of it is done.
    Well,
    /// There is more to do.
    InPart,
    /// Something could not be done.
    Badly,
}

impl Reconciler {
    /// Runs until `cancel`. The data path is left as it is.
    pub async fn run(mut self, cancel: CancellationToken) {
        let mut planner = Planner::new(self.node.clone());
        // What it was last brought to, and whether that went well.
        let mut last: Option<(Target, bool)> = None;
        // Until there is a state there is nothing to do.
        let mut due: Option<Instant> = None;
        // Who waits for an audit.
        let mut looking = None;
        loop {
            let mut again = false;
            let mut moved = false;
            let mut asked = None;
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                Ok(()) = self.known.changed() => {}
                Ok(()) = self.underlay.changed() => moved = true,
                Some(reply) = self.counter_requests.recv() => {
                    let _ = reply.send(self.datapath.counters().await);
                    continue;
                }
                Some(reply) = self.sighting_requests.recv() => {
                    let _ = reply.send(self.datapath.sightings().await);
                    continue;
                }
                // One after another.
                Some(AuditRequest { repair, reply }) = self.audit_requests.recv(), if looking.is_none() => {
                    if repair {
                        self.datapath.distrust();
                        again = true;
                        asked = Some(reply);
                    } else {
                        looking = self.look(last.as_ref().map(|(target, _)| target), reply).await;
                        continue;
                    }
                }
                ready = self.datapath.ready() => match ready {
                    Ready::ToApply => again = true,
                    Ready::ToAudit => {
                        if let Some(reply) = looking.take() {
                            let _ = reply.send(self.audit(last.as_ref().map(|(target, _)| target)).await);
                        }
                        continue;
                    }
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => again = true,
            }
            let Known { state, source } = self.known.borrow_and_update().clone();
            if state.revision > 0 {
                let plan = planner.plan(&state);
                let underlay = match &last {
                    // There may be thousands of nodes, and all to do is to forward to another endpoint.
                    Some((last, _)) if !moved && !self.unrouted && last.plan.vteps == plan.vteps => {
                        Arc::clone(&last.underlay)
                    }
                    _ => Arc::new(self.routed(&plan).await),
                };
                let target = Target { source, plan, underlay };
                let (same, was_well) = match &last {
                    Some((last, well)) => (*last == target, *well),
                    None => (false, false),
                };
                if same && was_well && !again {
                    self.progress.send_modify(|progress| progress.applied = Some(state.revision));
                    continue;
                }
                let done = self.apply(&state, &target, same && was_well).await;
                last = Some((target, done == Done::Well));
                let wait = match done {
                    Done::Well => self.pace.after_success(),
                    Done::InPart => Duration::ZERO,
                    Done::Badly => self.pace.after_failure(),
                };
                let next = Instant::now() + wait;
                // A change does not put off when all is looked at again.
                due = Some(due.filter(|_| done == Done::Well && !again).map_or(next, |due| due.min(next)));
            }
            if let Some(reply) = asked {
                let _ = reply.send(self.audit(last.as_ref().map(|(target, _)| target)).await);
            }
        }
    }

    /// Begins an audit; returns who is to have its result, unless there was nothing to wait for.
    async fn look(&mut self, last: Option<&Target>, reply: AuditReply) -> Option<AuditReply> {
        let begun = match last {
            Some(Target { plan, underlay, .. }) => self.datapath.look(plan, underlay).await,
            None => Ok(false),
        };
        let result = match begun {
            Ok(true) => return Some(reply),
            Ok(false) => self.audit(last).await,
            Err(error) => Err(error),
        };
        let _ = reply.send(result);
        None
    }

    /// Compares the kernel with what it was last brought to.
    async fn audit(&mut self, last: Option<&Target>) -> Result<Differences, DatapathError> {
        // That nothing was applied yet is told elsewhere.
        let Some(Target { source, plan, underlay }) = last else { return Ok(Differences::default()) };
        let mut found = self.datapath.audit(plan, underlay).await?;
        if *source == Source::LastRun {
            found.only_missing();
        }
        Ok(found)
    }

    /// The underlay, once it says how the plan's nodes are reached: without that, what is forwarded to
    /// them already would stop until it does.
    async fn routed(&mut self, plan: &Plan) -> Underlay {
        let peers: BTreeSet<_> = plan.vteps.values().map(|vtep| vtep.addr).collect();
        self.underlay_follower.set_peers(peers.clone());
        let looked_up = self.underlay.wait_for(|underlay| underlay.peers.is_superset(&peers));
        let unrouted = timeout(LOOK_UP, looked_up).await.is_err();
        if unrouted && !self.unrouted {
            tracing::warn!("the kernel does not say how other nodes are reached");
        }
        self.unrouted = unrouted;
        self.underlay.borrow_and_update().clone()
    }

    /// Brings the data path to `target`, where it is already if `repair`.
    async fn apply(&mut self, state: &Arc<State>, target: &Target, repair: bool) -> Done {
        let start = Instant::now();
        let Target { source, plan, underlay } = target;
        let outcome = match source {
            Source::Store => self.datapath.apply(plan, underlay).await,
            Source::LastRun => self.datapath.restore(plan, underlay).await,
        };
        let took = start.elapsed();
        match outcome {
            Ok(Applied { changed, mut problems, unfinished }) => {
                if *source == Source::Store {
                    problems.extend(self.mtus.bring_to(plan, underlay).await);
                }
                let revision = state.revision;
                if repair && changed > 0 {
                    tracing::warn!(
                        changed,
                        "the kernel was not as it was left: repaired what somebody else changed"
                    );
                } else if changed > 0 {
                    tracing::debug!(revision, changed, ?took, "data path brought up to date");
                }
                let done = match (problems.is_empty(), unfinished) {
                    (_, true) => Done::InPart,
                    (true, false) => Done::Well,
                    (false, false) => Done::Badly,
                };
                let changed_before = self.progress.borrow().changed;
                self.publish(Progress {
                    applied: Some(revision),
                    problems,
                    last_error: None,
                    took: Some(took),
                    changed: changed_before + changed as u64,
                });
                self.applied.send_replace(Arc::clone(state));
                done
            }
            Err(error) => {
                let old = self.progress.borrow().clone();
                self.publish(Progress { last_error: Some(error.to_string()), took: Some(took), ..old });
                Done::Badly
            }
        }
    }

    /// Publishes, and logs what is new in it.
    fn publish(&self, progress: Progress) {
        let old = self.progress.borrow().clone();
        for problem in progress.problems.iter().filter(|problem| !old.problems.contains(problem)) {
            tracing::warn!(problem, "the data path is not as it should be");
        }
        for problem in old.problems.iter().filter(|problem| !progress.problems.contains(problem)) {
            tracing::info!(problem, "solved");
        }
        match (&old.last_error, &progress.last_error) {
            (old, Some(error)) if old.as_ref() != Some(error) => {
                tracing::error!(error, "the data path could not be brought up to date: trying on");
            }
            (Some(_), None) => tracing::info!("the data path is up to date again"),
            _ => {}
        }
        if old.applied.is_none() && progress.applied.is_some() {
            tracing::info!(revision = progress.applied, "ready");
        }
        self.progress.send_replace(progress);
    }
}
