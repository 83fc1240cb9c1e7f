//! What `nft` lists, as JSON.

use std::io;

use serde_json::Value;

use super::Family;
pub(super) use crate::nft::run;
use crate::nft::{NftError, call};

/// The objects of the tables called `table`; none if there are no such tables.
pub(super) async fn list(table: &str) -> Result<Vec<Value>, NftError> {
    per_family(&["-j", "list", "table"], table).await
}

/// The counters of the tables called `table`.
pub(super) async fn counters(table: &str) -> Result<Vec<Value>, NftError> {
    per_family(&["-j", "list", "counters", "table"], table).await
}

/// The chains of every IPv4 table: of families `ip` and `inet`.
pub(super) async fn chains() -> Result<Vec<Value>, NftError> {
    let mut chains = Vec::new();
    for family in ["ip", "inet"] {
        chains.extend(parse(&call(&["-j", "list", "chains", family], "").await?)?);
    }
    Ok(chains)
}

async fn per_family(arguments: &[&str], table: &str) -> Result<Vec<Value>, NftError> {
    let mut objects = Vec::new();
    for family in Family::ALL {
        let arguments: Vec<_> = arguments.iter().copied().chain([family.name(), table]).collect();
        match call(&arguments, "").await {
            Ok(output) => objects.extend(parse(&output)?),
            // No such table, or a kernel without the family.
            Err(NftError::Refused(text))
                if ["No such file or directory", "not supported"].iter().any(|why| text.contains(why)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(objects)
}

fn parse(output: &[u8]) -> Result<Vec<Value>, NftError> {
    let mut listing: Value = serde_json::from_slice(output).map_err(io::Error::from)?;
    match listing.get_mut("nftables").map(Value::take) {
        Some(Value::Array(objects)) => {
            Ok(objects.into_iter().filter(|object| object.get("metainfo").is_none()).collect())
        }
        _ => Err(NftError::Refused("the listing is not as expected".into())),
    }
}
