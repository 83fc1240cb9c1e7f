//! Subnets that Docker asked for and that are no network's yet: claimed under a lease, until the network they are
//! for is published.

use std::collections::BTreeMap;

use etcd_client::{Compare, CompareOp, PutOptions, TxnOp};
use ipnet::IpNet;

use super::{
    Store, StoreError,
    call::{Call, Mark},
    network::{TRIES, Taken, default_gateway, wait_in_a_race},
    pool,
    value::{decoded, encoded},
};
use crate::state::{NodeName, PoolId, PoolRecord, Subnet, SubnetRecord};

/// How long a subnet is kept for a network that is being made: Docker asks for it, creates the network and
/// tells its name, which takes it seconds at most.
const CLAIMED_SECONDS: i64 = 60;

/// A subnet to be claimed. What is not given is chosen.
#[derive(Clone, Copy, Debug)]
pub struct NewPool {
    /// The subnet; else a free one.
    pub subnet: Option<IpNet>,
    /// Where addresses are taken from; else the subnet.
    pub range: Option<IpNet>,
    /// An IPv6 subnet is wanted.
    pub six: bool,
}

/// A subnet that was claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedPool {
    /// Its identity.
    pub id: PoolId,
    /// The subnet, its gateway unless another is chosen, and where addresses are taken from.
    pub subnet: Subnet,
}

// === impl Store ===

impl Store {
    /// Claims a subnet for a network that is being made on `node`, in one transaction. Never the same twice: a subnet
    /// that is not given is another one each time.
    pub async fn claim_pool(&self, node: &NodeName, new: NewPool) -> Result<ClaimedPool, StoreError> {
        let call = self.call();
        self.check_cluster(&call).await?;
        let id = PoolId::random();
        let lease = call.grant(CLAIMED_SECONDS).await?;
        let claimed = self.claim_under(&call, node, new, &id, lease).await;
        if claimed.is_err() {
            call.revoke(lease).await;
        }
        claimed
    }

    async fn claim_under(
        &self,
        call: &Call<'_>,
        node: &NodeName,
        new: NewPool,
        id: &PoolId,
        lease: i64,
    ) -> Result<ClaimedPool, StoreError> {
        for attempt in 1..=TRIES {
            let taken = self.taken(call).await?;
            let subnet = choose(new, &taken)?;
            let range = Some(subnet.range).filter(|range| *range != subnet.net);
            let value = encoded(&PoolRecord { node: node.clone(), subnet: subnet.net, range })?;
            let key = self.keys().pool(id);
            let compares = vec![
                Compare::create_revision(key.as_str(), CompareOp::Equal, 0),
                taken.guard.unchanged(self),
            ];
            let options = PutOptions::new().with_lease(lease);
            let operations =
                vec![TxnOp::put(key.as_str(), value.clone(), Some(options)), taken.guard.raised(self)];
            let mark = Mark { key: &key, value: &value };
            if call.commit(compares, operations, Some(mark)).await?.is_some() {
                return Ok(ClaimedPool { id: id.clone(), subnet });
            }
            if !call.has_time() {
                break;
            }
            wait_in_a_race(attempt).await;
        }
        let text = "no subnet was claimed: networks are being created at the same time; try again";
        Err(StoreError::Conflict(text.to_owned()))
    }

    /// The subnet of a claim, while that stands.
    pub async fn claimed_subnet(&self, id: &PoolId) -> Result<Option<Subnet>, StoreError> {
        let found = self.call().get(&self.keys().pool(id)).await?;
        let Some(PoolRecord { subnet, range, .. }) = found.and_then(|found| decoded(found.value())) else {
            return Ok(None);
        };
        checked(subnet, range).map(Some)
    }

    /// The claims that stand of a node.
    pub async fn pools_of(&self, node: &NodeName) -> Result<BTreeMap<PoolId, PoolRecord>, StoreError> {
        let pools = self.pools(&self.call()).await?;
        let own = pools.into_iter().map(|(id, (pool, _))| (id, pool)).filter(|(_, pool)| pool.node == *node);
        Ok(own.collect())
    }

    /// Ends a claim of a node. Without error if it has ended already, or is a network's now.
    pub async fn release_pool(&self, node: &NodeName, id: &PoolId) -> Result<(), StoreError> {
        let (call, key) = (self.call(), self.keys().pool(id));
        let Some(found) = call.get(&key).await? else { return Ok(()) };
        if decoded::<PoolRecord>(found.value()).is_none_or(|pool| pool.node == *node) {
            let same = Compare::mod_revision(key.as_str(), CompareOp::Equal, found.mod_revision());
            call.commit(vec![same], vec![TxnOp::delete(key.as_str(), None)], None).await?;
            call.revoke(found.lease()).await;
        }
        Ok(())
    }

    /// All claims, with the revisions they were made at.
    pub(super) async fn pools(
        &self,
        call: &Call<'_>,
    ) -> Result<BTreeMap<PoolId, (PoolRecord, i64)>, StoreError> {
        let prefix = self.keys().pools();
        let pools = call.list(&prefix).await?;
        let pool = |kv: &etcd_client::KeyValue| {
            let id = str::from_utf8(kv.key().strip_prefix(prefix.as_bytes())?).ok()?.parse().ok()?;
            Some((id, (decoded(kv.value())?, kv.mod_revision())))
        };
        // One that cannot be read has no subnet to keep free.
        Ok(pools.iter().filter_map(pool).collect())
    }
}

/// The subnet to claim, if nothing is in its way.
fn choose(new: NewPool, taken: &Taken) -> Result<Subnet, StoreError> {
    let NewPool { subnet, range, six } = new;
    let subnet = if let Some(subnet) = subnet {
        subnet
    } else {
        if let Some(range) = range {
            let text = format!("--ip-range {range} is a part of a subnet: give --subnet as well");
            return Err(StoreError::Invalid(text));
        }
        let taken = taken.prefixes();
        let free = if six { pool::free_subnet6(&taken) } else { pool::free_subnet(&taken) };
        let text =
            "there is no free subnet left that overlaps no network and no node's routes: give --subnet";
        free.ok_or_else(|| StoreError::Conflict(text.to_owned()))?
    };
    let claimed = checked(subnet, range)?;
    taken.check_subnet(subnet, &[])?;
    Ok(claimed)
}

fn checked(subnet: IpNet, range: Option<IpNet>) -> Result<Subnet, StoreError> {
    let record = SubnetRecord { subnet, gateway: default_gateway(subnet.trunc()), range };
    Subnet::from_record(record).map_err(|error| StoreError::Invalid(error.to_string()))
}
