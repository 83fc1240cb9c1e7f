//! Which of our networks each container is on, for who serves names.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use tokio::sync::watch;

use super::Content;
use crate::dns::{Scope, Scopes};

/// Publishes the scopes of what Docker has of ours, until nobody follows them.
pub async fn publish(mut content: watch::Receiver<Arc<Content>>, scopes: watch::Sender<Scopes>) {
    loop {
        let now = Arc::clone(&content.borrow_and_update());
        scopes.send_if_modified(|scopes| {
            let new = scopes_of(&now);
            let changed = **scopes != new;
            *scopes = Arc::new(new);
            changed
        });
        if content.changed().await.is_err() {
            return;
        }
    }
}

/// The sandboxes of Docker's endpoints, and the networks of each.
fn scopes_of(content: &Content) -> BTreeMap<PathBuf, Scope> {
    let mut scopes = BTreeMap::<_, Scope>::new();
    for endpoint in content.endpoints.values() {
        if let Some(sandbox) = &endpoint.sandbox {
            scopes.entry(sandbox.clone()).or_default().insert(endpoint.network.clone());
        }
    }
    scopes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MacAddr, docker::DockerEndpoint};

    #[test]
    fn a_container_has_the_names_of_all_its_networks_and_one_without_a_namespace_none() {
        let endpoint = |network: &str, sandbox: Option<&str>| DockerEndpoint {
            network: network.parse().unwrap(),
            endpoint: "0123456789ab".parse().unwrap(),
            mac: MacAddr([2, 0x42, 10, 0, 9, 2]),
            sandbox: sandbox.map(Into::into),
        };
        let endpoints = [
            endpoint("blue", Some("/var/run/docker/netns/1")),
            endpoint("red", Some("/var/run/docker/netns/1")),
            endpoint("blue", Some("/var/run/docker/netns/2")),
            endpoint("blue", None),
        ];
        let ids = ["1", "2", "3", "4"].map(|digit| digit.repeat(64).parse().unwrap());
        let content = Content { endpoints: ids.into_iter().zip(endpoints).collect(), ..Content::default() };
        let shown: Vec<_> = scopes_of(&content)
            .into_iter()
            .map(|(sandbox, networks)| {
                (sandbox, networks.iter().map(ToString::to_string).collect::<Vec<_>>())
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("/var/run/docker/netns/1".into(), vec!["blue".to_owned(), "red".to_owned()]),
                ("/var/run/docker/netns/2".into(), vec!["blue".to_owned()]),
            ]
        );
    }
}
