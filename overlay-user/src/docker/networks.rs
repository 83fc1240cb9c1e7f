//! Brings the networks of the cluster and those of Docker together, as [`propagate`] says.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
    time::Duration,
};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Content, DockerNetwork, DockerNetworkId, PendingNetwork, Registry,
    engine::{Engine, EngineError, EngineNetwork, Event, NewEngineNetwork},
    left_behind::FOUND_WITHIN,
    propagate::{Action, Scene, propagate},
    report::{self, EngineReport, Problem},
};
use crate::{
    config::DockerScope,
    daemon::{Known, Source},
    state::{NameError, Network, NetworkName, State},
    store::{Store, StoreError},
};

/// How often everything is compared though nothing has happened: dockerd does not keep events for who is slow.
const COMPARE: Duration = Duration::from_mins(1);

/// How often where another node's dockerd changes what this one has, and tells nobody here.
const COMPARE_SHARED: Duration = Duration::from_secs(10);

/// So that not all nodes make a network at once that one of them can make for all.
const TURN_UP_TO: Duration = Duration::from_millis(1500);

/// How often as long as a network waits to be published, whose subnet is claimed for no longer than a minute.
const COMPARE_PENDING: Duration = Duration::from_secs(1);

/// When what could not be done is tried again.
const RETRY: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_secs(1))
    .with_max_delay(Duration::from_secs(30))
    .without_max_times();

/// What the plugin knows, and dockerd does not list for so long, is not on its way.
const ON_ITS_WAY: Duration = Duration::from_secs(15);

/// How long it is waited for what was just written to be read back.
const ECHO: Duration = Duration::from_secs(5);

/// How long it is told that a network was not what its maker wanted.
const TOLD_FOR: Duration = Duration::from_mins(10);

/// In so many rounds what one action makes possible for another is done.
const ROUNDS: usize = 4;

/// Brings networks together.
pub struct Networks {
    driver: String,
    scope: DockerScope,
    store: Store,
    registry: Arc<Registry>,
    known: watch::Receiver<Known>,
    report: watch::Sender<EngineReport>,
    /// Networks that somebody removed from Docker, and that are still the cluster's.
    removed: BTreeSet<DockerNetworkId>,
    /// Since when networks that somebody removed wait for what was on them.
    clearing: BTreeMap<DockerNetworkId, Instant>,
    /// Since when dockerd does not list what the plugin knows.
    unlisted: BTreeMap<DockerNetworkId, Instant>,
    /// What is over, and to be told for a while.
    told: Vec<(Instant, Problem)>,
}

/// What has come of an action.
enum Outcome {
    /// It is done, and there may be more to do now.
    Done,
    /// It could not be done.
    Failed(Problem),
}

// === impl Networks ===

impl Networks {
    pub fn new(
        driver: String,
        scope: DockerScope,
        store: Store,
        registry: Arc<Registry>,
        known: watch::Receiver<Known>,
        report: watch::Sender<EngineReport>,
    ) -> Self {
        Self {
            driver,
            scope,
            store,
            registry,
            known,
            report,
            removed: BTreeSet::new(),
            clearing: BTreeMap::new(),
            unlisted: BTreeMap::new(),
            told: Vec::new(),
        }
    }

    /// Keeps the networks together until dockerd goes away; how.
    pub async fn follow(&mut self, engine: &Engine, mut events: mpsc::Receiver<Event>) -> EngineError {
        match engine.removed_networks().await {
            Ok(removed) => removed.into_iter().for_each(|id| self.note(Event::NetworkRemoved(id))),
            Err(error) if error.is_away() => return error,
            Err(error) => tracing::warn!(%error, "what was removed from Docker meanwhile is not known"),
        }
        let mut pauses = RETRY.build();
        let compare = if self.is_shared() { COMPARE_SHARED } else { COMPARE };
        loop {
            let seen = self.known.borrow_and_update().clone();
            let pause = match self.settle(engine).await {
                Ok(true) => {
                    pauses = RETRY.build();
                    compare
                }
                Ok(false) => pauses.next().unwrap_or(compare),
                Err(error) if error.is_away() => return error,
                Err(error) => {
                    tracing::warn!(%error, "Docker's networks cannot be brought up to date");
                    pauses.next().unwrap_or(compare)
                }
            };
            self.wait(&seen, &mut events, pause).await;
        }
    }

