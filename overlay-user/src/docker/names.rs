//! By which names endpoints of containers are known: Docker tells them only when it is asked, after the container
//! was put on its network.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::{sync::mpsc, time::interval};

use super::{
    Registry,
    engine::{Container, ContainerId, Engine, EngineError},
};
use crate::{
    state::{Endpoint, MOST_NAMES, NodeName},
    store::{Store, StoreError},
};

/// How many containers are looked at at once. One that is being started is waited for.
const AT_ONCE: usize = 128;

/// How often all containers are looked at though nothing has happened: dockerd does not keep events for who is slow.
const COMPARE: Duration = Duration::from_mins(5);

/// When what could not be done is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// Keeps endpoints' names at what Docker says.
pub struct Names {
    /// This node, whose endpoints they are.
    pub node: NodeName,
    /// Where they are kept.
    pub store: Store,
    /// Which endpoint is which.
    pub registry: Arc<Registry>,
}

/// A container that is being looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// Nothing has happened to it since.
    Fresh,
    /// To be looked at again after that.
    Again,
}

impl Names {
    /// Looks at all containers, then at those that something happens to. Returns how dockerd went away.
    pub async fn follow(&self, engine: &Engine, mut happened: mpsc::Receiver<ContainerId>) -> EngineError {
        let look = async |container: ContainerId| -> (ContainerId, Result<(), Unnamed>) {
            let looked = self.look(engine, &container).await;
            (container, looked)
        };
        let mut looks = FuturesUnordered::new();
        let mut busy: BTreeMap<ContainerId, Look> = BTreeMap::new();
        let mut compare = interval(COMPARE);
        let (failed, mut to_retry) = mpsc::unbounded_channel();
        loop {
            let begin: Vec<ContainerId> = tokio::select! {
                Some(container) = happened.recv(), if looks.len() < AT_ONCE => vec![container],
                Some(container) = to_retry.recv() => vec![container],
                _ = compare.tick() => match self.ours(engine).await {
                    Ok(containers) => containers,
                    Err(error) if error.is_away() => return error,
                    Err(error) => {
                        tracing::warn!(%error, "Docker's containers cannot be listed");
                        Vec::new()
                    }
                },
                Some::<(ContainerId, Result<(), Unnamed>)>((container, looked)) = looks.next(), if !looks.is_empty() => {
                    match looked {
                        Ok(()) => {}
                        Err(Unnamed::Engine(error)) if error.is_away() => return error,
                        Err(Unnamed::Engine(error)) => {
                            tracing::debug!(container = container.short(), %error, "a container was not inspected");
                        }
                        Err(Unnamed::Store(error)) => {
                            tracing::debug!(container = container.short(), %error, "its names are not kept yet");
                            later(failed.clone(), container.clone());
                        }
                    }
                    match busy.remove(&container) {
                        Some(Look::Again) => vec![container],
                        _ => Vec::new(),
                    }
                }
            };
            for container in begin {
                if let Some(look) = busy.get_mut(&container) {
                    *look = Look::Again;
                } else {
                    busy.insert(container.clone(), Look::Fresh);
                    looks.push(look(container));
                }
            }
        }
    }

    /// The running containers that are on networks of ours.
    async fn ours(&self, engine: &Engine) -> Result<Vec<ContainerId>, EngineError> {
        let containers = engine.containers().await?;
        let content = self.registry.now();
        let is_ours = |container: &Container| {
            container
                .memberships
                .iter()
                .any(|membership| content.endpoints.contains_key(&membership.endpoint))
        };
        Ok(containers.into_iter().filter(is_ours).map(|container| container.id).collect())
    }

    /// Sees that a container's endpoints have the names Docker says.
    async fn look(&self, engine: &Engine, id: &ContainerId) -> Result<(), Unnamed> {
        let container = match engine.container(id).await {
            Ok(Some(container)) => container,
            // One takes long to start, and will be told of when it has.
            Ok(None) | Err(EngineError::Overdue { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let content = self.registry.now();
        for membership in &container.memberships {
            let Some(endpoint) = content.endpoints.get(&membership.endpoint) else {
                continue;
            };
            let names = usable(container.names(membership));
            // One that is not there was stopped meanwhile.
            self.store.set_endpoint_names(&self.node, &endpoint.network, &endpoint.endpoint, &names).await?;
        }
        Ok(())
    }
}

/// Why a container's endpoints may not have its names.
#[derive(Debug, thiserror::Error)]
enum Unnamed {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Hands a container on after a while.
fn later(to: mpsc::UnboundedSender<ContainerId>, container: ContainerId) {
    tokio::spawn(async move {
        tokio::time::sleep(RETRY).await;
        let _ = to.send(container);
    });
}

/// The names that can be an endpoint's: Docker takes any text for an alias.
fn usable(mut names: Vec<String>) -> Vec<String> {
    names.retain(|name| Endpoint::is_name(name));
    names.truncate(MOST_NAMES);
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_that_are_no_names_are_left_out() {
        let names = ["web", "a b", "", "../x", "www.example.com"].map(str::to_owned).to_vec();
        assert_eq!(usable(names), ["web", "www.example.com"]);
        assert_eq!(usable(vec!["a".to_owned(); 40]).len(), MOST_NAMES);
    }
}
