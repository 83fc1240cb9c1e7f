//! What of networks is taken, and the guard that vouches for it.

use std::collections::BTreeMap;

use etcd_client::{Compare, CompareOp, TxnOp};
use ipnet::IpNet;

use crate::{
    state::{NetworkName, NetworkRecord, NodeName, NodeRecord, PoolId, PoolRecord, RecordKey, shown_key},
    store::{Store, StoreError, call::Call, pool, value::decoded},
};

/// What the store has of networks.
pub(in crate::store) struct Taken {
    pub(super) networks: Vec<(NetworkName, NetworkRecord)>,
    /// VNIs and the networks that have them.
    pub(super) vnis: Vec<(u32, String)>,
    /// Prefixes that hosts have routes to.
    routes: Vec<(NodeName, IpNet)>,
    /// Subnets that are no network's yet, with the revisions they were claimed at.
    pub(super) pools: BTreeMap<PoolId, (PoolRecord, i64)>,
    pub guard: Guard,
}

/// The counter that every new network raises: while it stands, nothing is taken that was not when it was
/// read.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::store) struct Guard {
    revision: i64,
    count: u64,
}

// === impl Store ===

impl Store {
    pub(in crate::store) async fn guard(&self, call: &Call<'_>) -> Result<Guard, StoreError> {
        let found = call.get(&self.keys().guard()).await?;
        Ok(found.map_or_else(Guard::default, |kv| Guard {
            revision: kv.mod_revision(),
            count: decoded(kv.value()).unwrap_or(0),
        }))
    }

    /// Reads what is taken; the guard first, so that it vouches for the rest.
    pub(in crate::store) async fn taken(&self, call: &Call<'_>) -> Result<Taken, StoreError> {
        let guard = self.guard(call).await?;
        let pools = self.pools(call).await?;
        let mut networks = Vec::new();
        for kv in call.list(&self.keys().networks()).await? {
            let key = self.keys().relative(kv.key()).unwrap_or_default();
            // One that cannot be read has no subnet to keep free.
            if let (Ok(RecordKey::Network(name)), Some(record)) =
                (RecordKey::parse(key), decoded::<NetworkRecord>(kv.value()))
            {
                networks.push((name, record));
            }
        }
        let mut routes = Vec::new();
        for kv in call.list(&self.keys().nodes()).await? {
            let key = self.keys().relative(kv.key()).unwrap_or_default();
            if let (Ok(RecordKey::Node(name)), Some(record)) =
                (RecordKey::parse(key), decoded::<NodeRecord>(kv.value()))
            {
                routes.extend(record.prefixes.into_iter().map(|prefix| (name.clone(), prefix)));
            }
        }
        let prefix = self.keys().vnis();
        let vnis = call.list(&prefix).await?;
        let vnis = vnis
            .iter()
            .filter_map(|kv| {
                let digits = str::from_utf8(kv.key().strip_prefix(prefix.as_bytes())?).ok()?;
                Some((digits.parse().ok()?, shown_key(kv.value())))
            })
            .chain(networks.iter().map(|(name, record)| (record.vni, name.to_string())))
            .collect();
        Ok(Taken { networks, vnis, routes, pools, guard })
    }
}

// === impl Taken ===

impl Taken {
    /// All networks' subnets, and the networks that have them.
    fn subnets(&self) -> impl Iterator<Item = (&NetworkName, IpNet)> {
        self.networks.iter().flat_map(|(name, n)| n.subnets().map(move |subnet| (name, subnet.subnet)))
    }

    /// Everything that a new subnet must not overlap.
    pub fn prefixes(&self) -> Vec<IpNet> {
        let pools = self.pools.values().map(|(pool, _)| pool.subnet);
        let routes = self.routes.iter().map(|(_, prefix)| *prefix);
        self.subnets().map(|(_, subnet)| subnet).chain(pools).chain(routes).collect()
    }

    /// Checks that a subnet overlaps nothing of that; claims on `own` pools are no hindrance.
    pub fn check_subnet(&self, subnet: IpNet, own: &[PoolId]) -> Result<(), StoreError> {
        if let Some((name, other)) = self.subnets().find(|(_, other)| pool::overlap(&subnet, other)) {
            return Err(StoreError::Conflict(format!(
                "the subnet {subnet} overlaps {other} of network {name}"
            )));
        }
        let pools = self.pools.iter().filter(|(id, _)| !own.contains(id));
        let mut pools = pools.map(|(_, (pool, _))| pool);
        if let Some(PoolRecord { node, subnet: other, .. }) =
            pools.find(|pool| pool::overlap(&subnet, &pool.subnet))
        {
            return Err(StoreError::Conflict(format!(
                "the subnet {subnet} overlaps {other}, for which a network is being created on {node}"
            )));
        }
        if let Some((node, other)) = self.routes.iter().find(|(_, other)| pool::overlap(&subnet, other)) {
            return Err(StoreError::Conflict(format!(
                "the subnet {subnet} overlaps {other}, which node {node} has a route to and would hide from its \
                 containers: choose another; if it is meant, `overlayctl network create` has --allow-overlap"
            )));
        }
        Ok(())
    }

    /// The network that was made of these pools already.
    pub(super) fn published(&self, name: &NetworkName, pools: &[PoolId]) -> Option<&NetworkRecord> {
        let found = self.networks.iter().find(|(of, _)| of == name).map(|(_, record)| record);
        found.filter(|record| !pools.is_empty() && record.pools == pools)
    }
}

// === impl Guard ===

impl Guard {
    pub(in crate::store) fn unchanged(self, store: &Store) -> Compare {
        Compare::mod_revision(store.keys().guard(), CompareOp::Equal, self.revision)
    }

    pub(in crate::store) fn raised(self, store: &Store) -> TxnOp {
        TxnOp::put(store.keys().guard(), self.count.wrapping_add(1).to_string(), None)
    }
}
