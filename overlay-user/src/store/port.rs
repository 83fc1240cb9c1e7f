//! Gateway ports and the MAC addresses learned behind them.

use etcd_client::{Compare, CompareOp, GetOptions, KeyValue, TxnOp};

use super::{
    Store, StoreError,
    call::{Call, Mark},
    value::{decoded, encoded},
};
use crate::{
    MacAddr,
    state::{EndpointId, LearnedRecord, NetworkName, NodeName, Port, PortRecord, RecordKey},
};

/// Most keys deleted in one transaction: etcd takes 128 operations.
const AT_ONCE: usize = 100;

impl Store {
    /// Makes an interface of a node a port of a network. Returns the revision.
    pub async fn attach_port(
        &self,
        network: &NetworkName,
        id: &EndpointId,
        record: &PortRecord,
    ) -> Result<i64, StoreError> {
        Port::from_record(record).map_err(|e| StoreError::Invalid(e.to_string()))?;
        let call = self.call();
        self.check_cluster(&call).await?;
        let (key, value) = (self.keys().port(network, id), encoded(record)?);
        let compares = vec![
            Compare::create_revision(self.keys().network(network), CompareOp::Greater, 0),
            Compare::create_revision(self.keys().node(&record.node), CompareOp::Greater, 0),
            Compare::create_revision(key.as_str(), CompareOp::Equal, 0),
        ];
        let put = TxnOp::put(key.as_str(), value.clone(), None);
        match call.commit(compares, vec![put], Some(Mark { key: &key, value: &value })).await? {
            Some(revision) => Ok(revision),
            None if call.get(&self.keys().network(network)).await?.is_none() => {
                Err(StoreError::NotFound(format!("there is no network {network}")))
            }
            None => Err(StoreError::NotFound(format!("node {} is not in the cluster", record.node))),
        }
    }

    /// Withdraws a port and forgets what was learned behind it. Returns the revision; 0 if it is gone.
    pub async fn remove_port(&self, network: &NetworkName, id: &EndpointId) -> Result<i64, StoreError> {
        self.withdraw_port(&self.call(), network, id).await
    }

    /// Enters a MAC address as a port's, if it is nobody's and the port is there. Returns whether it is.
    pub async fn learn(
        &self,
        network: &NetworkName,
        mac: MacAddr,
        record: &LearnedRecord,
    ) -> Result<bool, StoreError> {
        let (key, value) = (self.keys().learned(network, mac), encoded(record)?);
        let compares = vec![
            Compare::create_revision(self.keys().port(network, &record.port), CompareOp::Greater, 0),
            Compare::create_revision(self.keys().mac(network, mac), CompareOp::Equal, 0),
            Compare::create_revision(key.as_str(), CompareOp::Equal, 0),
        ];
        let put = TxnOp::put(key.as_str(), value.clone(), None);
        let done = self.call().commit(compares, vec![put], Some(Mark { key: &key, value: &value })).await?;
        Ok(done.is_some())
    }

    /// Forgets a MAC address, if it is that port's.
    pub async fn forget(
        &self,
        network: &NetworkName,
        mac: MacAddr,
        port: &EndpointId,
    ) -> Result<(), StoreError> {
        let call = self.call();
        let key = self.keys().learned(network, mac);
        let found = call.get(&key).await?;
        if let Some(found) = found.filter(|found| is_of(found, port)) {
            let unchanged = Compare::mod_revision(key.as_str(), CompareOp::Equal, found.mod_revision());
            call.commit(vec![unchanged], vec![TxnOp::delete(key, None)], None).await?;
        }
        Ok(())
    }

    /// Refuses if ports are in the network, and names one.
    pub(super) async fn check_no_ports(&self, call: &Call<'_>, name: &NetworkName) -> Result<(), StoreError> {
        let prefix = self.keys().ports(name);
        let answer = call.range(&prefix, GetOptions::new().with_prefix().with_limit(1)).await?;
        let Some(found) = answer.kvs().first() else { return Ok(()) };
        let port = decoded::<PortRecord>(found.value())
            .map_or_else(|| "a port".to_owned(), |port| format!("port {} of {}", port.device, port.node));
        Err(StoreError::Conflict(format!(
            "network {name} is in use by {port}: `overlayctl port detach` withdraws it"
        )))
    }

    /// Withdraws the ports of a node that goes.
    pub(super) async fn withdraw_ports_of(&self, call: &Call<'_>, node: &NodeName) -> Result<(), StoreError> {
        for found in call.list(&self.keys().all_ports()).await? {
            let key = self.keys().relative(found.key()).unwrap_or_default();
            if let Ok(RecordKey::Port(network, id)) = RecordKey::parse(key)
                && decoded::<PortRecord>(found.value()).is_some_and(|port| port.node == *node)
            {
                self.withdraw_port(call, &network, &id).await?;
            }
        }
        Ok(())
    }

    /// The port first: without it nothing more is learned.
    async fn withdraw_port(
        &self,
        call: &Call<'_>,
        network: &NetworkName,
        id: &EndpointId,
    ) -> Result<i64, StoreError> {
        let key = self.keys().port(network, id);
        let mut revision = 0;
        if call.get(&key).await?.is_some() {
            let gone = call.commit(Vec::new(), vec![TxnOp::delete(key, None)], None).await?;
            revision = gone.unwrap_or(0);
        }
        let learned = call.list(&self.keys().all_learned(network)).await?;
        let ours: Vec<_> = learned.iter().filter(|kv| is_of(kv, id)).collect();
        for some in ours.chunks(AT_ONCE) {
            let deletes = some.iter().map(|kv| TxnOp::delete(kv.key(), None)).collect();
            revision = call.commit(Vec::new(), deletes, None).await?.unwrap_or(revision);
        }
        Ok(revision)
    }
}

fn is_of(learned: &KeyValue, port: &EndpointId) -> bool {
    decoded::<LearnedRecord>(learned.value()).is_some_and(|record| record.port == *port)
}
