//! What is used of Docker's Engine API, each call with a deadline.
//!
//! Nothing here is ever waited for by a handler of the plugin: dockerd waits for that, and would wait for ever.

mod container;
mod error;
mod event;
mod network;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::Duration,
};

use bollard::{
    API_DEFAULT_VERSION, Docker,
    models::LocalNodeState,
    query_parameters::{
        EventsOptions, InspectContainerOptions, InspectNetworkOptions, ListContainersOptions,
    },
};
pub use container::{Container, ContainerId, Membership};
pub use error::EngineError;
pub use event::{Event, Moment};
use futures::{Stream, StreamExt as _, TryStreamExt as _, future};
use hyper::{Uri, http::uri::PathAndQuery};
pub use network::{EngineNetwork, EngineSubnet, NewEngineNetwork};
use tokio::time::timeout;

use super::DockerNetworkId;

/// How long dockerd may take to answer; inspecting a container waits until that has started.
const DEADLINE: Duration = Duration::from_secs(10);

/// How long it may take to make or remove a network, for which it asks the plugin several times.
const CHANGE_DEADLINE: Duration = Duration::from_secs(40);

/// The longest that a request to a dockerd on this machine is kept at all, in seconds.
const CONNECTION_SECONDS: u64 = 60;

/// A dockerd that answers.
#[derive(Clone, Debug)]
pub struct Engine {
    docker: Docker,
    socket: PathBuf,
    version: EngineVersion,
}

/// What a dockerd is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineVersion {
    /// Its version.
    pub engine: String,
    /// The version of the API that is spoken with it.
    pub api: String,
}

// === impl Engine ===

impl Engine {
    /// Connects to the dockerd behind a Unix socket, and agrees with it on a version of the API.
    pub async fn connect(socket: &Path) -> Result<Self, EngineError> {
        let fail = |error| EngineError::of(socket, error);
        let docker =
            Docker::connect_with_unix(&socket.to_string_lossy(), CONNECTION_SECONDS, API_DEFAULT_VERSION);
        let docker = docker.map_err(fail)?;
        let agree = async {
            let docker = docker.negotiate_version().await?;
            let version = docker.version().await?;
            Ok((docker, version))
        };
        let agreed = timeout(DEADLINE, agree).await.map_err(|_| EngineError::overdue(socket, DEADLINE))?;
        let (docker, version) = agreed.map_err(fail)?;
        let api = docker.client_version().to_string();
        let docker = at_version(docker, &api);
        let engine = version.version.unwrap_or_else(|| "of unknown version".to_owned());
        Ok(Self { docker, socket: socket.to_owned(), version: EngineVersion { engine, api } })
    }

    /// What it is.
    #[must_use]
    pub const fn version(&self) -> &EngineVersion {
        &self.version
    }

    /// Whether its containers run on when it ends: its setting `live-restore`.
    pub async fn leaves_containers(&self) -> Result<bool, EngineError> {
        let info = self.within(DEADLINE, self.docker.info()).await?;
        Ok(info.live_restore_enabled.unwrap_or_default())
    }

    /// Whether it is one of a Swarm's.
    pub async fn is_in_swarm(&self) -> Result<bool, EngineError> {
        let info = self.within(DEADLINE, self.docker.info()).await?;
        let state = info.swarm.and_then(|swarm| swarm.local_node_state);
        Ok(!matches!(state, None | Some(LocalNodeState::EMPTY | LocalNodeState::INACTIVE)))
    }

    /// All its networks, of whichever driver. One that makes no sense is left out.
    pub async fn networks(&self) -> Result<Vec<EngineNetwork>, EngineError> {
        let listed = self.within(DEADLINE, self.docker.list_networks(None)).await?;
        Ok(listed.into_iter().filter_map(EngineNetwork::listed).collect())
    }

