//! Who has something, in the words of errors: "web on node2 (10.0.9.4)".

use crate::state::{AddressRecord, AddressState, EndpointId, EndpointRecord, shown};

use super::value::decoded;

/// What an address is kept for and by whom.
pub(super) fn of_address(value: &[u8]) -> String {
    let Some(AddressRecord { state, node, endpoint, name }) = decoded(value) else {
        return "is kept by a record that cannot be read".to_owned();
    };
    let who = name.map_or_else(|| endpoint.to_string(), |name| shown(&name));
    match state {
        AddressState::Reserved => format!("is being given to {who} on {node}"),
        AddressState::Bound => format!("is used by {who} on {node}"),
        AddressState::Cooling => {
            format!("was used by {who} on {node} until just now; it is free again within a minute")
        }
    }
}

/// An endpoint by its first name, or its identity, with its node.
pub(super) fn of_endpoint(id: &EndpointId, value: Option<&[u8]>) -> String {
    let Some(record) = value.and_then(decoded::<EndpointRecord>) else {
        return format!("endpoint {id}");
    };
    let who = record.names.first().map_or_else(|| id.to_string(), |name| shown(name));
    format!("{who} on {}", record.node)
}

/// An endpoint with its addresses.
pub(super) fn with_addresses(id: &EndpointId, value: &[u8]) -> String {
    let mut text = of_endpoint(id, Some(value));
    if let Some(record) = decoded::<EndpointRecord>(value)
        && !record.addresses.is_empty()
    {
        let addresses: Vec<_> = record.addresses.iter().take(3).map(ToString::to_string).collect();
        text = format!("{text} ({})", addresses.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDPOINT: &[u8] = br#"{"node":"node2","mac":"x","addresses":["10.0.9.4"],"names":["web","w"]}"#;

    #[test]
    fn holders_are_named() {
        let id = "0123456789ab".parse().unwrap();
        assert_eq!(with_addresses(&id, ENDPOINT), "web on node2 (10.0.9.4)");
        assert_eq!(of_endpoint(&id, Some(b"{")), "endpoint 0123456789ab");
        let value = br#"{"state":"bound","node":"node2","endpoint":"0123456789ab","name":"we\nb"}"#;
        assert_eq!(of_address(value), "is used by we\\nb on node2");
        let value = br#"{"state":"reserved","node":"node2","endpoint":"0123456789ab"}"#;
        assert_eq!(of_address(value), "is being given to 0123456789ab on node2");
        assert_eq!(of_address(b""), "is kept by a record that cannot be read");
    }
}
