//! Changing what is known of an endpoint that is there: its names, and the namespace its interface is in.

use etcd_client::{Compare, CompareOp, TxnOp};

use super::{
    Store, StoreError,
    call::{Call, Mark},
    network::wait_in_a_race,
    value::{decoded, replaced},
};
use crate::state::{AddressRecord, Endpoint, EndpointId, EndpointRecord, NetworkName, NodeName};

/// How often a change that met another one is tried again.
const TRIES: u32 = 20;

// === impl Store ===

impl Store {
    /// Gives an endpoint of `node` other names, in one transaction that gives its addresses the first of them too: it is
    /// who has them in errors. Returns whether there is such an endpoint.
    ///
    /// # Errors
    /// If it is another node's, a name is none, or the store does not do it.
    pub async fn set_endpoint_names(
        &self,
        node: &NodeName,
        network: &NetworkName,
        id: &EndpointId,
        names: &[String],
    ) -> Result<bool, StoreError> {
        self.change_endpoint(node, network, id, |record| names.clone_into(&mut record.names)).await
    }

    /// Notes in which namespace the interface of an endpoint of `node` is. Returns whether there is such an
    /// endpoint.
    ///
    /// # Errors
    /// If it is another node's, or the store does not do it.
    pub async fn set_endpoint_container(
        &self,
        node: &NodeName,
        network: &NetworkName,
        id: &EndpointId,
        container: &str,
    ) -> Result<bool, StoreError> {
        self.change_endpoint(node, network, id, |record| container.clone_into(&mut record.container)).await
    }

    async fn change_endpoint(
        &self,
        node: &NodeName,
        network: &NetworkName,
        id: &EndpointId,
        change: impl Fn(&mut EndpointRecord),
    ) -> Result<bool, StoreError> {
        let call = self.call();
        self.check_cluster(&call).await?;
        let key = self.keys().endpoint(network, id);
        for attempt in 1..=TRIES {
            let Some(found) = call.get(&key).await? else { return Ok(false) };
            let Some(old) = decoded::<EndpointRecord>(found.value()) else {
                return Err(StoreError::Conflict(format!("the record of endpoint {id} cannot be read")));
            };
            if old.node != *node {
                return Err(StoreError::Conflict(format!("endpoint {id} is {}'s, not {node}'s", old.node)));
            }
            let mut new = old.clone();
            change(&mut new);
            if new == old {
                return Ok(true);
            }
            Endpoint::from_record(id.clone(), &new).map_err(|e| StoreError::Invalid(e.to_string()))?;
            let value = replaced(found.value(), &new)?;
            let mut compares =
                vec![Compare::mod_revision(key.as_str(), CompareOp::Equal, found.mod_revision())];
            let mut operations = vec![TxnOp::put(key.as_str(), value.clone(), None)];
            if new.names.first() != old.names.first() {
                self.rename_addresses(&call, network, id, &new, &mut compares, &mut operations).await?;
            }
            let mark = Mark { key: &key, value: &value };
            if call.commit(compares, operations, Some(mark)).await?.is_some() {
                return Ok(true);
            }
            wait_in_a_race(attempt).await;
        }
        Err(StoreError::Conflict(format!("endpoint {id} was not changed: it keeps changing; try again")))
    }

    /// Adds what gives an endpoint's addresses its first name.
    async fn rename_addresses(
        &self,
        call: &Call<'_>,
        network: &NetworkName,
        id: &EndpointId,
        record: &EndpointRecord,
        compares: &mut Vec<Compare>,
        operations: &mut Vec<TxnOp>,
    ) -> Result<(), StoreError> {
        for &address in &record.addresses {
            let key = self.keys().address(network, address);
            let Some(found) = call.get(&key).await? else { continue };
            let Some(held) = decoded::<AddressRecord>(found.value()) else { continue };
            if held.endpoint == *id {
                let value =
                    replaced(found.value(), &AddressRecord { name: record.names.first().cloned(), ..held })?;
                compares.push(Compare::mod_revision(key.as_str(), CompareOp::Equal, found.mod_revision()));
                operations.push(TxnOp::put(key.as_str(), value, None));
            }
        }
        Ok(())
    }
}
