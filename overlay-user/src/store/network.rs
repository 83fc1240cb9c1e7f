//! Making and removing networks.

mod choose;
mod taken;

use std::{collections::BTreeMap, net::IpAddr, ops::ControlFlow, time::Duration};

use etcd_client::{Compare, CompareOp, GetOptions, TxnOp};
use ipnet::IpNet;

use self::choose::prepare;
pub(super) use self::{choose::default_gateway, taken::Taken};
use super::{
    Store, StoreError,
    call::{Call, Mark},
    holder,
    value::{decoded, encoded, replaced},
};
use crate::{
    Vni,
    state::{EndpointId, Network, NetworkName, NetworkRecord, PolicyChange, PoolId, RecordKey, shown_key},
};

/// How often a network that lost a race is tried again.
pub(super) const TRIES: u32 = 40;

/// How many of those who use a network are named.
const NAMED: i64 = 3;

/// A network to be created. What is not given is chosen.
#[derive(Clone, Debug)]
pub struct NewNetwork {
    /// Its name.
    pub name: NetworkName,
    /// Its subnets, one of each family at most; else a free IPv4 pool.
    pub subnets: Vec<IpNet>,
    /// Its gateways, each for the subnet of its family; else the first address of the subnet.
    pub gateways: Vec<IpAddr>,
    /// Where addresses are taken from, each for the subnet of its family; else the subnet.
    pub ranges: Vec<IpNet>,
    /// Its VNI; else a free one.
    pub vni: Option<Vni>,
    /// MTU of its endpoints' interfaces.
    pub mtu: Option<u16>,
    /// No way out to the world.
    pub internal: bool,
    /// What is not to be as it is by default.
    pub policy: PolicyChange,
    /// The subnet may overlap that of another network, or routes of nodes.
    pub allow_overlap: bool,
    /// Addresses that no endpoint gets, by what they are kept for.
    pub aux: BTreeMap<String, IpAddr>,
    /// Its identity in Docker, where that is the same on all nodes.
    pub docker: Option<String>,
}

/// Changes to a network: what is given.
#[derive(Clone, Copy, Debug, Default)]
pub struct NetworkChange {
    /// MTU of its endpoints' interfaces; 0: from the underlay's.
    pub mtu: Option<u16>,
    /// What its owner decides.
    pub policy: PolicyChange,
}

/// A network as it is in the store.
pub(super) struct Standing {
    pub network: Network,
    pub created: i64,
}

// === impl Store ===

impl Store {
    /// Creates a network in one transaction.
    pub async fn create_network(&self, new: NewNetwork) -> Result<Network, StoreError> {
        self.publish_network(new, &[]).await
    }

    /// Creates the network that [claimed](Self::claim_pool) subnets were claimed for: in one transaction the claims
    /// end and the network has their subnets. A claim that has ended meanwhile is no hindrance as long as nobody
    /// else has taken its subnet. Without error if that network is there already.
    pub async fn publish_network(&self, new: NewNetwork, pools: &[PoolId]) -> Result<Network, StoreError> {
        let call = self.call();
        self.check_cluster(&call).await?;
        for attempt in 1..=TRIES {
            if let Some(network) = self.try_create(&call, &new, pools).await? {
                return Ok(network);
            }
            if !call.has_time() {
                break;
            }
            wait_in_a_race(attempt).await;
        }
        Err(StoreError::Conflict(format!(
            "network {} was not created: others are being created at the same time; try again",
            new.name
        )))
    }

    /// Checks that a network could be published now, so that who asked for it is told, and not only who publishes it.
    pub async fn check_network(&self, new: &NewNetwork, pools: &[PoolId]) -> Result<(), StoreError> {
        let call = self.call();
        self.check_cluster(&call).await?;
        prepare(new, pools, &self.taken(&call).await?).map(drop)
    }

