//! From a key, relative to the cluster's prefix, to the record it belongs to.

use super::{EndpointId, NameError, NetworkName, NodeName, RecordKey, shown::shown_key};
use crate::MacAddr;

/// A key that belongs to no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Nothing of this schema is kept there.
    #[error("no record is kept under the key {0}")]
    Unknown(String),
    /// The place is known, the name in it is not valid.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl RecordKey {
    /// Reads a key relative to the cluster's prefix.
    pub fn parse(key: &[u8]) -> Result<Self, KeyError> {
        let unknown = || KeyError::Unknown(shown_key(key));
        let text = str::from_utf8(key).map_err(|_| unknown())?;
        let Some((place, rest)) = text.split_once('/') else {
            return if text == "meta" { Ok(Self::Meta) } else { Err(unknown()) };
        };
        match place {
            "networks" => Ok(Self::Network(rest.parse()?)),
            "nodes" => Ok(Self::Node(rest.parse()?)),
            "alive" => Ok(Self::Alive(rest.parse()?)),
            "endpoints" => {
                let (network, id) = rest.split_once('/').ok_or_else(unknown)?;
                Ok(Self::Endpoint(network.parse::<NetworkName>()?, id.parse::<EndpointId>()?))
            }
            "ports" => {
                let (network, id) = rest.split_once('/').ok_or_else(unknown)?;
                Ok(Self::Port(network.parse::<NetworkName>()?, id.parse::<EndpointId>()?))
            }
            "learned" => {
                let (network, digits) = rest.split_once('/').ok_or_else(unknown)?;
                Ok(Self::Learned(network.parse::<NetworkName>()?, mac(digits).ok_or_else(unknown)?))
            }
            "vnis" | "subnets" | "addresses" | "macs" | "pools" => Ok(Self::Allocation),
            _ => Err(unknown()),
        }
    }

    /// The key of a network's record, relative to the cluster's prefix.
    pub(crate) fn of_network(name: &NetworkName) -> String {
        format!("networks/{name}")
    }

    /// The key of a node's record, relative to the cluster's prefix.
    pub(crate) fn of_node(name: &NodeName) -> String {
        format!("nodes/{name}")
    }

    /// The key of a node's sign of life, relative to the cluster's prefix.
    pub(crate) fn of_alive(name: &NodeName) -> String {
        format!("alive/{name}")
    }

    /// The key of an endpoint's record, relative to the cluster's prefix.
    pub(crate) fn of_endpoint(network: &NetworkName, id: &EndpointId) -> String {
        format!("endpoints/{network}/{id}")
    }

    /// The key of a gateway port's record, relative to the cluster's prefix.
    pub(crate) fn of_port(network: &NetworkName, id: &EndpointId) -> String {
        format!("ports/{network}/{id}")
    }

    /// The key of a learned MAC address, relative to the cluster's prefix.
    pub(crate) fn of_learned(network: &NetworkName, mac: MacAddr) -> String {
        format!("learned/{network}/{}", digits(mac))
    }
}

/// The twelve digits of a MAC address.
fn digits(mac: MacAddr) -> String {
    mac.to_string().replace(':', "")
}

/// A MAC address from its twelve digits, written as [`digits`] does.
fn mac(text: &str) -> Option<MacAddr> {
    let number = u64::from_str_radix(text, 16).ok()?;
    let [0, 0, bytes @ ..] = number.to_be_bytes() else { return None };
    let mac = MacAddr(bytes);
    (digits(mac) == text).then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_lead_to_their_records_and_back() {
        let network: NetworkName = "blue".parse().unwrap();
        let node: NodeName = "node1".parse().unwrap();
        let id: EndpointId = "0123456789ab".parse().unwrap();
        for (text, key) in [
            ("meta".to_owned(), RecordKey::Meta),
            (RecordKey::of_network(&network), RecordKey::Network(network.clone())),
            (RecordKey::of_node(&node), RecordKey::Node(node.clone())),
            (RecordKey::of_alive(&node), RecordKey::Alive(node.clone())),
            (RecordKey::of_endpoint(&network, &id), RecordKey::Endpoint(network.clone(), id.clone())),
            (RecordKey::of_port(&network, &id), RecordKey::Port(network.clone(), id.clone())),
            (
                RecordKey::of_learned(&network, MacAddr([2, 0, 0, 0xab, 0, 1])),
                RecordKey::Learned(network.clone(), MacAddr([2, 0, 0, 0xab, 0, 1])),
            ),
            ("vnis/00004096".to_owned(), RecordKey::Allocation),
            ("addresses/blue/0a000902".to_owned(), RecordKey::Allocation),
            ("pools/0123456789ab".to_owned(), RecordKey::Allocation),
        ] {
            assert_eq!(RecordKey::parse(text.as_bytes()), Ok(key), "{text}");
        }
    }

    #[test]
    fn other_keys_are_named() {
        for bad in [
            "",
            "meta/x",
            "networks",
            "networks/",
            "networks/a/b",
            "endpoints/blue",
            "endpoints/blue/x",
            "learned/blue/020000ab00",
            "learned/blue/020000AB0001",
            "learned/blue/+20000ab0001",
            "Meta",
        ] {
            assert!(RecordKey::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(RecordKey::parse(b"nodes/\xff").is_err());
        let error = RecordKey::parse(b"zebra/\x1b").unwrap_err().to_string();
        assert_eq!(error, "no record is kept under the key zebra/\\u{1b}");
    }
}
