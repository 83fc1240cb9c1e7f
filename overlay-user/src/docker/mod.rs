//! Docker's networks are ours: the driver that Docker calls, and what Docker has of ours.
//!
//! A front door like `api`: it writes intent to the store and never touches the data path.

pub mod engine;
mod id;
mod left_behind;
mod names;
mod networks;
mod plugin;
pub mod propagate;
mod refusal;
mod registry;
mod report;
mod scopes;
mod sync;

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use ipnet::IpNet;
use tokio::{
    sync::watch,
    time::{interval, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use id::{DockerEndpointId, DockerNetworkId, ParseIdError};
pub use plugin::{Inherited, NETWORK, Plugin, PluginSocket, PluginSocketError};
pub use refusal::tell_who_waits;
pub use registry::{Content, DockerEndpoint, DockerNetwork, PendingNetwork, Registry};
pub use report::{EngineReport, Problem, Reach, View};
pub use sync::Sync;

use self::refusal::{NOT_HERE, refuse};
use crate::{
    api::Context,
    config::Config,
    daemon::Source,
    dns::{Resolver, Scopes, Settings},
};

/// How often it is looked whether Docker's endpoints still have their records.
const LOOK: Duration = Duration::from_secs(30);

/// When a socket that could not be had is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// What answers the names of Docker's containers, as the settings say.
#[must_use]
pub fn resolver(config: &Config) -> Option<Arc<Resolver>> {
    let docker = config.docker.as_ref().map(|socket| socket.path.clone());
    Some(Resolver::new(Settings { addr: config.dns?, upstreams: config.dns_upstream.clone(), docker }))
}

/// Serves Docker, and names, until `cancel`, as the settings say. `prefixes` are those that this host has routes to.
pub fn start(
    tasks: &TaskTracker,
    config: &Config,
    context: &Arc<Context>,
    prefixes: watch::Receiver<Vec<IpNet>>,
    report: watch::Sender<EngineReport>,
    cancel: &CancellationToken,
) {
    let (scopes, scopes_seen) = watch::channel(Scopes::default());
    if let Some(resolver) = &context.dns {
        tasks.spawn(Arc::clone(resolver).run(context.known.clone(), scopes_seen, cancel.clone()));
    }
    for other in Inherited::here().but(config.docker_plugin.as_deref()) {
        tasks.spawn(refuse(other, NOT_HERE.to_owned(), cancel.clone()));
    }
    let Some(path) = config.docker_plugin.clone() else { return };
    let registry = Registry::open(&config.state_dir);
    tasks.spawn(cancel.clone().run_until_cancelled_owned(scopes::publish(registry.content(), scopes)));
    let (context_of_plugin, registry_of_plugin) = (Arc::clone(context), Arc::clone(&registry));
    let plugin = Plugin::new(
        context_of_plugin,
        registry_of_plugin,
        config.docker_scope,
        config.docker.is_some(),
        prefixes,
    );
    if let Some(socket) = config.docker.clone() {
        let sync = Sync {
            node: config.node.clone(),
            socket,
            plugin: path.clone(),
            store: context.store.clone(),
            registry: Arc::clone(&registry),
            known: context.known.clone(),
            report,
            scope: config.docker_scope,
        };
        tasks.spawn(sync.run(cancel.clone()));
    }
    let left_behind = left_behind::take_off(Arc::clone(&plugin), Arc::clone(&registry));
    tasks.spawn(cancel.clone().run_until_cancelled_owned(left_behind));
    tasks.spawn(serve_plugin(path, plugin, cancel.clone()));
    tasks.spawn(cancel.clone().run_until_cancelled_owned(forget_the_gone(Arc::clone(context), registry)));
}

/// Serves the plugin socket; one that cannot be had, or whose file somebody removes, is tried for again.
async fn serve_plugin(path: PathBuf, plugin: Arc<Plugin>, cancel: CancellationToken) {
    let mut complained = false;
    while !cancel.is_cancelled() {
        match PluginSocket::open(&path, Inherited::here().at(&path)) {
            Ok(socket) => {
                complained = false;
                tracing::info!(socket = %path.display(), "Docker finds the driver overlayd here");
                if let Err(error) =
                    plugin::serve(socket, plugin::router(Arc::clone(&plugin)), cancel.clone()).await
                {
                    tracing::warn!(%error, "the plugin socket broke");
                }
            }
            Err(error) if !complained => {
                complained = true;
                tracing::warn!(%error, "Docker does not find the driver overlayd");
            }
            Err(_) => {}
        }
        cancel.run_until_cancelled(sleep(RETRY)).await;
    }
}

/// Forgets endpoints whose records are gone: given up while no daemon ran, or by an operator.
async fn forget_the_gone(context: Arc<Context>, registry: Arc<Registry>) {
    let mut known = context.known.clone();
    // What was kept from before a restart says nothing about what is.
    if known.wait_for(|known| known.source == Source::Store).await.is_err() {
        return;
    }
    let mut look = interval(LOOK);
    loop {
        look.tick().await;
        let before = registry.now();
        let state = context.state();
        let own: BTreeSet<_> =
            state.endpoints.of_node(&context.node).map(|(_, endpoint)| &endpoint.id).collect();
        // One that is kept meanwhile is not in that state yet.
        let stands = |endpoint: &DockerEndpoint| {
            own.contains(&endpoint.endpoint) || !before.endpoints.values().any(|old| old == endpoint)
        };
        if let Err(error) = registry.retain_endpoints(stands) {
            tracing::warn!(%error, "endpoints that are gone are not forgotten");
        }
    }
}
