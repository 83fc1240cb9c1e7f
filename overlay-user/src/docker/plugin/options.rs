//! The options of `docker network create -o`.

use std::{fmt::Display, str::FromStr};

use serde_json::Value;

use super::message::Options;
use crate::{
    Vni,
    api::ApiError,
    state::{NetworkName, PolicyChange, shown},
};

/// Says which of our networks Docker's is: with `-o`, and with `--ipam-opt`.
pub const NETWORK: &str = "overlayd.net";

/// What Docker's own drivers call the MTU.
const DOCKER_MTU: &str = "com.docker.network.driver.mtu";

/// The names of options, for who gave another.
const KNOWN: &str =
    "mtu, vni, dscp, broadcast, multicast, unknown-unicast, flood-cap, bum-rate, vlan, overlayd.net";

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkOptions {
    /// Which of our networks it is.
    pub network: Option<NetworkName>,
    /// Its VNI.
    pub vni: Option<u32>,
    /// MTU of its endpoints' interfaces.
    pub mtu: Option<u16>,
    /// What is not to be as it is by default.
    pub policy: PolicyChange,
}

impl NetworkOptions {
    /// Reads options. One that is not known is refused: who gave it wanted something.
    pub fn read(options: &Options) -> Result<Self, ApiError> {
        let mut read = Self::default();
        for (key, value) in options {
            let policy = &mut read.policy;
            match key.as_str() {
                NETWORK => read.network = Some(parsed(key, value)?),
                "mtu" | DOCKER_MTU => read.mtu = Some(parsed(key, value)?),
                "vni" => {
                    let vni: u32 = parsed(key, value)?;
                    Vni::new(vni).map_err(|error| ApiError::invalid(format!("-o vni={vni}: {error}")))?;
                    read.vni = Some(vni);
                }
                "dscp" => policy.dscp = Some(parsed(key, value)?),
                "broadcast" => policy.broadcast = Some(parsed(key, value)?),
                "multicast" => policy.multicast = Some(parsed(key, value)?),
                "unknown-unicast" => policy.unknown_unicast = Some(parsed(key, value)?),
                "flood-cap" => policy.flood_cap = Some(parsed(key, value)?),
                "bum-rate" => policy.bum_rate = Some(parsed(key, value)?),
                "vlan" => policy.vlan = Some(parsed(key, value)?),
                _ => {
                    let text = format!("-o {}: overlayd has no such option; it has {KNOWN}", shown(key));
                    return Err(ApiError::invalid(text));
                }
            }
        }
        Ok(read)
    }
}

/// The network that `--ipam-opt` names.
pub fn ipam_network(options: &Options) -> Result<Option<NetworkName>, ApiError> {
    let mut network = None;
    for (key, value) in options {
        if key != NETWORK {
            let text = format!("--ipam-opt {}: overlayd has no such option; it has {NETWORK}", shown(key));
            return Err(ApiError::invalid(text));
        }
        network = Some(parsed(key, value)?);
    }
    Ok(network)
}

fn parsed<T: FromStr<Err: Display>>(key: &str, value: &Value) -> Result<T, ApiError> {
    // Docker sends text; a number is as good.
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    text.parse().map_err(|error| ApiError::invalid(format!("-o {key}={}: {error}", shown(&text))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::state::{Dscp, Flooding, Vlan};

    fn read(options: &Value) -> Result<NetworkOptions, String> {
        NetworkOptions::read(options.as_object().unwrap()).map_err(|error| error.error)
    }

    #[test]
    fn every_option_is_read() {
        let all = json!({
            "overlayd.net": "blue", "mtu": "1400", "vni": 7, "dscp": "46", "broadcast": "drop", "multicast": "flood",
            "unknown-unicast": "drop", "flood-cap": "5", "bum-rate": "9", "vlan": "trunk",
        });
        let read = read(&all).unwrap();
        assert_eq!(read.network.unwrap().as_str(), "blue");
        assert_eq!((read.vni, read.mtu), (Some(7), Some(1400)));
        let policy = PolicyChange {
            dscp: Some(Dscp::Fixed(46)),
            broadcast: Some(Flooding::Drop),
            multicast: Some(Flooding::Flood),
            unknown_unicast: Some(Flooding::Drop),
            flood_cap: Some(5),
            bum_rate: Some(9),
            vlan: Some(Vlan::Trunk),
        };
        assert_eq!(read.policy, policy);
        assert!(all.as_object().unwrap().keys().all(|key| KNOWN.contains(key.as_str())));
        assert_eq!(self::read(&json!({ "com.docker.network.driver.mtu": "1400" })).unwrap().mtu, Some(1400));
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (options, says) in [
            (json!({ "mtu": "big" }), "-o mtu=big: invalid digit"),
            (json!({ "mtu": "70000" }), "-o mtu=70000: number too large"),
            (json!({ "vni": "0" }), "-o vni=0: "),
            (json!({ "dscp": "64" }), "-o dscp=64: "),
            (json!({ "vlan": null }), "-o vlan=null: give trunk or drop"),
            (json!({ "overlayd.net": "../x" }), "-o overlayd.net=../x: network name"),
            (json!({ "encrypted": "" }), "-o encrypted: overlayd has no such option; it has mtu, vni"),
        ] {
            let error = read(&options).unwrap_err();
            assert!(error.starts_with(says), "{options}: {error}");
        }
        let error = ipam_network(json!({ "x": "y" }).as_object().unwrap()).unwrap_err().error;
        assert!(error.starts_with("--ipam-opt x: "), "{error}");
    }
}