    /// Changes what a network's owner decides, in one transaction.
    pub async fn set_network(
        &self,
        name: &NetworkName,
        change: NetworkChange,
    ) -> Result<Network, StoreError> {
        self.change_network(name, |record| {
            record.policy = record.policy.with(change.policy);
            record.mtu = change.mtu.map_or(record.mtu, |mtu| (mtu != 0).then_some(mtu));
            let network = Network::from_record(record).map_err(|e| StoreError::Invalid(e.to_string()))?;
            Ok(ControlFlow::Continue(network))
        })
        .await
    }

    /// Changes a network's record, in one transaction, and returns what `change` does; nothing is written if that
    /// breaks off.
    pub(super) async fn change_network<T>(
        &self,
        name: &NetworkName,
        change: impl Fn(&mut NetworkRecord) -> Result<ControlFlow<T, T>, StoreError>,
    ) -> Result<T, StoreError> {
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
            let outcome = match change(&mut record)? {
                ControlFlow::Continue(outcome) => outcome,
                ControlFlow::Break(outcome) => return Ok(outcome),
            };
            let value = replaced(found.value(), &record)?;
            let same = Compare::mod_revision(key.as_str(), CompareOp::Equal, found.mod_revision());
            let put = TxnOp::put(key.as_str(), value.clone(), None);
            let mark = Mark { key: &key, value: &value };
            if call.commit(vec![same], vec![put], Some(mark)).await?.is_some() {
                return Ok(outcome);
            }
            wait_in_a_race(attempt).await;
        }
        Err(StoreError::Conflict(format!("network {name} was not changed: it keeps changing; try again")))
    }

    /// Removes a network nobody is on; the error names who is.
    pub async fn remove_network(&self, name: &NetworkName) -> Result<(), StoreError> {
        let call = self.call();
        for attempt in 1..=TRIES {
            match self.try_remove(&call, name).await {
                Ok(true) => return Ok(()),
                // It was there before: the removal whose answer was lost, or another's, has done it.
                Err(StoreError::NotFound(_)) if attempt > 1 => return Ok(()),
                Err(error) => return Err(error),
                Ok(false) => wait_in_a_race(attempt).await,
            }
        }
        Err(StoreError::Conflict(format!("network {name} was not removed: it keeps changing; try again")))
    }

    /// The network of that name, for who wants to change something in it.
    pub(super) async fn standing(&self, call: &Call<'_>, name: &NetworkName) -> Result<Standing, StoreError> {
        let found = call.get(&self.keys().network(name)).await?;
        let found = found.ok_or_else(|| StoreError::NotFound(format!("there is no network {name}")))?;
        let unusable =
            |why: String| StoreError::Conflict(format!("the record of network {name} is not usable: {why}"));
        let record = decoded(found.value()).ok_or_else(|| unusable("it cannot be read".to_owned()))?;
        let network = Network::from_record(&record).map_err(|e| unusable(e.to_string()))?;
        Ok(Standing { network, created: found.create_revision() })
    }

    async fn try_create(
        &self,
        call: &Call<'_>,
        new: &NewNetwork,
        pools: &[PoolId],
    ) -> Result<Option<Network>, StoreError> {
        let taken = self.taken(call).await?;
        if let Some(published) = taken.published(&new.name, pools) {
            return Network::from_record(published).map(Some).map_err(|e| StoreError::Invalid(e.to_string()));
        }
        let (record, network) = prepare(new, pools, &taken)?;
        let (key, vni) = (self.keys().network(&new.name), self.keys().vni(network.vni));
        let value = encoded(&record)?;
        let mut compares = vec![
            Compare::create_revision(key.as_str(), CompareOp::Equal, 0),
            Compare::create_revision(vni.as_str(), CompareOp::Equal, 0),
            taken.guard.unchanged(self),
        ];
        let mut operations = vec![
            TxnOp::put(key.as_str(), value.clone(), None),
            TxnOp::put(vni, new.name.as_str(), None),
            taken.guard.raised(self),
        ];
        for (id, (_, revision)) in pools.iter().filter_map(|id| taken.pools.get_key_value(id)) {
            compares.push(Compare::mod_revision(self.keys().pool(id), CompareOp::Equal, *revision));
            operations.push(TxnOp::delete(self.keys().pool(id), None));
        }
        let done = call.commit(compares, operations, Some(Mark { key: &key, value: &value })).await?;
        if done.is_none()
            && let Some(found) = call.get(&key).await?
        {
            let network = decoded::<NetworkRecord>(found.value());
            return Err(exists(&new.name, network.as_ref()));
        }
        Ok(done.map(|_| network))
    }

    /// Whoever creates a network at the same moment may take its subnet for taken still: that does no harm, so
    /// the guard is left alone.
    async fn try_remove(&self, call: &Call<'_>, name: &NetworkName) -> Result<bool, StoreError> {
        let key = self.keys().network(name);
        let Some(found) = call.get(&key).await? else {
            return Err(StoreError::NotFound(format!("there is no network {name}")));
        };
        self.check_unused(call, name).await?;
        let endpoints = self.keys().endpoints(name);
        let compares = vec![
            Compare::mod_revision(key.as_str(), CompareOp::Equal, found.mod_revision()),
            // Over a range this holds if there is no key in it.
            Compare::create_revision(endpoints, CompareOp::Equal, 0).with_prefix(),
            Compare::create_revision(self.keys().ports(name), CompareOp::Equal, 0).with_prefix(),
        ];
        let all = || Some(etcd_client::DeleteOptions::new().with_prefix());
        let mut operations = vec![
            TxnOp::delete(key, None),
            TxnOp::delete(self.keys().addresses(name), all()),
            TxnOp::delete(self.keys().macs(name), all()),
            TxnOp::delete(self.keys().all_learned(name), all()),
        ];
        for kv in call.list(&self.keys().vnis()).await? {
            if kv.value() == name.as_str().as_bytes() {
                operations.push(TxnOp::delete(kv.key(), None));
            }
        }
        Ok(call.commit(compares, operations, None).await?.is_some())
    }

    /// Refuses if endpoints are in the network, and names some.
    async fn check_unused(&self, call: &Call<'_>, name: &NetworkName) -> Result<(), StoreError> {
        let prefix = self.keys().endpoints(name);
        let options = GetOptions::new().with_prefix().with_limit(NAMED);
        let answer = call.range(&prefix, options).await?;
        if answer.kvs().is_empty() {
            return self.check_no_ports(call, name).await;
        }
        let named: Vec<_> = answer
            .kvs()
            .iter()
            .map(|kv| match self.endpoint_id(kv.key()) {
                Some(id) => holder::with_addresses(&id, kv.value()),
                None => format!("the key {}", shown_key(kv.key())),
            })
            .collect();
        let more = usize::try_from(answer.count()).unwrap_or(0).saturating_sub(named.len());
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        Err(StoreError::Conflict(format!("network {name} is in use by {}{more}", named.join(", "))))
    }

    /// The identity in an endpoint's key.
    pub(super) fn endpoint_id(&self, key: &[u8]) -> Option<EndpointId> {
        match RecordKey::parse(self.keys().relative(key)?) {
            Ok(RecordKey::Endpoint(_, id)) => Some(id),
            _ => None,
        }
    }
}

fn exists(name: &NetworkName, record: Option<&NetworkRecord>) -> StoreError {
    let what = record.map_or_else(
        || "its record cannot be read".to_owned(),
        |record| {
            let subnets = record.subnets().map(|subnet| format!(", {}", subnet.subnet));
            format!("VNI {}{}", record.vni, subnets.collect::<String>())
        },
    );
    StoreError::Conflict(format!("network {name} exists already ({what})"))
}

/// Waits a little, longer with each lost race.
pub(super) async fn wait_in_a_race(attempt: u32) {
    let most = u64::from(attempt.min(10)) * 20;
    tokio::time::sleep(Duration::from_millis(rand::random_range(1..=most.max(2)))).await;
}
