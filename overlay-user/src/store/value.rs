//! Values as writers make them: JSON, with what they do not know of an old value kept.

use std::borrow::Cow;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::StoreError;

/// The value of a new record.
pub(super) fn encoded(record: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(record).map_err(|e| StoreError::Invalid(format!("the record cannot be written: {e}")))
}

/// A record from its value; `None` if it is not that.
pub(super) fn decoded<T: DeserializeOwned>(value: &[u8]) -> Option<T> {
    serde_json::from_slice(value).ok()
}

/// The value of a record that takes the place of `old`: fields that `T` does not know are kept.
/// Nothing is kept of a value that is no `T`.
pub(super) fn replaced<T: Serialize + DeserializeOwned>(old: &[u8], new: &T) -> Result<Vec<u8>, StoreError> {
    let mut fields = unknown_fields::<T>(old).unwrap_or_default();
    fields.extend(object(new).unwrap_or_default());
    encoded(&Value::Object(fields))
}

/// The fields of a value that `T` does not know.
fn unknown_fields<T: Serialize + DeserializeOwned>(value: &[u8]) -> Option<Map<String, Value>> {
    let known = object(&decoded::<T>(value)?)?;
    let Ok(Value::Object(mut fields)) = serde_json::from_slice(value) else {
        return None;
    };
    fields.retain(|name, _| !known.contains_key(name));
    Some(fields)
}

fn object(record: &impl Serialize) -> Option<Map<String, Value>> {
    match serde_json::to_value(record) {
        Ok(Value::Object(fields)) => Some(fields),
        _ => None,
    }
}

/// A key, or a value that is one word.
pub(super) fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::NodeRecord;

    fn node(mtu: Option<u16>) -> NodeRecord {
        NodeRecord {
            vtep: "192.0.2.1".parse().unwrap(),
            port: 4789,
            mtu,
            datapath: "tc".to_owned(),
            reason: String::new(),
            version: String::new(),
            incarnation: 4,
            host: String::new(),
            moved: 0,
            drained: false,
            prefixes: Vec::new(),
            is_static: false,
        }
    }

    #[test]
    fn fields_of_others_are_kept_and_own_ones_are_replaced() {
        let old = br#"{"vtep":"192.0.2.9","port":1,"mtu":9000,"colour":{"of":"sky"},"incarnation":3}"#;
        let new: Value = serde_json::from_slice(&replaced(old, &node(None)).unwrap()).unwrap();
        assert_eq!(new["colour"]["of"], "sky");
        assert_eq!((&new["vtep"], &new["incarnation"]), (&"192.0.2.1".into(), &4.into()));
        assert!(new.get("mtu").is_none(), "{new}");
    }

    #[test]
    fn nothing_is_kept_of_what_is_no_record() {
        for old in [&b""[..], b"{", b"[1]", br#"{"mtu":"big","colour":1}"#] {
            let new = replaced(old, &node(Some(1500))).unwrap();
            assert_eq!(new, encoded(&serde_json::to_value(node(Some(1500))).unwrap()).unwrap());
        }
    }
}
