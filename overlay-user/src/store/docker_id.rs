//! Under which identity Docker has a network, where all nodes' Dockers have the same.

use etcd_client::{Compare, CompareOp, TxnOp};

use super::{
    Store, StoreError,
    call::Mark,
    network::{TRIES, wait_in_a_race},
    value::{decoded, replaced},
};
use crate::state::{NetworkName, NetworkRecord};

impl Store {
    /// Notes that Docker has a network under the identity `now`, if it has `before` until now. Returns whether it is
    /// noted: if not, another node has made it meanwhile.
    pub async fn set_docker_id(
        &self,
        name: &NetworkName,
        before: Option<&str>,
        now: &str,
    ) -> Result<bool, StoreError> {
        let call = self.call();
        self.check_cluster(&call).await?;
        let key = self.keys().network(name);
        for attempt in 1..=TRIES {
            let Some(found) = call.get(&key).await? else {
                return Err(StoreError::NotFound(format!("there is no network {name}")));
            };
            let Some(mut record) = decoded::<NetworkRecord>(found.value()) else {
                return Err(StoreError::Conflict(format!("the record of network {name} cannot be read")));
            };
            if record.docker.as_deref() != before {
                return Ok(record.docker.as_deref() == Some(now));
            }
            record.docker = Some(now.to_owned());
            let value = replaced(found.value(), &record)?;
            let same = Compare::mod_revision(key.as_str(), CompareOp::Equal, found.mod_revision());
            let put = TxnOp::put(key.as_str(), value.clone(), None);
            let mark = Mark { key: &key, value: &value };
            if call.commit(vec![same], vec![put], Some(mark)).await?.is_some() {
                return Ok(true);
            }
            wait_in_a_race(attempt).await;
        }
        Err(StoreError::Conflict(format!("network {name} was not changed: it keeps changing; try again")))
    }
}
