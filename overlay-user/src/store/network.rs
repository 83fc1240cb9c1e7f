//! Making and removing networks.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use etcd_client::{Compare, CompareOp, GetOptions, TxnOp};
use ipnet::IpNet;

use super::{
    Store, StoreError,
    call::{Call, Mark},
    holder, pool,
    value::{decoded, encoded, replaced},
};
use crate::{
    Vni,
    state::{
        EndpointId, Network, NetworkName, NetworkRecord, NodeName, NodeRecord, Policy, PolicyChange, PoolId,
        PoolRecord, RecordKey, SubnetRecord, family, same_family, shown_key,
    },
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

/// What the store has of networks.
pub(super) struct Taken {
    networks: Vec<(NetworkName, NetworkRecord)>,
    /// VNIs and the networks that have them.
    vnis: Vec<(u32, String)>,
    /// Prefixes that hosts have routes to.
    routes: Vec<(NodeName, IpNet)>,
    /// Subnets that are no network's yet, with the revisions they were claimed at.
    pools: BTreeMap<PoolId, (PoolRecord, i64)>,
    pub guard: Guard,
}

/// The counter that every new network raises: while it stands, nothing is taken that was not when it was
/// read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Guard {
    revision: i64,
    count: u64,
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
        let call = self.call();
        self.check_cluster(&call).await?;
        for attempt in 1..=TRIES {
            if let Some(network) = self.try_set(&call, name, change).await? {
                return Ok(network);
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

    async fn try_set(
        &self,
        call: &Call<'_>,
        name: &NetworkName,
        change: NetworkChange,
    ) -> Result<Option<Network>, StoreError> {
        let key = self.keys().network(name);
        let Some(found) = call.get(&key).await? else {
            return Err(StoreError::NotFound(format!("there is no network {name}")));
        };
        let Some(mut record) = decoded::<NetworkRecord>(found.value()) else {
            return Err(StoreError::Conflict(format!("the record of network {name} cannot be read")));
        };
        record.policy = record.policy.with(change.policy);
        record.mtu = change.mtu.map_or(record.mtu, |mtu| (mtu != 0).then_some(mtu));
        let network = Network::from_record(&record).map_err(|e| StoreError::Invalid(e.to_string()))?;
        let value = replaced(found.value(), &record)?;
        let compares = vec![Compare::mod_revision(key.as_str(), CompareOp::Equal, found.mod_revision())];
        let operations = vec![TxnOp::put(key.as_str(), value.clone(), None)];
        let done = call.commit(compares, operations, Some(Mark { key: &key, value: &value })).await?;
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

    pub(super) async fn guard(&self, call: &Call<'_>) -> Result<Guard, StoreError> {
        let found = call.get(&self.keys().guard()).await?;
        Ok(found.map_or_else(Guard::default, |kv| Guard {
            revision: kv.mod_revision(),
            count: decoded(kv.value()).unwrap_or(0),
        }))
    }

    /// Reads what is taken; the guard first, so that it vouches for the rest.
    pub(super) async fn taken(&self, call: &Call<'_>) -> Result<Taken, StoreError> {
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
    fn published(&self, name: &NetworkName, pools: &[PoolId]) -> Option<&NetworkRecord> {
        let found = self.networks.iter().find(|(of, _)| of == name).map(|(_, record)| record);
        found.filter(|record| !pools.is_empty() && record.pools == pools)
    }
}

// === impl Guard ===

impl Guard {
    pub(super) fn unchanged(self, store: &Store) -> Compare {
        Compare::mod_revision(store.keys().guard(), CompareOp::Equal, self.revision)
    }

    pub(super) fn raised(self, store: &Store) -> TxnOp {
        TxnOp::put(store.keys().guard(), self.count.wrapping_add(1).to_string(), None)
    }
}

/// The record of a network, if nothing is in its way. Claims on `pools` are its own.
fn prepare(
    new: &NewNetwork,
    pools: &[PoolId],
    taken: &Taken,
) -> Result<(NetworkRecord, Network), StoreError> {
    let record = NetworkRecord { pools: pools.to_vec(), ..choose(new, taken)? };
    let network = Network::from_record(&record).map_err(|e| StoreError::Invalid(e.to_string()))?;
    check_free(new, &record, taken)?;
    Ok((record, network))
}

/// Fills in what was not asked for.
fn choose(new: &NewNetwork, taken: &Taken) -> Result<NetworkRecord, StoreError> {
    let none_free = |what: &str| StoreError::Conflict(format!("there is no free {what} left; give one"));
    let mut subnets = new.subnets.clone();
    if subnets.is_empty() {
        let none = || none_free("subnet that overlaps no network and no node's routes");
        subnets.push(pool::free_subnet(&taken.prefixes()).ok_or_else(none)?);
    }
    subnets.sort_by_key(|subnet| subnet.addr().is_ipv6());
    check_families(new, &subnets)?;
    let SubnetRecord { subnet, gateway, range } = subnet_record(new, subnets[0])?;
    let dual = subnets.get(1).map(|&subnet| subnet_record(new, subnet)).transpose()?;
    let vni = if let Some(vni) = new.vni {
        vni
    } else {
        let vnis: BTreeSet<_> = taken.vnis.iter().map(|&(vni, _)| vni).collect();
        pool::free_vni(&vnis).ok_or_else(|| none_free("VNI"))?
    };
    Ok(NetworkRecord {
        vni: vni.get(),
        subnet,
        gateway,
        range,
        dual,
        mtu: new.mtu.filter(|mtu| *mtu != 0),
        internal: new.internal,
        policy: Policy::default().with(new.policy),
        aux: new.aux.clone(),
        pools: Vec::new(),
        docker: new.docker.clone(),
    })
}

/// A subnet with the gateway and the range that were asked for in its family.
fn subnet_record(new: &NewNetwork, subnet: IpNet) -> Result<SubnetRecord, StoreError> {
    let gateways: Vec<_> = new.gateways.iter().filter(|g| same_family(**g, subnet.addr())).collect();
    let ranges: Vec<_> = new.ranges.iter().filter(|r| same_family(r.addr(), subnet.addr())).collect();
    if gateways.len() > 1 || ranges.len() > 1 {
        let text = format!("the subnet {subnet} has one gateway and one range: give each once");
        return Err(StoreError::Invalid(text));
    }
    let gateway = gateways.first().map_or_else(|| default_gateway(subnet), |&&gateway| gateway);
    let range = ranges.first().map(|&&range| range).filter(|range| *range != subnet);
    Ok(SubnetRecord { subnet, gateway, range })
}

/// The first address of a subnet that a host can have; the very first of an IPv6 subnet is no host's.
pub(super) fn default_gateway(subnet: IpNet) -> IpAddr {
    subnet.hosts().find(|host| *host != subnet.network()).unwrap_or(subnet.addr())
}

/// Checks that there is one subnet of each family at most, and one for each gateway and range.
fn check_families(new: &NewNetwork, subnets: &[IpNet]) -> Result<(), StoreError> {
    if let [first, second, ..] = subnets
        && (subnets.len() > 2 || same_family(first.addr(), second.addr()))
    {
        let text = "a network has one subnet of each family, IPv4 and IPv6, at most";
        return Err(StoreError::Invalid(text.to_owned()));
    }
    let asked = new.gateways.iter().copied().chain(new.ranges.iter().map(IpNet::addr));
    let without = |address: &IpAddr| subnets.iter().all(|subnet| !same_family(subnet.addr(), *address));
    match asked.into_iter().find(without) {
        Some(address) => {
            let family = family(&address);
            Err(StoreError::Invalid(format!("{address} is {family}: give an {family} subnet with it")))
        }
        None => Ok(()),
    }
}

/// Checks that nothing of the record is another network's.
fn check_free(new: &NewNetwork, record: &NetworkRecord, taken: &Taken) -> Result<(), StoreError> {
    if let Some((name, existing)) = taken.networks.iter().find(|(name, _)| *name == new.name) {
        return Err(exists(name, Some(existing)));
    }
    if let Some((vni, name)) = taken.vnis.iter().find(|&&(vni, _)| vni == record.vni) {
        return Err(StoreError::Conflict(format!("VNI {vni} is used by network {name}")));
    }
    if new.allow_overlap {
        return Ok(());
    }
    record.subnets().try_for_each(|SubnetRecord { subnet, .. }| taken.check_subnet(subnet, &record.pools))
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
