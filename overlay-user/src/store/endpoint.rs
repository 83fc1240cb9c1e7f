//! Publishing endpoints.

use std::net::IpAddr;

use etcd_client::{Compare, CompareOp, KeyValue, TxnOp};

use super::{
    Reservation, Store, StoreError,
    call::{Call, Mark},
    holder,
    value::{decoded, encoded, text},
};
use crate::{
    MacAddr,
    state::{
        AddressRecord, AddressState, Endpoint, EndpointId, EndpointRecord, NetworkName, NodeName, NodeRecord,
    },
};

/// An endpoint that is to be put, with the one address it has.
struct Publication<'a> {
    network: &'a NetworkName,
    id: &'a EndpointId,
    record: &'a EndpointRecord,
    mac: MacAddr,
    address: IpAddr,
    /// What the address must be for it to become this endpoint's.
    address_is: Compare,
}

// === impl Store ===

impl Store {
    /// Makes the reservation permanent and publishes the endpoint, in one transaction. Returns its
    /// revision.
    pub async fn bind_endpoint(
        &self,
        reservation: &Reservation,
        record: &EndpointRecord,
    ) -> Result<i64, StoreError> {
        let Reservation { network, endpoint: id, address, lease, revision } = reservation;
        let (mac, address) = (checked(record)?.mac, address.addr());
        if record.addresses != [address] {
            let text = format!("the endpoint's addresses are not the one reserved, {address}");
            return Err(StoreError::Invalid(text));
        }
        let reserved = self.keys().address(network, address);
        let address_is = Compare::mod_revision(reserved, CompareOp::Equal, *revision);
        let call = self.call();
        let publication = Publication { network, id, record, mac, address, address_is };
        let revision = self.publish(&call, publication).await?;
        // The address is bound without a lease now.
        call.revoke(*lease).await;
        Ok(revision)
    }

    /// Enters an endpoint behind a third party's VTEP.
    pub async fn add_static_endpoint(
        &self,
        network: &NetworkName,
        node: &NodeName,
        address: IpAddr,
        mac: MacAddr,
        names: Vec<String>,
    ) -> Result<EndpointId, StoreError> {
        let call = self.call();
        self.check_cluster(&call).await?;
        let standing = self.standing(&call, network).await?;
        let check = standing.network.check_address(address);
        check.map_err(|e| StoreError::Invalid(format!("not an address for network {network}: {e}")))?;
        let found = call.get(&self.keys().node(node)).await?;
        let found = found.ok_or_else(|| StoreError::NotFound(format!("there is no node {node}")))?;
        if !decoded::<NodeRecord>(found.value()).is_some_and(|record| record.is_static) {
            return Err(StoreError::Invalid(format!(
                "node {node} runs overlayd: attach its endpoints there, with `overlayctl endpoint attach`"
            )));
        }
        let record = EndpointRecord {
            node: node.clone(),
            mac: mac.to_string(),
            addresses: vec![address],
            names,
            container: String::new(),
            ifname: String::new(),
            generation: 0,
            delivery: String::new(),
        };
        checked(&record)?;
        let id = EndpointId::random();
        let free = self.keys().address(network, address);
        let address_is = Compare::create_revision(free, CompareOp::Equal, 0);
        let publication = Publication { network, id: &id, record: &record, mac, address, address_is };
        self.publish(&call, publication).await?;
        Ok(id)
    }

    /// Binds the address and puts the endpoint and its MAC address, if the network and the node are
    /// there, and identity and MAC address are free.
    async fn publish(&self, call: &Call<'_>, publication: Publication<'_>) -> Result<i64, StoreError> {
        let Publication { network, id, record, mac, address, ref address_is } = publication;
        let keys = self.keys();
        let (endpoint_key, mac_key) = (keys.endpoint(network, id), keys.mac(network, mac));
        let bound = AddressRecord {
            state: AddressState::Bound,
            node: record.node.clone(),
            endpoint: id.clone(),
            name: record.names.first().cloned(),
        };
        let value = encoded(record)?;
        let compares = vec![
            address_is.clone(),
            Compare::create_revision(keys.network(network), CompareOp::Greater, 0),
            Compare::create_revision(keys.node(&record.node), CompareOp::Greater, 0),
            Compare::create_revision(endpoint_key.as_str(), CompareOp::Equal, 0),
            Compare::create_revision(mac_key.as_str(), CompareOp::Equal, 0),
        ];
        let operations = vec![
            TxnOp::put(keys.address(network, address), encoded(&bound)?, None),
            TxnOp::put(mac_key, id.as_str(), None),
            TxnOp::put(endpoint_key.as_str(), value.clone(), None),
        ];
        let mark = Mark { key: &endpoint_key, value: &value };
        match call.commit(compares, operations, Some(mark)).await? {
            Some(revision) => Ok(revision),
            None => Err(self.in_the_way(call, &publication).await?),
        }
    }

    /// The error for what stood in the way of a publication.
    async fn in_the_way(
        &self,
        call: &Call<'_>,
        publication: &Publication<'_>,
    ) -> Result<StoreError, StoreError> {
        let &Publication { network, id, record, mac, address, address_is: _ } = publication;
        let keys = self.keys();
        if call.get(&keys.network(network)).await?.is_none() {
            return Ok(StoreError::NotFound(format!("there is no network {network}")));
        }
        if call.get(&keys.node(&record.node)).await?.is_none() {
            return Ok(StoreError::NotFound(format!("there is no node {}", record.node)));
        }
        if call.get(&keys.endpoint(network, id)).await?.is_some() {
            return Ok(StoreError::Conflict(format!("there is an endpoint {id} in network {network}")));
        }
        if let Some(found) = call.get(&keys.mac(network, mac)).await? {
            let holder = match text(found.value()).parse::<EndpointId>() {
                Ok(other) => {
                    let record = call.get(&keys.endpoint(network, &other)).await?;
                    holder::of_endpoint(&other, record.as_ref().map(KeyValue::value))
                }
                Err(_) => "a record that cannot be read".to_owned(),
            };
            return Ok(StoreError::Conflict(format!("the MAC address {mac} is used by {holder}")));
        }
        let found = call.get(&keys.address(network, address)).await?;
        let ours =
            |value: &[u8]| decoded::<AddressRecord>(value).is_some_and(|record| record.endpoint == *id);
        Ok(StoreError::Conflict(match found {
            Some(found) if !ours(found.value()) => format!("{address} {}", holder::of_address(found.value())),
            _ => format!("the reservation of {address} has ended; try again"),
        }))
    }
}

/// Checks a record as its readers will.
fn checked(record: &EndpointRecord) -> Result<Endpoint, StoreError> {
    Endpoint::from_record(record).map_err(|e| StoreError::Invalid(e.to_string()))
}
