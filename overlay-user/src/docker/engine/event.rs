//! What dockerd tells of networks and containers as it happens.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bollard::models::{EventMessage, EventMessageTypeEnum as Kind};

use super::ContainerId;
use crate::docker::DockerNetworkId;

/// A moment by the clock of this machine, which is dockerd's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(Duration);

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A network was made.
    NetworkMade(DockerNetworkId),
    /// A network was removed.
    NetworkRemoved(DockerNetworkId),
    /// A container was put on a network, started or renamed: it may have other names than before.
    Named(ContainerId),
}

// === impl Moment ===

impl Moment {
    /// Before everything. Not zero, which dockerd takes for no moment at all.
    pub const FIRST: Self = Self(Duration::from_secs(1));

    /// Now.
    #[must_use]
    pub fn now() -> Self {
        Self(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }
}

impl fmt::Display for Moment {
    /// As the API takes it: seconds and nanoseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.0.as_secs(), self.0.subsec_nanos())
    }
}

// === impl Event ===

impl Event {
    /// What a message says; `None` if that is nothing to this node, or makes no sense.
    pub(super) fn of_message(message: EventMessage) -> Option<Self> {
        let EventMessage { typ, action, actor, .. } = message;
        let actor = actor?;
        let id = actor.id?;
        match (typ?, action?.as_str()) {
            (Kind::NETWORK, "create") => id.parse().ok().map(Self::NetworkMade),
            (Kind::NETWORK, "destroy" | "remove") => id.parse().ok().map(Self::NetworkRemoved),
            (Kind::NETWORK, "connect") => {
                let container = actor.attributes?.remove("container")?;
                ContainerId::new(&container).map(Self::Named)
            }
            (Kind::CONTAINER, "start" | "rename") => ContainerId::new(&id).map(Self::Named),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "8fc9aa1e4d0c5f17b1f0a58c7d6e5b4a39281706f5e4d3c2b1a0998877665544";

    fn event(json: &str) -> Option<Event> {
        Event::of_message(serde_json::from_str(&json.replace('@', ID)).unwrap())
    }

    #[test]
    fn messages_are_events_of_networks_and_names_of_containers() {
        let container = ContainerId::new(ID).unwrap();
        for (json, expected) in [
            (
                r#"{"Type":"network","Action":"create","Actor":{"ID":"@","Attributes":{"name":"n","type":"overlayd"}},
                    "scope":"local","time":1,"timeNano":1000000001}"#,
                Some(Event::NetworkMade(ID.parse().unwrap())),
            ),
            (
                r#"{"Type":"network","Action":"destroy","Actor":{"ID":"@","Attributes":{"name":"n"}}}"#,
                Some(Event::NetworkRemoved(ID.parse().unwrap())),
            ),
            (
                r#"{"Type":"network","Action":"connect","Actor":{"ID":"x","Attributes":{"container":"@"}}}"#,
                Some(Event::Named(container.clone())),
            ),
            (
                r#"{"Type":"container","Action":"start","Actor":{"ID":"@","Attributes":{}}}"#,
                Some(Event::Named(container)),
            ),
            (r#"{"Type":"container","Action":"destroy","Actor":{"ID":"@","Attributes":{}}}"#, None),
            (r#"{"Type":"network","Action":"create","Actor":{"ID":"../x"}}"#, None),
            (r#"{"Type":"network","Action":"connect","Actor":{"ID":"@"}}"#, None),
            (r#"{"Type":"network"}"#, None),
            ("{}", None),
        ] {
            assert_eq!(event(json), expected, "{json}");
        }
    }

    #[test]
    fn a_moment_has_nine_digits_behind_its_seconds() {
        assert_eq!(Moment(Duration::new(7, 42)).to_string(), "7.000000042");
        assert_eq!(Moment::FIRST.to_string(), "1.000000000");
    }
}
