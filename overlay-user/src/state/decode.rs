//! From one key and value to one checked record, looking at nothing else.

use serde::de::DeserializeOwned;

use super::{
    AliveRecord, Endpoint, EndpointError, EndpointId, KeyError, LearnedMac, LearnedRecord, MetaRecord,
    Network, NetworkError, NetworkName, Node, NodeError, NodeName, Port, PortError, RecordKey, shown::shown,
};
use crate::MacAddr;

/// The largest value that is looked at, in bytes. What overlayd writes has a few hundred.
pub const MAX_VALUE: usize = 64 * 1024;

/// The version of the record layouts that is read and written.
pub const SCHEMA: u32 = 1;

/// One record that holds up by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// `meta`
    Meta(MetaRecord),
    /// `networks/<name>`
    Network(NetworkName, Network),
    /// `nodes/<node>`
    Node(NodeName, Node),
    /// `alive/<node>`
    Alive(NodeName, AliveRecord),
    /// `endpoints/<network>/<id>`
    Endpoint(NetworkName, Endpoint),
    /// `ports/<network>/<id>`
    Port(NetworkName, EndpointId, Port),
    /// `learned/<network>/<mac>`
    Learned(NetworkName, MacAddr, LearnedMac),
    /// Allocation's own; it does not forward anything.
    Allocation,
}

/// Why a record is left out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The key belongs to no record.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Larger than [`MAX_VALUE`].
    #[error("its value has {0} bytes, more than {MAX_VALUE}")]
    TooLarge(usize),
    /// Not JSON, or not of the record's types.
    #[error("its value is not the record it should be: {0}")]
    Json(String),
    /// A network that cannot be.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A node that cannot be.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// An endpoint that cannot be.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// A port that cannot be.
    #[error(transparent)]
    Port(#[from] PortError),
    /// A learned MAC address that is nobody's.
    #[error("a group's MAC address, or zero, is nobody's")]
    Learned,
}

/// Decodes the value of a record and checks it by itself. Unknown fields are ignored.
pub fn decode(key: RecordKey, value: &[u8]) -> Result<Record, RecordError> {
    Ok(match key {
        RecordKey::Meta => Record::Meta(json(value)?),
        RecordKey::Network(name) => Record::Network(name, Network::from_record(&json(value)?)?),
        RecordKey::Node(name) => Record::Node(name, Node::from_record(&json(value)?)?),
        RecordKey::Alive(node) => Record::Alive(node, json(value)?),
        RecordKey::Endpoint(network, id) => {
            Record::Endpoint(network, Endpoint::from_record(id, &json(value)?)?)
        }
        RecordKey::Port(network, id) => Record::Port(network, id, Port::from_record(&json(value)?)?),
        RecordKey::Learned(_, mac) if !mac.is_unicast() => return Err(RecordError::Learned),
        RecordKey::Learned(network, mac) => {
            Record::Learned(network, mac, json::<LearnedRecord>(value)?.into())
        }
        RecordKey::Allocation => Record::Allocation,
    })
}

/// Decodes a value as JSON of one type.
pub(crate) fn json<T: DeserializeOwned>(value: &[u8]) -> Result<T, RecordError> {
    if value.len() > MAX_VALUE {
        return Err(RecordError::TooLarge(value.len()));
    }
    // The library quotes the value in its errors.
    serde_json::from_slice(value).map_err(|e| RecordError::Json(shown(&e.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(key: &str, value: &[u8]) -> String {
        let key = RecordKey::parse(key.as_bytes()).unwrap();
        decode(key, value).unwrap_err().to_string()
    }

    #[test]
    fn unknown_fields_are_ignored() {
        let key = RecordKey::parse(b"networks/blue").unwrap();
        let value = br#"{"vni":7,"subnet":"10.0.9.0/24","gateway":"10.0.9.1","colour":["b",{"l":"ue"}]}"#;
        assert!(matches!(decode(key, value), Ok(Record::Network(..))));
    }

    #[test]
    fn values_that_are_no_record_are_refused_with_a_sentence() {
        assert!(reason("networks/blue", b"{").contains("EOF"));
        assert!(reason("networks/blue", b"\xff\xfe").contains("not the record it should be"));
        assert!(reason("networks/blue", br#"{"vni":"seven"}"#).contains("invalid type"));
        assert!(reason("nodes/n", br#"{"vtep":"10.1.0.300","port":1}"#).contains("invalid IP address"));
        assert!(reason("endpoints/blue/0123456789ab", b"null").contains("not the record"));
        assert!(reason("alive/n", b"[]").contains("not the record"));
        assert!(reason("meta", &vec![b' '; MAX_VALUE + 1]).contains("65537 bytes"));
        let nested = "[".repeat(10_000);
        assert!(reason("nodes/n", nested.as_bytes()).contains("not the record"));
    }

    #[test]
    fn what_the_value_says_is_not_repeated_at_length() {
        let value = format!(r#"{{"vni":"{}\u001b"}}"#, "x".repeat(10_000));
        let reason = reason("networks/blue", value.as_bytes());
        assert!(reason.len() < 400 && !reason.contains('\x1b'), "{reason}");
    }
}
