//! How an operator points at an endpoint: by its identity, the beginning of it, or a name.

use std::{fmt, str::FromStr};

use super::{ApiError, Kind};
use crate::state::{Endpoint, EndpointId, NameError, NetworkName, NodeName, State};

/// An endpoint's identity, the beginning of one, or one of its names. Safe in a URL's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointRef(NodeName);

impl FromStr for EndpointRef {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        text.parse().map(Self)
    }
}

impl fmt::Display for EndpointRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What an [`EndpointRef`] stands for.
pub struct Found<'a> {
    pub network: &'a NetworkName,
    pub endpoint: &'a Endpoint,
}

impl EndpointRef {
    /// The identity, if it was given in full.
    #[must_use]
    pub fn full_id(&self) -> Option<EndpointId> {
        self.0.as_str().parse().ok()
    }

    /// Finds the one endpoint it stands for. An identity goes before a name, a name before the
    /// beginning of an identity.
    pub fn find<'a>(&self, state: &'a State) -> Result<Found<'a>, ApiError> {
        let text = self.0.as_str();
        let all = |matches: &dyn Fn(&Endpoint) -> bool| -> Vec<Found<'a>> {
            let found = state.endpoints.iter().filter(|(_, endpoint)| matches(endpoint));
            found.map(|(network, endpoint)| Found { network, endpoint }).collect()
        };
        let id = self.full_id();
        let by_id = all(&|endpoint| Some(&endpoint.id) == id.as_ref());
        let by_name = || all(&|endpoint| endpoint.names().any(|name| name == text));
        let by_prefix = || all(&|endpoint| endpoint.id.starts_with(text));
        let mut found = Some(by_id).filter(|f| !f.is_empty());
        found = found.or_else(|| Some(by_name()).filter(|f| !f.is_empty()));
        let mut found = found.unwrap_or_else(by_prefix);
        match (found.pop(), found.pop()) {
            (Some(only), None) => Ok(only),
            (None, _) => Err(ApiError::not_found(format!(
                "no endpoint has the id or name {text}: `overlayctl endpoint ls` lists them"
            ))),
            (Some(one), Some(other)) => Err(ApiError::new(
                Kind::Conflict,
                format!(
                    "{text} stands for {} endpoints, {} on {} and {} on {} among them: give a whole id",
                    found.len() + 2,
                    other.endpoint.id,
                    other.network,
                    one.endpoint.id,
                    one.network
                ),
            )),
        }
    }
}
