//! Keeps up with dockerd: its networks and the cluster's are the same, and endpoints are known by the names of
//! their containers.
//!
//! First everything is compared, then what happens is followed, each time dockerd is there (again).

use std::{path::PathBuf, pin::pin, sync::Arc, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use futures::StreamExt as _;
use tokio::{
    net::UnixStream,
    sync::{mpsc, watch},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    Registry,
    engine::{Engine, EngineError, Event, Moment},
    names::Names,
    networks::Networks,
    report::{self, EngineReport},
};
use crate::{
    config::{DockerScope, DockerSocket},
    daemon::Known,
    state::NodeName,
    store::Store,
};

/// Waits until dockerd is tried again.
const BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(Duration::from_secs(3))
    .without_max_times()
    .with_jitter();

/// When it is looked again whether the driver answers.
const UNSERVED: Duration = Duration::from_millis(20);

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
    /// The socket dockerd finds the driver at, and its name by.
    pub plugin: PathBuf,
    /// The cluster's store.
    pub store: Store,
    /// Which of Docker's networks and endpoints are which.
    pub registry: Arc<Registry>,
    /// The cluster's state.
    pub known: watch::Receiver<Known>,
    /// Where to say how it goes.
    pub report: watch::Sender<EngineReport>,
    /// Whether a network is the same in all Dockers.
    pub scope: DockerScope,
}

impl Sync {
    /// Keeps up with dockerd until `cancel`.
    pub async fn run(self, cancel: CancellationToken) {
        cancel.run_until_cancelled(Box::pin(self.keep_up())).await;
    }

    async fn keep_up(self) {
        let Self { node, socket, plugin, store, registry, known, report, scope } = self;
        let driver = plugin.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let names = Names { node, store: store.clone(), registry: Arc::clone(&registry) };
        let mut networks = Networks::new(driver, scope, store, registry, known, report.clone());
        let mut pauses = BACKOFF.build();
        loop {
            // Asked for a network, dockerd would wait for the driver.
            while UnixStream::connect(&plugin).await.is_err() {
                sleep(UNSERVED).await;
            }
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
    let (container_events, of_containers) = mpsc::channel(EVENTS);
    // Events from now on: what happens while all is compared is not missed.
    let since = Moment::now();
    let read = async {
        let mut events = pin!(engine.events(since));
        loop {
            // Both listen for as long as this is read.
            let _ = match events.next().await {
                Some(Ok(Event::Named(container))) => container_events.send(container).await.is_ok(),
                Some(Ok(event)) => network_events.send(event).await.is_ok(),
                Some(Err(error)) => return error,
                None => return engine.ended(),
            };
        }
    };
    tokio::select! {
        error = read => error,
        error = networks.follow(engine, of_networks) => error,
        error = names.follow(engine, of_containers) => error,
    }
}
