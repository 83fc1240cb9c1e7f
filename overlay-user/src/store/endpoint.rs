//! Publishing endpoints.

use std::net::IpAddr;

use etcd_client::{Compare, CompareOp, KeyValue, TxnOp};

use super::{
    Reservation, ReservedAddress, Store, StoreError,
    address::check_wanted,
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

/// An endpoint that is to be put.
struct Publication<'a> {
    network: &'a NetworkName,
    id: &'a EndpointId,
    record: &'a EndpointRecord,
    mac: MacAddr,
    /// What the key of each of its addresses must be for it to become this endpoint's.
    addresses_are: Vec<Compare>,
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
        let Reservation { network, endpoint: id, addresses, leases, .. } = reservation;
        let mac = checked(id, record)?.mac;
        if !addresses.iter().map(|reserved| reserved.address.addr()).eq(record.addresses.iter().copied()) {
            let text = format!("the addresses {:?} are not those reserved", record.addresses);
            return Err(StoreError::Invalid(text));
        }
        let still_ours = |reserved: &ReservedAddress| {
            let key = self.keys().address(network, reserved.address.addr());
            Compare::mod_revision(key, CompareOp::Equal, reserved.revision)
        };
        let addresses_are = addresses.iter().map(still_ours).collect();
        let call = self.call();
        let publication = Publication { network, id, record, mac, addresses_are };
        let revision = self.publish(&call, publication).await?;
        // The addresses are bound without a lease now.
        for lease in leases {
            call.revoke(*lease).await;
        }
        Ok(revision)
    }

    /// Enters an endpoint behind a third party's VTEP.
    pub async fn add_static_endpoint(
        &self,
        network: &NetworkName,
        node: &NodeName,
        addresses: Vec<IpAddr>,
        mac: MacAddr,
        names: Vec<String>,
    ) -> Result<EndpointId, StoreError> {
        let call = self.call();
        self.check_cluster(&call).await?;
        let standing = self.standing(&call, network).await?;
        check_wanted(network, &standing.network, &addresses)?;
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
            addresses,
            names,
            container: String::new(),
            ifname: String::new(),
            incarnation: 0,
            delivery: String::new(),
        };
        let id = EndpointId::random();
        checked(&id, &record)?;
        let mut addresses_are = Vec::new();
        for address in &record.addresses {
            addresses_are.push(self.is_to_be_had(&call, network, *address).await?);
        }
        let publication = Publication { network, id: &id, record: &record, mac, addresses_are };
        self.publish(&call, publication).await?;
        Ok(id)
    }

    /// Binds the addresses and puts the endpoint and its MAC address, if the network and the node are
    /// there, and identity and MAC address are free.
    async fn publish(&self, call: &Call<'_>, publication: Publication<'_>) -> Result<i64, StoreError> {
        let Publication { network, id, record, mac, ref addresses_are } = publication;
        let keys = self.keys();
        let (endpoint_key, mac_key) = (keys.endpoint(network, id), keys.mac(network, mac));
        let bound = AddressRecord {
            state: AddressState::Bound,
            node: record.node.clone(),
            endpoint: id.clone(),
            name: record.names.first().cloned(),
        };
        let (bound, value) = (encoded(&bound)?, encoded(record)?);
        let mut compares = addresses_are.clone();
        compares.extend([
            Compare::create_revision(keys.network(network), CompareOp::Greater, 0),
            Compare::create_revision(keys.node(&record.node), CompareOp::Greater, 0),
            Compare::create_revision(endpoint_key.as_str(), CompareOp::Equal, 0),
            Compare::create_revision(mac_key.as_str(), CompareOp::Equal, 0),
        ]);
        let bind = |&address: &IpAddr| TxnOp::put(keys.address(network, address), bound.clone(), None);
        let mut operations: Vec<_> = record.addresses.iter().map(bind).collect();
        operations.extend([
            TxnOp::put(mac_key, id.to_string(), None),
            TxnOp::put(endpoint_key.as_str(), value.clone(), None),
        ]);
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
        let &Publication { network, id, record, mac, addresses_are: _ } = publication;
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
        let ours =
            |value: &[u8]| decoded::<AddressRecord>(value).is_some_and(|record| record.endpoint == *id);
        for &address in &record.addresses {
            if let Some(found) = call.get(&keys.address(network, address)).await?
                && !ours(found.value())
            {
                let holder = holder::of_address(found.value());
                return Ok(StoreError::Conflict(format!("{address} {holder}")));
            }
        }
        let addresses: Vec<_> = record.addresses.iter().map(ToString::to_string).collect();
        let addresses = addresses.join(" and ");
        Ok(StoreError::Conflict(format!("the reservation of {addresses} has ended; try again")))
    }
}

/// Checks a record as its readers will.
fn checked(id: &EndpointId, record: &EndpointRecord) -> Result<Endpoint, StoreError> {
    Endpoint::from_record(id.clone(), record).map_err(|e| StoreError::Invalid(e.to_string()))
}
