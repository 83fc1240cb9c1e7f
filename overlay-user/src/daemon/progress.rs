//! How far the daemon is, as its parts publish it.

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;

use crate::{
    datapath::{Counters, DatapathError, Differences, Sighting},
    state::State,
};

/// Asks the reconciler for the data path's counters.
pub type CounterRequest = oneshot::Sender<Result<Counters, DatapathError>>;

/// Asks the reconciler who was heard behind gateway ports.
pub type SightingRequest = oneshot::Sender<Result<Vec<Sighting>, DatapathError>>;

/// Where what an audit found goes.
pub type AuditReply = oneshot::Sender<Result<Differences, DatapathError>>;

/// Asks the reconciler to compare what the kernel has with what it last brought it to.
pub struct AuditRequest {
    /// Everything is to be brought to the plan once more before that.
    pub repair: bool,
    /// Where the answer goes.
    pub reply: AuditReply,
}

/// The state to forward by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The state; revision 0 means that there is none yet.
    pub state: Arc<State>,
    /// How sure it is.
    pub source: Source,
}

/// How sure a state is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// The store was read in full by this process.
    Store,
    /// It was kept by the last process, which may have forwarded by a newer one: nothing is taken
    /// away by it.
    #[default]
    LastRun,
}

/// How far the data path is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The store's revision that is forwarded by.
    pub applied: Option<i64>,
    /// What could not be done at that revision, and why.
    pub problems: Vec<String>,
    /// Why nothing could be done at the last attempt.
    pub last_error: Option<String>,
    /// How long the last attempt took.
    pub took: Option<Duration>,
    /// Rows and kernel objects changed since the start.
    pub changed: u64,
}

/// Whether this node is in the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Membership {
    /// Not yet; why the last attempt failed.
    Joining(Option<String>),
    /// It is, as this incarnation.
    Joined(u64),
}
