//! The pool ids that Docker keeps for a network as long as that lives.

use std::{fmt, str::FromStr};

use crate::{
    api::ApiError,
    state::{NameError, NetworkName, PoolId, shown},
};

/// What a pool is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was claimed for a network that had no name yet.
    Claim(PoolId),
    /// It is a network's that was there.
    Network(NetworkName),
}

/// One subnet of a network, as Docker refers to it: `overlayd/<id>/4` or `overlayd/net:<name>/6`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolRef {
    /// Whose.
    pub origin: Origin,
    /// The IPv6 subnet, not the IPv4 one.
    pub six: bool,
}

impl FromStr for PoolRef {
    type Err = ApiError;

    fn from_str(text: &str) -> Result<Self, ApiError> {
        let unknown = || ApiError::invalid(format!("{:?} is no pool of overlayd's", shown(text)));
        let (rest, six) = match text.strip_prefix("overlayd/").and_then(|rest| rest.rsplit_once('/')) {
            Some((rest, "4")) => (rest, false),
            Some((rest, "6")) => (rest, true),
            _ => return Err(unknown()),
        };
        let origin = match rest.strip_prefix("net:") {
            Some(name) => Origin::Network(name.parse().map_err(|_: NameError| unknown())?),
            None => Origin::Claim(rest.parse().map_err(|_: NameError| unknown())?),
        };
        Ok(Self { origin, six })
    }
}

impl fmt::Display for PoolRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.six { 6 } else { 4 };
        match &self.origin {
            Origin::Claim(id) => write!(f, "overlayd/{id}/{family}"),
            Origin::Network(name) => write!(f, "overlayd/net:{name}/{family}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_read_as_it_is_written() {
        for six in [false, true] {
            for origin in [Origin::Claim(PoolId::random()), Origin::Network("my-net".parse().unwrap())] {
                let pool = PoolRef { origin, six };
                assert_eq!(pool.to_string().parse(), Ok(pool));
            }
        }
        for bad in [
            "",
            "overlayd",
            "overlayd/",
            "overlayd//4",
            "overlayd/net:/4",
            "overlayd/net:a/b/4",
            "overlayd/0123456789ab/5",
            "other/0123456789ab/4",
            "overlayd/0123456789AB/4",
        ] {
            assert!(bad.parse::<PoolRef>().is_err(), "{bad}");
        }
    }
}
