//! How far the daemon is, as its parts publish it.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::datapath::{Counters, DatapathError};

/// Asks the reconciler for the data path's counters.
pub type CounterRequest = oneshot::Sender<Result<Counters, DatapathError>>;

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
}

/// Whether this node is in the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Membership {
    /// Not yet; why the last attempt failed.
    Joining(Option<String>),
    /// It is, as this incarnation.
    Joined(u64),
}
