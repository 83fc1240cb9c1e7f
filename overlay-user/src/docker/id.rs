//! Docker's identities: 64 hexadecimal digits.

use crate::state::{checked_text, shown};

/// A text that is no identity of Docker's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an identity of Docker's: it has 64 digits of 0-9 a-f")]
pub struct ParseIdError(String);

checked_text!(
    /// A network's identity in one Docker: with scope local, the same network has another one in each.
    DockerNetworkId, ParseIdError, check
);
checked_text!(
    /// The identity of one connection of one container to a network: another one at each start.
    DockerEndpointId, ParseIdError, check
);

fn check(text: &str) -> Result<(), ParseIdError> {
    let is_id = text.len() == 64 && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
    if is_id { Ok(()) } else { Err(ParseIdError(shown(text))) }
}

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
