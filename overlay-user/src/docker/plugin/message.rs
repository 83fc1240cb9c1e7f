//! What Docker asks of a driver and what it is told, as JSON. Field names are Docker's. Nothing in a request is
//! sure to be there, and `null` is the same as nothing.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::docker::{DockerEndpointId, DockerNetworkId};

/// Options by their names.
pub type Options = Map<String, Value>;

/// A request or answer without fields.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct Empty {}

/// The answer to the handshake.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Activated {
    pub implements: [&'static str; 2],
}

// === the network driver ===

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkCapabilities {
    pub scope: &'static str,
    pub connectivity_scope: &'static str,
}

/// Whether Docker is to leave out asking for gateways.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct GatewaysSkipped {
    #[serde(rename = "SkipIPv4")]
    pub four: bool,
    #[serde(rename = "SkipIPv6")]
    pub six: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub struct CreateNetwork {
    #[serde(rename = "NetworkID")]
    pub network: DockerNetworkId,
    #[serde(rename = "Options", default, deserialize_with = "or_default")]
    pub options: Options,
    #[serde(rename = "IPv4Data", default, deserialize_with = "or_default")]
    pub four: Vec<IpamData>,
    #[serde(rename = "IPv6Data", default, deserialize_with = "or_default")]
    pub six: Vec<IpamData>,
}

/// One subnet of a network that is being created.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct IpamData {
    #[serde(deserialize_with = "or_default")]
    pub address_space: String,
    #[serde(deserialize_with = "or_default")]
    pub pool: String,
    /// With the prefix length.
    #[serde(deserialize_with = "or_default")]
    pub gateway: String,
    /// With prefix lengths, by what they are kept for.
    #[serde(deserialize_with = "or_default")]
    pub aux_addresses: BTreeMap<String, String>,
}

/// A request about a network alone.
#[derive(Clone, Debug, Deserialize)]
pub struct OfNetwork {
    #[serde(rename = "NetworkID")]
    pub network: DockerNetworkId,
}

/// A request about an endpoint alone.
#[derive(Clone, Debug, Deserialize)]
pub struct OfEndpoint {
    #[serde(rename = "EndpointID")]
    pub endpoint: DockerEndpointId,
}

#[derive(Clone, Debug, Deserialize)]
pub struct CreateEndpoint {
    #[serde(rename = "NetworkID")]
    pub network: DockerNetworkId,
    #[serde(rename = "EndpointID")]
    pub endpoint: DockerEndpointId,
    #[serde(rename = "Interface", default, deserialize_with = "or_default")]
    pub interface: Interface,
}

/// An interface as Docker wants it: what is empty is the driver's to choose.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Interface {
    /// With the prefix length.
    #[serde(rename = "Address", deserialize_with = "or_default")]
    pub four: String,
    /// With the prefix length.
    #[serde(rename = "AddressIPv6", deserialize_with = "or_default")]
    pub six: String,
    #[serde(rename = "MacAddress", deserialize_with = "or_default")]
    pub mac: String,
}

/// What was chosen, and that alone: a field that Docker had set must not come back.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct EndpointCreated {
    pub interface: Chosen,
}

#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Chosen {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac_address: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct EndpointInfo {
    pub value: EndpointFacts,
}

/// What `docker network inspect` and its like show of an endpoint.
#[derive(Clone, Debug, Default, Serialize)]
pub struct EndpointFacts {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
    pub vtep: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    pub datapath: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Join {
    #[serde(rename = "EndpointID")]
    pub endpoint: DockerEndpointId,
    #[serde(rename = "SandboxKey", default, deserialize_with = "or_default")]
    pub sandbox: PathBuf,
}

/// Which interface Docker is to move, and what it is to be called. Without a gateway: then Docker adds a way out
/// by `docker_gwbridge`, unless the network is internal.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Joined {
    pub interface_name: InterfaceName,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct InterfaceName {
    pub src_name: String,
    pub dst_prefix: &'static str,
}

// === the IPAM driver ===

#[derive(Clone, Copy, Debug, Serialize)]
pub struct IpamCapabilities {
    #[serde(rename = "RequiresMACAddress")]
    pub requires_mac_address: bool,
    #[serde(rename = "RequiresRequestReplay")]
    pub requires_request_replay: bool,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct AddressSpaces {
    pub local_default_address_space: &'static str,
    pub global_default_address_space: &'static str,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RequestPool {
    #[serde(deserialize_with = "or_default")]
    pub address_space: String,
    #[serde(deserialize_with = "or_default")]
    pub pool: String,
    #[serde(deserialize_with = "or_default")]
    pub sub_pool: String,
    #[serde(deserialize_with = "or_default")]
    pub options: Options,
    #[serde(rename = "V6", deserialize_with = "or_default")]
    pub six: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct PoolGiven {
    #[serde(rename = "PoolID")]
    pub id: String,
    #[serde(rename = "Pool")]
    pub pool: String,
    #[serde(rename = "Data")]
    pub data: BTreeMap<&'static str, String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct OfPool {
    #[serde(rename = "PoolID")]
    pub pool: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct RequestAddress {
    #[serde(rename = "PoolID")]
    pub pool: String,
    #[serde(rename = "Address", default, deserialize_with = "or_default")]
    pub address: String,
    #[serde(rename = "Options", default, deserialize_with = "or_default")]
    pub options: Options,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct AddressGiven {
    /// With the prefix length.
    pub address: String,
    pub data: Empty,
}

#[derive(Clone, Debug, Deserialize)]
pub struct ReleaseAddress {
    #[serde(rename = "PoolID")]
    pub pool: String,
    #[serde(rename = "Address", default, deserialize_with = "or_default")]
    pub address: String,
}

/// Takes `null` for nothing, as Go writes what it does not have.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn null_is_nothing() {
        let json =
            format!(r#"{{"NetworkID":"{ID}","Options":null,"IPv4Data":null,"IPv6Data":[{{"Pool":null}}]}}"#);
        let request: CreateNetwork = serde_json::from_str(&json).unwrap();
        assert_eq!((request.options.len(), request.four.len(), request.six[0].pool.as_str()), (0, 0, ""));
        let request: RequestPool = serde_json::from_str(r#"{"V6":null,"Options":null}"#).unwrap();
        assert!(!request.six && request.options.is_empty());
    }

    #[test]
    fn an_identity_has_to_be_one() {
        for json in ["{}", r#"{"NetworkID":""}"#, r#"{"NetworkID":"../x"}"#, r#"{"NetworkID":7}"#] {
            assert!(serde_json::from_str::<OfNetwork>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn only_what_was_chosen_comes_back() {
        let created =
            |mac: Option<&str>| EndpointCreated { interface: Chosen { mac_address: mac.map(str::to_owned) } };
        assert_eq!(serde_json::to_string(&created(None)).unwrap(), r#"{"Interface":{}}"#);
        let json = serde_json::to_string(&created(Some("02:42:0a:00:09:02"))).unwrap();
        assert_eq!(json, r#"{"Interface":{"MacAddress":"02:42:0a:00:09:02"}}"#);
    }
}
