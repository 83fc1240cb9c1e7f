//! The daemon: it follows the store and the underlay, and keeps the data path at what they say.

mod absence;
mod choice;
mod followed_state;
mod host;
mod journal;
mod learner;
mod membership;
mod orphans;
mod pace;
mod progress;
mod purge;
mod ready;
mod reconcile;
mod snapshot;

use std::{io, sync::Arc};

pub use absence::Absences;
pub use choice::{Chosen, choose};
pub use journal::{InTheMaking, Journal};
pub use progress::{AuditRequest, CounterRequest, Known, Membership, Progress, SightingRequest, Source};
pub use purge::purge;
pub(crate) use snapshot::records;
pub use snapshot::{LastRun, SnapshotFile};
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    api::{self, ControlSocket, SocketError},
    config::Config,
    datapath::{DatapathError, Mode, Underlay},
    device, docker,
    store::{Store, StoreError},
    underlay::{UnderlayError, UnderlayFollower, follow_prefixes},
};

/// How many requests for counters may wait for the data path.
const COUNTER_REQUESTS: usize = 16;

/// Why the daemon cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Another one runs, or the run directory cannot be used.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// There is nothing to tunnel from.
    #[error(transparent)]
    Underlay(#[from] UnderlayError),
    /// No data path works.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// The store's options make no sense.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The control socket broke.
    #[error("the control socket: {0}")]
    Serve(#[source] io::Error),
    /// Something that must not stay behind did.
    #[error("not everything could be removed: {0}")]
    Purge(String),
}

/// Runs until `cancel`. Forwarding goes on after it: what carries packets stays in the kernel for
/// the next daemon.
///
/// # Errors
/// What keeps the daemon from starting. An etcd that is away does not.
pub async fn run(config: Config, cancel: CancellationToken) -> Result<(), DaemonError> {
    // Stops all parts when this returns, with an error as well.
    let cancel = cancel.child_token();
    let _stop = cancel.clone().drop_guard();
    // Before a process is started that would have them too.
    let _ = docker::Inherited::here();
    let socket = ControlSocket::bind(&config.run_dir)?;
    let store = Store::new(config.store.clone())?;
    let snapshot = SnapshotFile::new(&config, store.clone());
    // Before the store is read: it tells whether that is the store it was.
    let (kept, records) = snapshot.read().map(|LastRun { state, records }| (state, records)).unzip();
    let followed = store.follow_from(records.unwrap_or_default(), cancel.clone());
    let underlay_follower =
        UnderlayFollower::start(config.underlay.clone(), config.port, cancel.clone()).await?;
    let tasks = TaskTracker::new();
    let underlay = as_told(&tasks, underlay_follower.current(), config.mtu, config.udp6_zero_checksum);

    let uplink = underlay.borrow().clone();
    let Chosen { datapath, mode, reason } = choose(&config, &uplink).await?;
    let node = &config.node;
    say_start(&config, &uplink, mode, &reason);

    let known = followed_state::follow(&tasks, followed.clone(), kept);
    let (applied, applied_seen) = watch::channel(Arc::default());
    tasks.spawn(snapshot.keep_all(applied_seen, cancel.clone()));
    let (progress, progress_seen) = watch::channel(Progress::default());
    let (membership, membership_seen) = watch::channel(Membership::Joining(None));
    let (counters, counter_requests) = mpsc::channel(COUNTER_REQUESTS);
    let (sightings, sighting_requests) = mpsc::channel(1);
    let (audits, audit_requests) = mpsc::channel(1);

    let reconciler = reconcile::Reconciler {
        node: node.clone(),
        known: known.clone(),
        underlay: underlay.clone(),
        underlay_follower,
        datapath,
        progress,
        counter_requests,
        sighting_requests,
        audit_requests,
        applied,
        mtus: device::Mtus::default(),
        unrouted: false,
        pace: pace::Pace::new(config.verify_every),
    };
    tasks.spawn(reconciler.run(cancel.clone()));
    tasks.spawn(ready::announce(progress_seen.clone(), known.clone(), cancel.clone()));
    let unreadable = |error| UnderlayError(format!("read the host's routes: {error}"));
    let prefixes = follow_prefixes(cancel.clone()).await.map_err(unreadable)?;
    let member = membership::Member {
        node: node.clone(),
        port: config.port,
        host: host::here(),
        mode,
        reason: reason.clone(),
        store: store.clone(),
        known: known.clone(),
        underlay: underlay.clone(),
        prefixes: prefixes.clone(),
        progress: progress_seen.clone(),
        membership,
    };
    tasks.spawn(member.run(cancel.clone()));
    let journal = Journal::new(&config.state_dir);
    let orphans = orphans::Orphans {
        node: node.clone(),
        store: store.clone(),
        journal: journal.clone(),
        known: known.clone(),
        membership: membership_seen.clone(),
    };
    tasks.spawn(orphans.run(cancel.clone()));
    let absences = absence::follow(&tasks, known.clone());
    let (node_of_learned, learned_to, known_ports) = (node.clone(), store.clone(), known.clone());
    let learner =
        learner::Learner { node: node_of_learned, store: learned_to, known: known_ports, sightings };
    tasks.spawn(learner.run(cancel.clone()));

    let (docker, docker_report) = docker::View::new(&config);
    let context = Arc::new(api::Context {
        store,
        node: node.clone(),
        cluster: config.store.cluster.clone(),
        port: config.port,
        followed,
        known,
        underlay,
        progress: progress_seen,
        membership: membership_seen,
        absences,
        journal,
        counters,
        audits,
        docker,
        mode,
        reason,
        dns: docker::resolver(&config),
    });
    docker::start(&tasks, &config, &context, prefixes, docker_report, &cancel);
    let served = api::serve(socket, api::router(context), cancel.clone()).await;
    cancel.cancel();
    tasks.close();
    tasks.wait().await;
    served.map_err(DaemonError::Serve)
}

/// One line with all that decides how this daemon forwards.
fn say_start(config: &Config, uplink: &Underlay, mode: Mode, reason: &str) {
    let etcd = config.store.endpoints.join(",");
    tracing::info!(
        node = %config.node, cluster = config.store.cluster, uplink = uplink.name, address = %uplink.addr, mtu = uplink.mtu,
        datapath = mode.name(), reason, etcd, "overlayd {} starts", env!("CARGO_PKG_VERSION")
    );
}

/// The underlay with what the settings say about it: an MTU of at most `mtu` bytes, and whether packets
/// over IPv6 go without a UDP checksum.
fn as_told(
    tasks: &TaskTracker,
    mut wide: watch::Receiver<Underlay>,
    mtu: Option<u16>,
    udp6_zero_checksum: bool,
) -> watch::Receiver<Underlay> {
    let uplink_mtu = wide.borrow().mtu;
    if let Some(mtu) = mtu
        && mtu > uplink_mtu
    {
        tracing::warn!(mtu, uplink_mtu, "--mtu is more than the uplink carries: using the uplink's");
    }
    let mtu = mtu.unwrap_or(u16::MAX);
    let narrow = move |mut underlay: Underlay| {
        underlay.udp6_zero_checksum = udp6_zero_checksum;
        underlay.mtu = underlay.mtu.min(mtu);
        for route in underlay.routes.values_mut() {
            route.mtu = route.mtu.min(mtu);
        }
        underlay
    };
    let (sender, receiver) = watch::channel(narrow(wide.borrow_and_update().clone()));
    tasks.spawn(async move {
        while wide.changed().await.is_ok() {
            let _ = sender.send(narrow(wide.borrow_and_update().clone()));
        }
    });
    receiver
}
