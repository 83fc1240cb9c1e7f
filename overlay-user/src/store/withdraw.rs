//! Withdrawing endpoints.

use etcd_client::{Compare, CompareOp, KeyValue, PutOptions, TxnOp};

use super::{
    Reservation, Store, StoreError,
    call::Call,
    network::wait_in_a_race,
    node::taken_over,
    value::{decoded, encoded, text},
};
use crate::state::{
    AddressRecord, AddressState, Endpoint, EndpointId, EndpointRecord, NetworkName, NodeName, NodeRecord,
    RecordKey,
};

/// How long an address is kept from others after its endpoint is gone: what neighbours, connections
/// and caches still send to it ends meanwhile.
const COOLING_SECONDS: i64 = 60;

/// How often a withdrawal that met another change is tried again.
const TRIES: u32 = 20;

/// What an endpoint holds beside its record.
struct Holdings {
    addresses: Vec<KeyValue>,
    macs: Vec<KeyValue>,
}

// === impl Store ===

impl Store {
    /// Withdraws an endpoint; its addresses cool down. Returns the revision. Without error, and with
    /// revision 0, if it is gone already.
    pub async fn remove_endpoint(&self, network: &NetworkName, id: &EndpointId) -> Result<i64, StoreError> {
        self.withdraw(&self.call(), network, id, &[]).await
    }

    /// Withdraws an endpoint of `node` that has no interface any more, for its owner: the node must still be
    /// the `incarnation` that asks. Returns whether it is withdrawn; not, if it was attached before the node
    /// joined with another tunnel address, so that it may live on another machine.
    pub async fn release_orphan(
        &self,
        node: &NodeName,
        incarnation: u64,
        network: &NetworkName,
        id: &EndpointId,
    ) -> Result<bool, StoreError> {
        let call = self.call();
        self.check_cluster(&call).await?;
        let own = call.get(&self.keys().node(node)).await?;
        let owner = own.as_ref().and_then(|own| decoded::<NodeRecord>(own.value()));
        let (Some(own), Some(owner)) = (own, owner.filter(|owner| owner.incarnation == incarnation)) else {
            return Err(taken_over(node));
        };
        let found = call.get(&self.keys().endpoint(network, id)).await?;
        match found.and_then(|found| decoded::<EndpointRecord>(found.value())) {
            Some(record) if record.node == *node && record.incarnation < owner.moved => Ok(false),
            Some(record) if record.node == *node => {
                self.withdraw(&call, network, id, &[unchanged(&own)]).await.map(|_| true)
            }
            // Gone already, or not this node's to give up.
            _ => Ok(true),
        }
    }

    /// Gives up an endpoint that was being made, however far that came. The reservation goes first: a
    /// transaction that is still under way can then not bind it after it was looked for.
    pub async fn abandon(&self, reservation: &Reservation) -> Result<(), StoreError> {
        self.release(reservation).await?;
        self.remove_endpoint(&reservation.network, &reservation.endpoint).await.map(drop)
    }

    /// Which network an endpoint is in and on which node, whether or not its record is usable; `None`
    /// where there is none. Looks at all there are: for what is not in the followed state.
    pub async fn find_endpoint(
        &self,
        id: &EndpointId,
    ) -> Result<Option<(NetworkName, Option<NodeName>)>, StoreError> {
        let all = self.call().list(&self.keys().all_endpoints()).await?;
        Ok(all.iter().find_map(|kv| match RecordKey::parse(self.keys().relative(kv.key())?) {
            Ok(RecordKey::Endpoint(network, found)) if found == *id => {
                Some((network, decoded::<EndpointRecord>(kv.value()).map(|record| record.node)))
            }
            _ => None,
        }))
    }

    /// As [`Self::remove_endpoint`], within the time of `call` and only while all of `provided` hold.
    pub(super) async fn withdraw(
        &self,
        call: &Call<'_>,
        network: &NetworkName,
        id: &EndpointId,
        provided: &[Compare],
    ) -> Result<i64, StoreError> {
        let key = self.keys().endpoint(network, id);
        for attempt in 1..=TRIES {
            let Some(found) = call.get(&key).await? else {
                return Ok(0);
            };
            let record = decoded::<EndpointRecord>(found.value())
                .filter(|r| Endpoint::from_record(id.clone(), r).is_ok());
            let Holdings { addresses, macs } = self.holdings(call, network, id, record.as_ref()).await?;
            let mut compares = provided.to_vec();
            compares.push(unchanged(&found));
            let mut operations = vec![TxnOp::delete(key.as_str(), None)];
            if !addresses.is_empty() {
                let lease = call.grant(COOLING_SECONDS).await?;
                for address in &addresses {
                    compares.push(unchanged(address));
                    operations.push(cooled(address, lease)?);
                }
            }
            compares.extend(macs.iter().map(unchanged));
            operations.extend(macs.iter().map(|mac| TxnOp::delete(mac.key(), None)));
            if let Some(revision) = call.commit(compares, operations, None).await? {
                return Ok(revision);
            }
            wait_in_a_race(attempt).await;
        }
        Err(StoreError::Conflict(format!("endpoint {id} was not removed: it keeps changing; try again")))
    }

    /// What an endpoint holds; of one whose record is not usable, by looking at all there is.
    async fn holdings(
        &self,
        call: &Call<'_>,
        network: &NetworkName,
        id: &EndpointId,
        record: Option<&EndpointRecord>,
    ) -> Result<Holdings, StoreError> {
        let (mut addresses, mut macs) = (Vec::new(), Vec::new());
        if let Some(record) = record {
            for &address in &record.addresses {
                addresses.extend(call.get(&self.keys().address(network, address)).await?);
            }
            if let Ok(mac) = record.mac.parse() {
                macs.extend(call.get(&self.keys().mac(network, mac)).await?);
            }
        } else {
            addresses = call.list(&self.keys().addresses(network)).await?;
            macs = call.list(&self.keys().macs(network)).await?;
        }
        addresses.retain(|kv| decoded::<AddressRecord>(kv.value()).is_some_and(|r| r.endpoint == *id));
        macs.retain(|kv| text(kv.value()) == id.to_string());
        Ok(Holdings { addresses, macs })
    }
}

fn unchanged(kv: &KeyValue) -> Compare {
    Compare::mod_revision(kv.key(), CompareOp::Equal, kv.mod_revision())
}

/// Keeps an address from others until the lease ends.
fn cooled(address: &KeyValue, lease: i64) -> Result<TxnOp, StoreError> {
    let options = Some(PutOptions::new().with_lease(lease));
    let Some(record) = decoded::<AddressRecord>(address.value()) else {
        return Ok(TxnOp::delete(address.key(), None));
    };
    let cooling = AddressRecord { state: AddressState::Cooling, ..record };
    Ok(TxnOp::put(address.key(), encoded(&cooling)?, options))
}
