//! Containers, and by which names they are known on their networks.

use std::collections::HashMap;

use bollard::models::{ContainerInspectResponse, ContainerSummary, EndpointSettings};

use crate::docker::DockerEndpointId;

/// How many digits of its id a container is commonly called by.
const SHORT: usize = 12;

/// A container's id: 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(String);

/// A container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its id.
    pub id: ContainerId,
    /// Its name.
    pub name: String,
    /// Where it is on networks.
    pub memberships: Vec<Membership>,
}

/// A container's being on one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Docker's id of the endpoint, another one with each start.
    pub endpoint: DockerEndpointId,
    /// By what it is known there beside its own name and id, as far as dockerd says.
    pub aliases: Vec<String>,
}

// === impl ContainerId ===

impl ContainerId {
    /// An id, if `text` is one.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let digits = text.len() == 64 && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        digits.then(|| Self(text.to_owned()))
    }

    /// The whole id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The digits it is commonly called by.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..SHORT]
    }
}

// === impl Container ===

impl Container {
    /// One of a list, which has no aliases.
    pub(super) fn listed(summary: ContainerSummary) -> Option<Self> {
        let ContainerSummary { id, names, network_settings, .. } = summary;
        let name = names?.into_iter().next()?;
        Self::new(&id?, &name, network_settings?.networks)
    }

    /// One that was asked for.
    pub(super) fn inspected(found: ContainerInspectResponse) -> Option<Self> {
        let ContainerInspectResponse { id, name, network_settings, .. } = found;
        Self::new(&id?, &name?, network_settings?.networks)
    }

    fn new(id: &str, name: &str, networks: Option<HashMap<String, EndpointSettings>>) -> Option<Self> {
        let mut memberships: Vec<_> =
            networks.into_iter().flatten().filter_map(|(_, settings)| Membership::new(settings)).collect();
        memberships.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
        // Docker writes names as paths.
        let name = name.trim_start_matches('/').to_owned();
        Some(Self { id: ContainerId::new(id)?, name, memberships })
    }

    /// The names it is to be known by on a network, its own first and each once.
    pub fn names(&self, membership: &Membership) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        let aliases = membership.aliases.iter().map(String::as_str);
        for name in [self.name.as_str()].into_iter().chain(aliases).chain([self.id.short()]) {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        names
    }
}

impl Membership {
    /// `None` for a network the container is to be on when it runs.
    fn new(settings: EndpointSettings) -> Option<Self> {
        let EndpointSettings { endpoint_id, aliases, dns_names, .. } = settings;
        // From Docker 25 on; before, the aliases have all.
        let mut names = aliases.unwrap_or_default();
        names.extend(dns_names.unwrap_or_default());
        Some(Self { endpoint: endpoint_id?.parse().ok()?, aliases: names })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn names(settings: &str) -> Vec<Vec<String>> {
        let json =
            format!(r#"{{"Id":"{ID}","Name":"/web","NetworkSettings":{{"Networks":{{"n":{settings}}}}}}}"#);
        let container = Container::inspected(serde_json::from_str(&json).unwrap()).unwrap();
        container.memberships.iter().map(|membership| container.names(membership)).collect()
    }

    #[test]
    fn a_container_is_known_by_its_name_its_aliases_and_its_id() {
        // As Docker 20.10 has it, where the aliases end with the id.
        let old = format!(r#"{{"EndpointID":"{ID}","Aliases":["www","0123456789ab"]}}"#);
        assert_eq!(names(&old), [["web", "www", "0123456789ab"]]);
        // As Docker 28 has it.
        let new = format!(
            r#"{{"EndpointID":"{ID}","Aliases":["www"],"DNSNames":["web","www","0123456789ab","host1"]}}"#
        );
        assert_eq!(names(&new), [["web", "www", "0123456789ab", "host1"]]);
        assert_eq!(names(&format!(r#"{{"EndpointID":"{ID}","Aliases":null}}"#)), [["web", "0123456789ab"]]);
    }

    #[test]
    fn a_container_that_does_not_run_is_on_no_network() {
        assert!(names(r#"{"EndpointID":"","Aliases":["www"]}"#).is_empty());
        assert!(names("{}").is_empty());
    }

    #[test]
    fn what_is_no_id_is_none() {
        for bad in ["", "0123456789ab", &ID.to_uppercase(), &format!("{ID}0"), &ID.replace('0', "/")] {
            assert_eq!(ContainerId::new(bad), None, "{bad}");
        }
        assert_eq!(ContainerId::new(ID).unwrap().short(), "0123456789ab");
    }
}
