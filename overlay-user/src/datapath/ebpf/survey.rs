//! A comparison of what there may be a million rows of with the kernel, beside everything else: changes do not
//! wait for it. It only finds whom to look at, for the plan may be another one when it is done.

use std::{
    future,
    time::{Duration, Instant},
};

use tokio::task::spawn_blocking;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::AbortOnDropHandle,
};

use super::{
    rows::Local,
    slow_path::{Devices, Forwarding, Reading},
    stations::{Suspects, Views},
};
use crate::{
    datapath::{DatapathError, Underlay},
    netlink,
    plan::Plan,
};

/// At most one survey, from when it is wanted until what it found is taken.
#[derive(Default)]
pub enum Survey {
    /// Nobody wants one.
    #[default]
    None,
    /// One is to begin when there is nothing else to do.
    Wanted,
    /// It is being made.
    UnderWay(UnderWay),
    /// It is made.
    Done(Box<Outcome>),
}

/// A survey that is being made. It ends early if this is dropped.
pub struct UnderWay {
    task: AbortOnDropHandle<Outcome>,
    _cancel: DropGuard,
}

/// What came out of it.
pub struct Outcome {
    /// What was found, or what could not be read.
    pub found: Result<Found, DatapathError>,
    /// How long it took.
    pub took: Duration,
}

/// What did not look as it should.
pub struct Found {
    /// By this plan,
    pub plan: Plan,
    /// over this underlay.
    pub underlay: Underlay,
    /// In the maps.
    pub suspects: Suspects,
    /// In the forwarding databases of the kernel's VXLAN devices.
    pub reading: Reading,
}

/// What is compared.
pub struct Subject {
    /// What should be,
    pub plan: Plan,
    /// with this underlay,
    pub underlay: Underlay,
    /// and this on the node.
    pub local: Local,
    /// The maps.
    pub views: Views,
    /// The kernel's VXLAN devices.
    pub devices: Devices,
}

// === impl Survey ===

impl Survey {
    /// Begins one in the network namespace of the calling thread.
    ///
    /// # Errors
    /// If there is no netlink socket to be had.
    pub fn begin(subject: Subject) -> Result<Self, DatapathError> {
        let netlink = super::connect()?;
        let cancel = CancellationToken::new();
        let task = AbortOnDropHandle::new(tokio::spawn(make(subject, netlink, cancel.clone())));
        Ok(Self::UnderWay(UnderWay { task, _cancel: cancel.drop_guard() }))
    }

    /// Waits until one is done that is under way; for ever if none is. Nothing is lost if it is not waited for to
    /// the end.
    pub async fn done(&mut self) {
        let Self::UnderWay(UnderWay { task, .. }) = self else { return future::pending().await };
        let outcome = task.await;
        *self = outcome.map_or(Self::None, |outcome| Self::Done(Box::new(outcome)));
    }
}

async fn make(subject: Subject, netlink: netlink::Connection, cancel: CancellationToken) -> Outcome {
    let begun = Instant::now();
    let Subject { plan, underlay, local, views, devices } = subject;
    let reading = Reading::new(&netlink, devices, Forwarding { plan: &plan, underlay: &underlay }).await;
    let compared = spawn_blocking(move || (views.suspects(&plan, &local, &cancel), plan)).await;
    let found = match (reading, compared) {
        (Ok(reading), Ok((Ok(suspects), plan))) => Ok(Found { plan, underlay, suspects, reading }),
        (Err(error), _) | (_, Ok((Err(error), _))) => Err(error),
        (_, Err(panicked)) => Err(DatapathError::Unsupported(format!("the comparison failed: {panicked}"))),
    };
    Outcome { found, took: begun.elapsed() }
}
