//! What a network's owner decides about its packets, apart from who is in it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Broadcasts and the like that a network's endpoints on one node may send in a second unless its
/// owner says otherwise.
pub const DEFAULT_BUM_RATE: u32 = 1000;

/// The most that can be allowed in a second.
pub const MAX_BUM_RATE: u32 = 1_000_000;

/// What a network's owner decides. As fields of the network's record; one that is absent has its
/// default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// The DSCP of the outer headers.
    pub dscp: Dscp,
    /// What becomes of broadcasts.
    pub broadcast: Flooding,
    /// What becomes of multicast.
    pub multicast: Flooding,
    /// What becomes of frames to a MAC address that no endpoint has.
    pub unknown_unicast: Flooding,
    /// A network on more other nodes than this floods nothing; `None`: on any number it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flood_cap: Option<u32>,
    /// How many frames that are to be flooded its endpoints on one node may send in a second; they may
    /// send as many at once.
    pub bum_rate: u32,
    /// What becomes of frames with VLAN tags.
    pub vlan: Vlan,
}

/// Changes to a [`Policy`]: what is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyChange {
    /// See [`Policy::dscp`].
    pub dscp: Option<Dscp>,
    /// See [`Policy::broadcast`].
    pub broadcast: Option<Flooding>,
    /// See [`Policy::multicast`].
    pub multicast: Option<Flooding>,
    /// See [`Policy::unknown_unicast`].
    pub unknown_unicast: Option<Flooding>,
    /// See [`Policy::flood_cap`]; 0 for none.
    pub flood_cap: Option<u32>,
    /// See [`Policy::bum_rate`].
    pub bum_rate: Option<u32>,
    /// See [`Policy::vlan`].
    pub vlan: Option<Vlan>,
}

/// The differentiated services code point (RFC 2474) of outer headers. The congestion bits beside it
/// are RFC 6040's and no matter of policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Dscp {
    /// That of the inner packet.
    #[default]
    Inherit,
    /// The same for all packets of the network: 0 to 63.
    Fixed(u8),
}

/// What becomes of frames for everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flooding {
    /// They are dropped.
    Drop,
    /// Every endpoint of the network gets them.
    Flood,
}

/// What becomes of frames with VLAN tags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Vlan {
    /// They are dropped (RFC 7348, section 6.1).
    #[default]
    Drop,
    /// They are carried with their tags.
    Trunk,
}

/// Why a policy cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// None at all is not a rate, and too many are no limit.
    #[error("the BUM rate {0} is not a number of 1 to {MAX_BUM_RATE} packets in a second")]
    BumRate(u32),
    /// A cap of no nodes is a network that floods nothing.
    #[error("a flood cap of 0 nodes would drop everything: set broadcast and multicast to drop instead")]
    FloodCap,
}

/// Text that is no DSCP.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the DSCP {0:?} is not \"inherit\" or a number of 0 to 63")]
pub struct ParseDscpError(String);

/// A word that is not one of those there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("give {0}")]
pub struct ParseWordError(&'static str);

// === impl Policy ===

impl Default for Policy {
    fn default() -> Self {
        Self {
            dscp: Dscp::Inherit,
            broadcast: Flooding::Flood,
            multicast: Flooding::Flood,
            unknown_unicast: Flooding::Drop,
            flood_cap: None,
            bum_rate: DEFAULT_BUM_RATE,
            vlan: Vlan::Drop,
        }
    }
}

impl Policy {
    /// Checks what its types do not.
    ///
    /// # Errors
    /// If a number is out of its range.
    pub const fn check(&self) -> Result<(), PolicyError> {
        if self.bum_rate == 0 || self.bum_rate > MAX_BUM_RATE {
            return Err(PolicyError::BumRate(self.bum_rate));
        }
        if matches!(self.flood_cap, Some(0)) {
            return Err(PolicyError::FloodCap);
        }
        Ok(())
    }

    /// This policy with changes.
    #[must_use]
    pub fn with(self, change: PolicyChange) -> Self {
        let PolicyChange { dscp, broadcast, multicast, unknown_unicast, flood_cap, bum_rate, vlan } = change;
        Self {
            dscp: dscp.unwrap_or(self.dscp),
            broadcast: broadcast.unwrap_or(self.broadcast),
            multicast: multicast.unwrap_or(self.multicast),
            unknown_unicast: unknown_unicast.unwrap_or(self.unknown_unicast),
            flood_cap: flood_cap.map_or(self.flood_cap, |cap| (cap != 0).then_some(cap)),
            bum_rate: bum_rate.unwrap_or(self.bum_rate),
            vlan: vlan.unwrap_or(self.vlan),
        }
    }
}

// === words ===

impl fmt::Display for Dscp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inherit => f.write_str("inherit"),
            Self::Fixed(dscp) => write!(f, "{dscp}"),
        }
    }
}

