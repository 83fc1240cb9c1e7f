//! Keeps up with dockerd: its networks and the cluster's are the same, and endpoints are known by the names of
//! their containers.
//!
//! First everything is compared, then what happens is followed, each time dockerd is there (again).

use std::{pin::pin, sync::Arc, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use futures::StreamExt as _;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Registry,
    engine::{Engine, EngineError, Event, Moment},
    names::Names,
    networks::Networks,
    report::{self, EngineReport, View},
};
use crate::{
    config::{Config, DockerSocket},
    daemon::Known,
    state::NodeName,
    store::Store,
};

/// Begins to keep up with the dockerd that the settings name, if they do and the driver is to be found by it.
pub fn follow_docker(
    config: &Config,
    tasks: &TaskTracker,
    store: &Store,
    registry: &Arc<Registry>,
    known: &watch::Receiver<Known>,
    cancel: &CancellationToken,
) -> Option<View> {
    let (socket, plugin) = (config.docker.clone()?, config.docker_plugin.clone()?);
    let (report, seen) = EngineReport::channel();
    let view = View { socket: socket.path.clone(), plugin: plugin.clone(), report: seen };
    let sync = Sync {
        node: config.node.clone(),
        socket,
        // Docker knows a driver by the name of its socket.
        driver: plugin.file_stem()?.to_string_lossy().into_owned(),
        store: store.clone(),
        registry: Arc::clone(registry),
        known: known.clone(),
        report,
    };
    tasks.spawn(sync.run(cancel.clone()));
    Some(view)
}

/// Waits until dockerd is tried again.
const BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(Duration::from_secs(3))
    .without_max_times()
    .with_jitter();

/// A connection that lasted for so long was a good one.
const LASTING: Duration = Duration::from_secs(10);

/// How many events may wait to be dealt with before dockerd's are not read for a while.
const EVENTS: usize = 4096;

/// What keeping up with a dockerd needs.
pub struct Sync {
    /// This node.
    pub node: NodeName,
    /// The socket dockerd listens on.
    pub socket: DockerSocket,
    /// The driver's name in Docker.
    pub driver: String,
    /// The cluster's store.
    pub store: Store,
    /// Which of Docker's networks and endpoints are which.
    pub registry: Arc<Registry>,
    /// The cluster's state.
    pub known: watch::Receiver<Known>,
    /// Where to say how it goes.
    pub report: watch::Sender<EngineReport>,
}

impl Sync {
    /// Keeps up with dockerd until `cancel`.
    pub async fn run(self, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.keep_up()).await;
    }

    async fn keep_up(self) {
        let Self { node, socket, driver, store, registry, known, report } = self;
        let names = Names { node, store: store.clone(), registry: Arc::clone(&registry) };
        let mut networks = Networks::new(driver, store, registry, known, report.clone());
        let mut pauses = BACKOFF.build();
        loop {
            let error = match Engine::connect(&socket.path).await {
                Ok(engine) => {
                    let version = engine.version();
                    if report::reached(&report, version) {
                        tracing::info!(version = version.engine, api = version.api, "dockerd is followed");
                    }
                    let begun = Instant::now();
                    let error = follow(&engine, &mut networks, &names).await;
                    if begun.elapsed() > LASTING {
                        pauses = BACKOFF.build();
                    }
                    error
                }
                Err(error) => error,
            };
            // A machine may have no Docker at all.
            let never_there = *report.borrow() == EngineReport::default() && !socket.path.exists();
            let why = error.to_string();
            if (socket.given || !never_there) && report::away(&report, why.clone()) {
                tracing::warn!(why, "dockerd is away: its networks are brought up to date when it is back");
            }
            sleep(pauses.next().unwrap_or(LASTING)).await;
        }
    }
}

/// Follows a dockerd until it goes away; how.
async fn follow(engine: &Engine, networks: &mut Networks, names: &Names) -> EngineError {
    let (network_events, of_networks) = mpsc::channel(EVENTS);
    let (named, of_names) = mpsc::channel(EVENTS);
    // Events from now on: what happens while all is compared is not missed.
    let since = Moment::now();
    let read = async {
        let mut events = pin!(engine.events(since));
        loop {
            // Both listen for as long as this is read.
            let _ = match events.next().await {
                Some(Ok(Event::Named(container))) => named.send(container).await.is_ok(),
                Some(Ok(event)) => network_events.send(event).await.is_ok(),
                Some(Err(error)) => return error,
                None => return engine.ended(),
            };
        }
    };
    tokio::select! {
        error = read => error,
        error = networks.follow(engine, of_networks) => error,
        error = names.follow(engine, of_names) => error,
    }
}
