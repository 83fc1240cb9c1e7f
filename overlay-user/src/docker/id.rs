//! Docker's identities: 64 hexadecimal digits.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::state::shown;

/// A text that is no identity of Docker's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an identity of Docker's: it has 64 digits of 0-9 a-f")]
pub struct ParseIdError(String);

macro_rules! docker_id {
    ($(#[$doc:meta])+ $type:ident) => {
        $(#[$doc])+
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            /// The digits.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let is_id = text.len() == 64 && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
                if is_id { Ok(Self(text.into())) } else { Err(ParseIdError(shown(text))) }
            }
        }

        impl TryFrom<String> for $type {
            type Error = ParseIdError;

            fn try_from(text: String) -> Result<Self, ParseIdError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(id: $type) -> Self {
                id.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

docker_id!(
    /// A network's identity in one Docker: with scope local, the same network has another one in each.
    DockerNetworkId
);
docker_id!(
    /// The identity of one connection of one container to a network: another one at each start.
    DockerEndpointId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_64_digits_are_an_identity() {
        let id = "0123456789abcdef".repeat(4);
        assert_eq!(id.parse::<DockerNetworkId>().unwrap().as_str(), id);
        for bad in ["", "0123", &id[1..], &id.to_uppercase(), &format!("{id}0"), &"é".repeat(32)] {
            assert!(bad.parse::<DockerEndpointId>().is_err(), "{bad:?}");
        }
    }
}