impl FromStr for Dscp {
    type Err = ParseDscpError;

    fn from_str(text: &str) -> Result<Self, ParseDscpError> {
        if text == "inherit" {
            return Ok(Self::Inherit);
        }
        let number = text.parse().ok().filter(|dscp| *dscp < 64);
        number.map(Self::Fixed).ok_or_else(|| ParseDscpError(text.chars().take(20).collect()))
    }
}

impl TryFrom<String> for Dscp {
    type Error = ParseDscpError;

    fn try_from(text: String) -> Result<Self, ParseDscpError> {
        text.parse()
    }
}

impl From<Dscp> for String {
    fn from(dscp: Dscp) -> Self {
        dscp.to_string()
    }
}

impl fmt::Display for Flooding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Drop => "drop",
            Self::Flood => "flood",
        })
    }
}

impl FromStr for Flooding {
    type Err = ParseWordError;

    fn from_str(text: &str) -> Result<Self, ParseWordError> {
        match text {
            "drop" => Ok(Self::Drop),
            "flood" => Ok(Self::Flood),
            _ => Err(ParseWordError("drop or flood")),
        }
    }
}

impl fmt::Display for Vlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Drop => "drop",
            Self::Trunk => "trunk",
        })
    }
}

impl FromStr for Vlan {
    type Err = ParseWordError;

    fn from_str(text: &str) -> Result<Self, ParseWordError> {
        match text {
            "drop" => Ok(Self::Drop),
            "trunk" => Ok(Self::Trunk),
            _ => Err(ParseWordError("trunk or drop")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(json: &str) -> Result<Policy, String> {
        let policy: Policy = serde_json::from_str(json).map_err(|error| error.to_string())?;
        policy.check().map_err(|error| error.to_string())?;
        Ok(policy)
    }

    #[test]
    fn what_is_absent_has_its_default_and_what_is_there_its_value() {
        assert_eq!(parsed("{}"), Ok(Policy::default()));
        let json = r#"{"dscp":"46","broadcast":"drop","multicast":"drop","unknown_unicast":"flood",
                       "flood_cap":5,"bum_rate":7,"vlan":"trunk"}"#;
        let policy = parsed(json).unwrap();
        assert_eq!((policy.dscp, policy.flood_cap, policy.bum_rate), (Dscp::Fixed(46), Some(5), 7));
        assert_eq!(parsed(&serde_json::to_string(&policy).unwrap()), Ok(policy));
    }

    #[test]
    fn what_is_out_of_range_is_refused_with_a_sentence() {
        for (json, says) in [
            (r#"{"dscp":"64"}"#, "0 to 63"),
            (r#"{"dscp":"-1"}"#, "0 to 63"),
            (r#"{"dscp":46}"#, "expected a string"),
            (r#"{"bum_rate":0}"#, "BUM rate"),
            (r#"{"bum_rate":1000001}"#, "BUM rate"),
            (r#"{"bum_rate":-1}"#, "invalid value"),
            (r#"{"flood_cap":0}"#, "flood cap"),
            (r#"{"broadcast":"maybe"}"#, "unknown variant"),
            (r#"{"vlan":"sideways"}"#, "unknown variant"),
        ] {
            let error = parsed(json).unwrap_err();
            assert!(error.contains(says), "{json}: {error}");
        }
    }

    #[test]
    fn a_change_leaves_what_it_does_not_name() {
        let old = Policy { flood_cap: Some(5), vlan: Vlan::Trunk, ..Policy::default() };
        assert_eq!(old.with(PolicyChange::default()), old);
        let change = PolicyChange { bum_rate: Some(7), flood_cap: Some(0), ..PolicyChange::default() };
        assert_eq!(old.with(change), Policy { bum_rate: 7, flood_cap: None, ..old });
    }
}