    /// Waits for a reason to compare.
    async fn wait(&mut self, seen: &Known, events: &mut mpsc::Receiver<Event>, pause: Duration) {
        let mut next = Instant::now() + pause;
        let mut content = self.registry.content();
        loop {
            if has_pending(&content.borrow_and_update()) {
                next = next.min(Instant::now() + COMPARE_PENDING);
            }
            tokio::select! {
                Some(event) = events.recv() => {
                    self.note(event);
                    while let Ok(event) = events.try_recv() {
                        self.note(event);
                    }
                    return;
                }
                Ok(()) = self.known.changed() => {
                    if is_news(seen, &self.known.borrow_and_update()) {
                        return;
                    }
                }
                Ok(()) = content.changed() => {}
                () = sleep_until(next) => return,
            }
        }
    }

    fn note(&mut self, event: Event) {
        if let Event::NetworkRemoved(id) = event
            && self.registry.now().networks.contains_key(&id)
        {
            self.removed.insert(id);
        }
    }

    /// Does what is to be done now. Returns whether all of it could be.
    async fn settle(&mut self, engine: &Engine) -> Result<bool, EngineError> {
        let mut failed: Vec<Action> = Vec::new();
        let mut problems = Vec::new();
        for _ in 0..ROUNDS {
            let known = self.known.borrow().clone();
            // What was kept from the last run may be long over.
            if known.source != Source::Store || known.state.revision == 0 {
                return Ok(true);
            }
            let mut actions = self.due(&known.state, &engine.networks().await?);
            actions.retain(|action| !failed.contains(action));
            let mut is_done = true;
            for action in actions {
                match self.carry_out(engine, action.clone()).await? {
                    Outcome::Done => is_done = false,
                    Outcome::Failed(problem) => {
                        failed.push(action);
                        problems.push(problem);
                    }
                }
            }
            if is_done {
                break;
            }
        }
        // What is for the operator to do is not tried again before something happens.
        let all_done = failed.iter().all(|action| matches!(action, Action::Tell(_)));
        self.told.retain(|(until, _)| *until > Instant::now());
        problems.extend(self.told.iter().map(|(_, problem)| problem.clone()));
        report::problems(&self.report, problems);
        Ok(all_done)
    }

    fn due(&mut self, state: &State, engine: &[EngineNetwork]) -> Vec<Action> {
        let registry = self.registry.now();
        let listed: BTreeSet<_> = engine.iter().map(|network| &network.id).collect();
        let is_unlisted = |id: &DockerNetworkId| registry.networks.contains_key(id) && !listed.contains(id);
        let now = Instant::now();
        self.unlisted.retain(|id, _| is_unlisted(id));
        for id in registry.networks.keys().filter(|id| is_unlisted(id)) {
            self.unlisted.entry(id.clone()).or_insert(now);
        }
        let gone = self.unlisted.iter().filter(|(_, since)| **since + ON_ITS_WAY < now);
        let gone = gone.map(|(id, _)| id.clone()).collect();
        self.removed.retain(|id| registry.networks.contains_key(id));
        propagate(Scene {
            state,
            engine,
            registry: &registry.networks,
            removed: &self.removed,
            gone: &gone,
            driver: &self.driver,
            shared: self.is_shared(),
        })
    }

    async fn carry_out(&mut self, engine: &Engine, action: Action) -> Result<Outcome, EngineError> {
        match action {
            Action::Publish { id, name, pending } => self.publish(engine, id, name, pending).await,
            Action::Withdraw { id, network } => Ok(self.withdraw(&id, &network).await),
            Action::Adopt { id, network } => Ok(self.noted(id, network)),
            Action::Forget(id) => {
                tracing::debug!(%id, "Docker does not have this network any more");
                Ok(self.forgotten(&id))
            }
            Action::Remove { id, name, why } => self.remove(engine, &id, &name, why).await,
            Action::Create { network, what } => self.create(engine, network, what).await,
            Action::Tell(clash) => Ok(Outcome::Failed(Problem { text: clash.to_string(), is_severe: true })),
        }
    }

