//! Settings with a few words to choose from.

use std::{fmt, str::FromStr};

use clap::ValueEnum;
use serde::{Deserialize, Deserializer};

/// Which data path is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DatapathChoice {
    /// The best that works here, found by trying
    #[default]
    Auto,
    /// BPF programs, native XDP on the uplink
    Xdp,
    /// BPF programs, tc on the uplink
    Tc,
    /// The kernel's bridge and VXLAN devices
    Kernel,
}

/// What to do with a packet whose VXLAN header has reserved bits set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReservedBits {
    /// Drop and count it, as Linux does
    #[default]
    Strict,
    /// Take it: "ignored on receipt" (RFC 7348, section 5)
    Ignore,
}

/// Whose networks of Docker's are, as the driver tells Docker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DockerScope {
    /// Each node's: overlayd makes them known to the other nodes' Dockers
    #[default]
    Local,
    /// All nodes': Docker 20.10 does so by its --cluster-store
    Global,
}

/// The underlay's MTU: the uplink's, or so many bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mtu {
    /// That of the uplink and its routes.
    #[default]
    Auto,
    /// This many bytes, if the uplink carries them.
    Bytes(u16),
}

/// A text that is no [`Mtu`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("give auto or a number of bytes")]
pub struct ParseMtuError;

impl Mtu {
    /// The bytes, if they were given.
    #[must_use]
    pub const fn bytes(self) -> Option<u16> {
        match self {
            Self::Auto => None,
            Self::Bytes(bytes) => Some(bytes),
        }
    }
}

impl FromStr for Mtu {
    type Err = ParseMtuError;

    fn from_str(text: &str) -> Result<Self, ParseMtuError> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        text.parse().map(Self::Bytes).map_err(|_| ParseMtuError)
    }
}

impl<'de> Deserialize<'de> for Mtu {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "\"auto\" or a number of bytes")]
        enum Written {
            Bytes(u16),
            Word(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Bytes(bytes) => Ok(Self::Bytes(bytes)),
            Written::Word(word) => word.parse().map_err(serde::de::Error::custom),
        }
    }
}

impl fmt::Display for DatapathChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::Xdp => "xdp",
            Self::Tc => "tc",
            Self::Kernel => "kernel",
        })
    }
}
