//! MAC addresses in JSON: as text.

use serde::{Deserialize, Deserializer, Serializer, de::Error};

use crate::MacAddr;

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
pub fn serialize<S: Serializer>(mac: &MacAddr, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(mac)
}

pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<MacAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|error| D::Error::custom(format!("{text:?} is {error}")))
}

/// The same for one that may be absent.
pub mod option {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::MacAddr;

    #[expect(clippy::ref_option, clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    pub fn serialize<S: Serializer>(mac: &Option<MacAddr>, serializer: S) -> Result<S::Ok, S::Error> {
        match mac {
            Some(mac) => super::serialize(mac, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<MacAddr>, D::Error> {
        #[derive(Deserialize)]
        struct Text(#[serde(with = "super")] MacAddr);
        Ok(Option::<Text>::deserialize(deserializer)?.map(|Text(mac)| mac))
    }
}