    /// Makes one of the cluster's networks in Docker.
    async fn create(
        &self,
        engine: &Engine,
        network: NetworkName,
        what: Network,
    ) -> Result<Outcome, EngineError> {
        if self.is_shared() && made_by_another(engine, &network).await? {
            return Ok(Outcome::Done);
        }
        let before = what.docker.clone();
        let id = match engine.create_network(NewEngineNetwork::new(network.clone(), what, &self.driver)).await
        {
            Ok(id) => id,
            Err(error) if error.is_away() => return Err(error),
            Err(error) => {
                let text = format!("network {network} could not be made in Docker: {error}");
                return Ok(Outcome::Failed(Problem { text, is_severe: true }));
            }
        };
        if self.is_shared() {
            match self.store.set_docker_id(&network, before.as_deref(), id.as_str()).await {
                Ok(true) => {}
                Ok(false) => {
                    engine.remove_network(&id).await?;
                    return Ok(Outcome::Done);
                }
                Err(error) => tracing::warn!(%network, %error, "which one it is in Docker is not noted"),
            }
        }
        tracing::info!(%network, "the network is Docker's too");
        Ok(self.noted(id, network))
    }

    /// Makes a network that was made in Docker the cluster's; if it cannot be, removes it from Docker.
    async fn publish(
        &mut self,
        engine: &Engine,
        id: DockerNetworkId,
        name: String,
        pending: PendingNetwork,
    ) -> Result<Outcome, EngineError> {
        let waits = |why: &str| {
            let text = format!("network {name}, made in Docker here, is not the cluster's yet: {why}");
            Ok(Outcome::Failed(Problem { text, is_severe: false }))
        };
        let why = match self.published(&name, &pending).await {
            Ok(network) => {
                // Else the state, which does not have it yet, would have it removed from Docker again.
                if !self.echo(|state| state.networks.contains_key(&network)).await {
                    return waits("it is written, but was not read back from etcd");
                }
                tracing::info!(%network, "a network made in Docker is the cluster's now");
                return Ok(self.noted(id, network));
            }
            Err(error @ (StoreError::Unreachable(_) | StoreError::Refused(_))) => {
                return waits(&error.to_string());
            }
            Err(error) => error,
        };
        match self.take_away(engine, &id).await? {
            Ok(()) => {
                let text = format!("network {name}, made in Docker here, was removed again: {why}");
                self.tell(Problem { text, is_severe: false });
                Ok(Outcome::Done)
            }
            Err(error) => {
                let text = format!(
                    "network {name}, made in Docker here, cannot be the cluster's: {why}; and {error}"
                );
                Ok(Outcome::Failed(Problem { text, is_severe: true }))
            }
        }
    }

    /// Publishes a network under its name in Docker. Without effect if that is done already.
    async fn published(&self, name: &str, pending: &PendingNetwork) -> Result<NetworkName, StoreError> {
        let network: NetworkName =
            name.parse().map_err(|error: NameError| StoreError::Invalid(error.to_string()))?;
        self.store.publish_network(pending.named(network.clone())?, &pending.pools).await?;
        Ok(network)
    }

    /// Removes from the cluster what its user removed from Docker.
    async fn withdraw(&mut self, id: &DockerNetworkId, network: &NetworkName) -> Outcome {
        match self.store.remove_network(network).await {
            Ok(()) | Err(StoreError::NotFound(_)) => {
                tracing::info!(%network, "removed from Docker here, and so from the cluster");
                self.echo(|state| !state.networks.contains_key(network)).await;
            }
            Err(error)
                if matches!(error, StoreError::Unreachable(_) | StoreError::Refused(_))
                    || self.is_clearing(id, network) =>
            {
                let text =
                    format!("network {network}, removed from Docker here, is the cluster's still: {error}");
                return Outcome::Failed(Problem { text, is_severe: false });
            }
            Err(error) => {
                let text = format!("network {network} was removed from Docker here, and made again: {error}");
                self.tell(Problem { text, is_severe: false });
            }
        }
        self.removed.remove(id);
        self.clearing.remove(id);
        self.forgotten(id)
    }