    /// A network by its name or id, and who is on it; `None` if there is no such network.
    pub async fn network(&self, name: &str) -> Result<Option<EngineNetwork>, EngineError> {
        let asked = self.docker.inspect_network(name, None::<InspectNetworkOptions>);
        match self.within(DEADLINE, asked).await {
            Ok(found) => EngineNetwork::inspected(found)
                .ok_or_else(|| self.garbled(format!("network {name:?} has no name or id")))
                .map(Some),
            Err(EngineError::Refused { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a network.
    pub async fn create_network(&self, new: NewEngineNetwork) -> Result<DockerNetworkId, EngineError> {
        let asked = self.docker.create_network(new.into_request());
        let made = self.within(CHANGE_DEADLINE, asked).await?;
        made.id.parse().map_err(|error| self.garbled(format!("a network was made, but {error}")))
    }

    /// Removes a network. Without error if it is gone already.
    pub async fn remove_network(&self, id: &DockerNetworkId) -> Result<(), EngineError> {
        match self.within(CHANGE_DEADLINE, self.docker.remove_network(id.as_str())).await {
            Err(EngineError::Refused { status: 404, .. }) => Ok(()),
            done => done,
        }
    }

    /// The containers that run, and the networks they are on.
    pub async fn containers(&self) -> Result<Vec<Container>, EngineError> {
        let listed = self.docker.list_containers(None::<ListContainersOptions>);
        let listed = self.within(DEADLINE, listed).await?;
        Ok(listed.into_iter().filter_map(Container::listed).collect())
    }

    /// A container; `None` if it is gone. Waits for one that is being started.
    pub async fn container(&self, id: &ContainerId) -> Result<Option<Container>, EngineError> {
        let asked = self.docker.inspect_container(id.as_str(), None::<InspectContainerOptions>);
        match self.within(DEADLINE, asked).await {
            Ok(found) => Ok(Container::inspected(found)),
            Err(EngineError::Refused { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What has happened to networks and containers since a moment, and then what happens. Ends only with the
    /// connection.
    pub fn events(&self, since: Moment) -> impl Stream<Item = Result<Event, EngineError>> + '_ {
        self.happened(since, None, &["create", "destroy", "remove", "connect", "start", "rename"])
    }

    /// The networks whose removal dockerd remembers: it keeps its last 256 events of any kind, until it ends.
    pub async fn removed_networks(&self) -> Result<Vec<DockerNetworkId>, EngineError> {
        let past = self.happened(Moment::FIRST, Some(Moment::now()), &["destroy", "remove"]);
        let removed = past.try_filter_map(|event| {
            let removed = match event {
                Event::NetworkRemoved(id) => Some(id),
                _ => None,
            };
            future::ready(Ok(removed))
        });
        timeout(DEADLINE, removed.try_collect())
            .await
            .map_err(|_| EngineError::overdue(&self.socket, DEADLINE))?
    }

    fn happened(
        &self,
        since: Moment,
        until: Option<Moment>,
        actions: &[&str],
    ) -> impl Stream<Item = Result<Event, EngineError>> + use<'_> {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        let filters = HashMap::from([
            ("type".to_owned(), words(&["network", "container"])),
            ("event".to_owned(), words(actions)),
        ]);
        let options = EventsOptions {
            since: Some(since.to_string()),
            until: until.map(|until| until.to_string()),
            filters: Some(filters),
        };
        let happened = self.docker.events(Some(options));
        happened.filter_map(|message| {
            future::ready(match message {
                Ok(message) => Event::of_message(message).map(Ok),
                Err(error) => Some(Err(EngineError::of(&self.socket, error))),
            })
        })
    }

    /// That what was to go on for ever has ended.
    #[must_use]
    pub fn ended(&self) -> EngineError {
        let why = "it has ended the connection".to_owned();
        EngineError::Unreachable { socket: self.socket.clone(), why }
    }

    async fn within<T>(
        &self,
        deadline: Duration,
        answer: impl Future<Output = Result<T, bollard::errors::Error>>,
    ) -> Result<T, EngineError> {
        match timeout(deadline, answer).await {
            Ok(answer) => answer.map_err(|error| EngineError::of(&self.socket, error)),
            Err(_) => Err(EngineError::overdue(&self.socket, deadline)),
        }
    }

    fn garbled(&self, what: String) -> EngineError {
        EngineError::Garbled { socket: self.socket.clone(), what }
    }
}

/// Has every request name the version of the API that was agreed on: bollard 0.21 agrees on one, but then names
/// none, which a dockerd takes for its own newest.
fn at_version(docker: Docker, api: &str) -> Docker {
    let prefix = format!("/v{api}");
    docker.with_request_modifier(move |mut request| {
        if let Some(target) = request.uri().path_and_query().map(PathAndQuery::as_str)
            && !target.starts_with("/v1.")
            && let Ok(target) = PathAndQuery::try_from(format!("{prefix}{target}"))
        {
            let mut parts = request.uri().clone().into_parts();
            parts.path_and_query = Some(target);
            if let Ok(uri) = Uri::from_parts(parts) {
                *request.uri_mut() = uri;
            }
        }
        request
    })
}
