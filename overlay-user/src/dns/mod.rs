//! Names of containers: a resolver that listens inside each container's network namespace, answers with the
//! names of the networks that container is on, and asks others for the rest.
//!
//! It reads what is known and nothing else, so it goes on answering with the store away.

mod answer;
mod attend;
mod figures;
mod forward;
mod listener;
mod place;
mod question;
mod stream;
mod upstreams;
mod zone;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use self::{
    answer::{Transport, Verdict, judge},
    attend::Attendant,
    forward::Forwarder,
    upstreams::{ResolvConf, Upstreams, leads_back},
    zone::Zones,
};
pub use self::{
    figures::{Figures, Outcome},
    listener::Scope,
    place::{HOST_DEVICE, remove_from_host},
};
use crate::{
    daemon::Known,
    state::{NetworkName, State},
};

/// The address the resolver has everywhere, unless somebody says otherwise.
pub const DEFAULT_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 53, 53);

/// What names the host's own name servers.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// How long queries wait for a first state after a start: without one every name would be somebody else's.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the resolver is to do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its address, the same everywhere.
    pub addr: Ipv4Addr,
    /// Whom to ask for what is not ours; those of the host's resolv.conf if empty.
    pub upstreams: Vec<SocketAddr>,
    /// Docker's socket. From when it is there, the resolver listens on the host as well, for containers on
    /// none of our networks.
    pub docker: Option<PathBuf>,
}

/// Sandboxes to be served, by the file of their network namespaces, and the networks each is on.
pub type Scopes = Arc<BTreeMap<PathBuf, Scope>>;

/// The resolver.
#[derive(Debug)]
pub struct Resolver {
    addr: Ipv4Addr,
    docker: Option<PathBuf>,
    zones: RwLock<Zones>,
    forwarder: Forwarder,
    turn: AtomicUsize,
    figures: Figures,
    /// What could not be done, by where.
    problems: Mutex<BTreeMap<PathBuf, String>>,
}

// === impl Resolver ===

impl Resolver {
    /// A resolver that serves nobody yet.
    #[must_use]
    pub fn new(settings: Settings) -> Arc<Self> {
        let Settings { addr, upstreams, docker } = settings;
        let own = IpAddr::from(addr);
        let told: Arc<[_]> =
            upstreams.into_iter().filter(|upstream| !leads_back(upstream.ip(), own)).collect();
        let upstreams = if told.is_empty() {
            Upstreams::File(ResolvConf::new(RESOLV_CONF.into(), own))
        } else {
            Upstreams::Told(told)
        };
        Arc::new(Self {
            addr,
            docker,
            zones: RwLock::default(),
            forwarder: Forwarder::new(upstreams),
            turn: AtomicUsize::new(0),
            figures: Figures::default(),
            problems: Mutex::default(),
        })
    }

    /// Serves every sandbox of `scopes` with what is known, until `cancel`.
    pub async fn run(
        self: Arc<Self>,
        mut known: watch::Receiver<Known>,
        mut scopes: watch::Receiver<Scopes>,
        cancel: CancellationToken,
    ) {
        raise_open_files();
        // Whoever is cut off by the end of this leaves the addresses there: the next daemon listens at them.
        let mut attending = JoinSet::new();
        let mut served = BTreeMap::<PathBuf, watch::Sender<Option<Arc<Scope>>>>::new();
        let attendant = Attendant { resolver: Arc::clone(&self), ready: CancellationToken::new() };
        let ready = attendant.ready.clone();
        let start = Instant::now();
        let mut host = JoinSet::new();
        if let Some(docker) = self.docker.clone() {
            host.spawn(attendant.clone().attend_host(docker));
        }
        loop {
            let wanted = scopes.borrow_and_update().clone();
            let state = Arc::clone(&known.borrow_and_update().state);
            self.update(&state, &wanted);
            if state.revision > 0 {
                ready.cancel();
            }
            for (path, scope) in &served {
                scope.send_if_modified(|scope| {
                    let now = wanted.get(path);
                    let changed = scope.as_deref() != now;
                    if changed {
                        *scope = now.cloned().map(Arc::new);
                    }
                    changed
                });
            }
            for (path, scope) in &*wanted {
                served.entry(path.clone()).or_insert_with(|| {
                    let (sender, receiver) = watch::channel(Some(Arc::new(scope.clone())));
                    attending.spawn(attendant.clone().attend(path.clone(), receiver));
                    sender
                });
            }
            tokio::select! {
                () = cancel.cancelled() => return attending.shutdown().await,
                Ok(()) = known.changed() => {}
                Ok(()) = scopes.changed() => {}
                Some(Ok(path)) = attending.join_next(), if !attending.is_empty() => drop(served.remove(&path)),
                () = sleep_until(start + PATIENCE), if !ready.is_cancelled() => ready.cancel(),
            }
        }
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.addr
    }

    /// What has become of queries.
    #[must_use]
    pub fn figures(&self) -> &Figures {
        &self.figures
    }

    /// What it could not do, one sentence each.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn update(&self, state: &Arc<State>, scopes: &BTreeMap<PathBuf, Scope>) {
        let networks: BTreeSet<NetworkName> = scopes.values().flatten().cloned().collect();
        self.zones.write().unwrap_or_else(PoisonError::into_inner).update(state, &networks);
    }

    fn judge(&self, query: &[u8], transport: Transport, scope: &Scope) -> Verdict {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let zones = self.zones.read().unwrap_or_else(PoisonError::into_inner);
        judge(query, transport, &zones, scope, turn)
    }

    /// Takes in how it went at a place. What is news is logged.
    fn note(&self, place: &PathBuf, problem: Option<String>) {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        match problem {
            None => {
                if problems.remove(place).is_some() {
                    tracing::info!(place = %place.display(), "names are served now");
                }
            }
            Some(problem) => {
                if problems.get(place) != Some(&problem) {
                    tracing::warn!(problem, "names are not served");
                    problems.insert(place.clone(), problem);
                }
            }
        }
    }
}

/// Each sandbox has a namespace and two sockets open, and there may be more than the usual 1024 allow.
fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
}