    /// Whether containers of this node may only seem to be on a network that Docker has let go: what it took off
    /// while overlayd was away is found after a while.
    fn is_clearing(&mut self, id: &DockerNetworkId, network: &NetworkName) -> bool {
        let since = *self.clearing.entry(id.clone()).or_insert_with(Instant::now);
        let content = self.registry.now();
        since.elapsed() < FOUND_WITHIN
            && content.endpoints.values().any(|endpoint| endpoint.network == *network)
    }

    /// Removes from Docker what the cluster has not.
    async fn remove(
        &mut self,
        engine: &Engine,
        id: &DockerNetworkId,
        name: &str,
        why: &str,
    ) -> Result<Outcome, EngineError> {
        let Err(error) = self.take_away(engine, id).await? else {
            tracing::info!(network = name, why, "removed from Docker");
            return Ok(Outcome::Done);
        };
        let on_it = match engine.network(id.as_str()).await {
            Ok(Some(network)) if !network.containers.is_empty() => {
                let containers = network.containers.join(", ");
                format!(
                    "; on it are {containers}: take them off with `docker network disconnect -f {name} CONTAINER`"
                )
            }
            _ => String::new(),
        };
        let text = format!("network {name} is Docker's still, though {why}: {error}{on_it}");
        Ok(Outcome::Failed(Problem { text, is_severe: false }))
    }

    /// Removes a network from Docker; the inner error is why it could not be.
    async fn take_away(
        &self,
        engine: &Engine,
        id: &DockerNetworkId,
    ) -> Result<Result<(), String>, EngineError> {
        // Not known any more when its removal is told, which is not to be taken for its user's.
        let known = self.registry.network(id);
        if let Err(error) = self.registry.forget_network(id) {
            return Ok(Err(unwritable(&error).text));
        }
        let Err(error) = engine.remove_network(id).await else { return Ok(Ok(())) };
        if let Some(known) = known
            && let Err(error) = self.registry.set_network(id.clone(), known)
        {
            return Ok(Err(unwritable(&error).text));
        }
        if error.is_away() { Err(error) } else { Ok(Err(error.to_string())) }
    }

    fn noted(&self, id: DockerNetworkId, network: NetworkName) -> Outcome {
        match self.registry.set_network(id, DockerNetwork::Known(network)) {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::Failed(unwritable(&error)),
        }
    }

    fn forgotten(&self, id: &DockerNetworkId) -> Outcome {
        match self.registry.forget_network(id) {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::Failed(unwritable(&error)),
        }
    }

    fn is_shared(&self) -> bool {
        self.scope == DockerScope::Global
    }

    fn tell(&mut self, problem: Problem) {
        self.told.push((Instant::now() + TOLD_FOR, problem));
    }

    /// Waits until what was written is read back. Returns whether it is.
    async fn echo(&self, seen: impl Fn(&State) -> bool) -> bool {
        let mut known = self.known.clone();
        matches!(timeout(ECHO, known.wait_for(|known| seen(&known.state))).await, Ok(Ok(_)))
    }
}

/// Waits for this node's turn to make a network in a store that all have; whether another has made it meanwhile.
async fn made_by_another(engine: &Engine, network: &NetworkName) -> Result<bool, EngineError> {
    sleep(TURN_UP_TO.mul_f64(rand::random())).await;
    Ok(engine.networks().await?.iter().any(|there| there.name == network.as_str()))
}

fn unwritable(error: &io::Error) -> Problem {
    let text =
        format!("which of Docker's networks is which cannot be written to the state directory: {error}");
    Problem { text, is_severe: true }
}

fn has_pending(content: &Content) -> bool {
    content.networks.values().any(|network| matches!(network, DockerNetwork::Pending(_)))
}

/// Whether a state is another for Docker.
fn is_news(seen: &Known, now: &Known) -> bool {
    seen.source != now.source || seen.state.networks != now.state.networks
}
