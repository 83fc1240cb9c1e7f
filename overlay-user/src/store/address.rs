//! Claiming addresses under a lease, and giving them back.

use std::{collections::BTreeSet, net::IpAddr, ops::RangeInclusive};

use etcd_client::{Compare, CompareOp, GetOptions, PutOptions, TxnOp};
use ipnet::IpNet;
use rand::seq::IndexedRandom as _;

use super::{
    Store, StoreError,
    call::{Call, Mark},
    holder,
    network::{Standing, wait_in_a_race},
    pool::Pool,
    value::{decoded, encoded},
};
use crate::state::{
    AddressRecord, AddressState, EndpointId, Network, NetworkName, NodeName, Subnet, same_family,
};

/// How long a claimed address is kept for an endpoint that is being made.
const RESERVED_SECONDS: i64 = 120;

/// How often another address is tried after one was taken by somebody else meanwhile.
const TRIES: u32 = 100;

/// Addresses claimed for an endpoint under a lease, until they are bound or released: one of each family
/// the network has.
#[derive(Debug)]
pub struct Reservation {
    /// The network.
    pub network: NetworkName,
    /// The endpoint they are for.
    pub endpoint: EndpointId,
    /// The addresses; IPv4 first.
    pub addresses: Vec<ReservedAddress>,
    /// The name of who is to have them.
    pub name: Option<String>,
    /// What the records are written under.
    pub(super) leases: Vec<i64>,
}

/// One address of a [`Reservation`].
#[derive(Clone, Copy, Debug)]
pub struct ReservedAddress {
    /// The address, with the subnet's prefix length.
    pub address: IpNet,
    /// The revision its record was written at: it is ours while it has that.
    pub(super) revision: i64,
}

/// A claim: everything but which address.
struct Claim<'a> {
    network: &'a NetworkName,
    standing: &'a Standing,
    subnet: &'a Subnet,
    record: &'a AddressRecord,
    value: &'a [u8],
    lease: i64,
}

// === impl Store ===

impl Store {
    /// Claims an address of each family the network has for an endpoint of `node`: the one in `wanted`, or
    /// any free one.
    pub async fn reserve_addresses(
        &self,
        network: &NetworkName,
        node: &NodeName,
        endpoint: &EndpointId,
        name: Option<&str>,
        wanted: &[IpAddr],
    ) -> Result<Reservation, StoreError> {
        let call = self.call();
        self.check_cluster(&call).await?;
        let standing = self.standing(&call, network).await?;
        check_wanted(network, &standing.network, wanted)?;
        let record = AddressRecord {
            state: AddressState::Reserved,
            node: node.clone(),
            endpoint: endpoint.clone(),
            name: name.map(str::to_owned),
        };
        let value = encoded(&record)?;
        let lease = call.grant(RESERVED_SECONDS).await?;
        let mut addresses = Vec::new();
        for subnet in standing.network.subnets() {
            let claim = Claim { network, standing: &standing, subnet, record: &record, value: &value, lease };
            let wanted = wanted.iter().find(|wanted| same_family(subnet.gateway, **wanted)).copied();
            match self.claim_one(&call, &claim, wanted).await {
                Ok(reserved) => addresses.push(reserved),
                Err(error) => {
                    // What was claimed before goes with the lease.
                    call.revoke(lease).await;
                    return Err(error);
                }
            }
        }
        let (network, endpoint, name) = (network.clone(), endpoint.clone(), record.name);
        Ok(Reservation { network, endpoint, addresses, name, leases: vec![lease] })
    }

    /// Claims one address, for who asks for each family by itself: `wanted`, or any free one of its family or, with
    /// none, of `six`. Whoever makes an endpoint with it [takes it over](Self::take_over_addresses).
    pub async fn reserve_address(
        &self,
        network: &NetworkName,
        node: &NodeName,
        name: Option<&str>,
        wanted: Option<IpAddr>,
        six: bool,
    ) -> Result<IpNet, StoreError> {
        let call = self.call();
        self.check_cluster(&call).await?;
        let standing = self.standing(&call, network).await?;
        check_wanted(network, &standing.network, wanted.as_slice())?;
        let six = wanted.map_or(six, |wanted| wanted.is_ipv6());
        let subnet = standing.network.subnets().find(|subnet| subnet.gateway.is_ipv6() == six);
        let subnet = subnet.ok_or_else(|| {
            let family = if six { "IPv6" } else { "IPv4" };
            StoreError::Invalid(format!("network {network} has no {family} subnet"))
        })?;
        // Who is to have it is not known yet, or only by name.
        let (endpoint, name) = (EndpointId::random(), name.map(str::to_owned));
        let record = AddressRecord { state: AddressState::Reserved, node: node.clone(), endpoint, name };
        let value = encoded(&record)?;
        let lease = call.grant(RESERVED_SECONDS).await?;
        let claim = Claim { network, standing: &standing, subnet, record: &record, value: &value, lease };
        match self.claim_one(&call, &claim, wanted).await {
            Ok(reserved) => Ok(reserved.address),
            Err(error) => {
                call.revoke(lease).await;
                Err(error)
            }
        }
    }

    /// Claims addresses that `node` has [reserved](Self::reserve_address) by themselves for an endpoint: each under the
    /// lease it has. One whose lease has ended meanwhile is claimed anew.
    pub async fn take_over_addresses(
        &self,
        network: &NetworkName,
        node: &NodeName,
        endpoint: &EndpointId,
        wanted: &[IpAddr],
    ) -> Result<Reservation, StoreError> {
        let call = self.call();
        self.check_cluster(&call).await?;
        let standing = self.standing(&call, network).await?;
        check_wanted(network, &standing.network, wanted)?;
        let (network, endpoint) = (network.clone(), endpoint.clone());
        let mut taken =
            Reservation { network, endpoint, addresses: Vec::new(), name: None, leases: Vec::new() };
        for subnet in standing.network.subnets() {
            let Some(&wanted) = wanted.iter().find(|wanted| same_family(subnet.gateway, **wanted)) else {
                continue;
            };
            if let Err(error) = self.take_over(&call, &standing, subnet, node, wanted, &mut taken).await {
                if let Err(second) = self.release(&taken).await {
                    tracing::debug!(%error, %second, "addresses are kept until their leases end");
                }
                return Err(error);
            }
        }
        Ok(taken)
    }

    async fn take_over(
        &self,
        call: &Call<'_>,
        standing: &Standing,
        subnet: &Subnet,
        node: &NodeName,
        wanted: IpAddr,
        taken: &mut Reservation,
    ) -> Result<(), StoreError> {
        let found = call.get(&self.keys().address(&taken.network, wanted)).await?;
        let reserved = found.as_ref().and_then(|found| {
            let record = decoded::<AddressRecord>(found.value())?;
            let own = record.state == AddressState::Reserved && record.node == *node && found.lease() != 0;
            own.then(|| (record, found.lease(), found.mod_revision()))
        });
        let (name, lease, revision) = match reserved {
            Some((record, lease, revision)) => (record.name, lease, Some(revision)),
            None => (None, call.grant(RESERVED_SECONDS).await?, None),
        };
        taken.leases.push(lease);
        let (state, endpoint) = (AddressState::Reserved, taken.endpoint.clone());
        let record = AddressRecord { state, node: node.clone(), endpoint, name: name.clone() };
        let value = encoded(&record)?;
        let claim =
            Claim { network: &taken.network, standing, subnet, record: &record, value: &value, lease };
        let reserved = match revision {
            None => self.claim_one(call, &claim, Some(wanted)).await?,
            Some(revision) => {
                let key = self.keys().address(&taken.network, wanted);
                let same = Compare::mod_revision(key, CompareOp::Equal, revision);
                let revision = self.claim(call, &claim, wanted, same).await?;
                let lost =
                    || StoreError::Conflict(format!("{wanted} was taken by another container meanwhile"));
                claim.reserved(wanted, revision.ok_or_else(lost)?)
            }
        };
        taken.name = taken.name.take().or(name);
        taken.addresses.push(reserved);
        Ok(())
    }

    /// Gives an address back that `node` has reserved and nobody has taken over. Without error if it is not that.
    pub async fn release_address(
        &self,
        network: &NetworkName,
        node: &NodeName,
        address: IpAddr,
    ) -> Result<(), StoreError> {
        let (call, key) = (self.call(), self.keys().address(network, address));
        let Some(found) = call.get(&key).await? else { return Ok(()) };
        let record = decoded::<AddressRecord>(found.value());
        if record.is_some_and(|record| record.state == AddressState::Reserved && record.node == *node) {
            let same = Compare::mod_revision(key.as_str(), CompareOp::Equal, found.mod_revision());
            if call.commit(vec![same], vec![TxnOp::delete(key.as_str(), None)], None).await?.is_some() {
                call.revoke(found.lease()).await;
            }
        }
        Ok(())
    }

    /// Gives a reservation back.
    pub async fn release(&self, reservation: &Reservation) -> Result<(), StoreError> {
        let call = self.call();
        for reserved in &reservation.addresses {
            let key = self.keys().address(&reservation.network, reserved.address.addr());
            let ours = Compare::mod_revision(key.as_str(), CompareOp::Equal, reserved.revision);
            // If it is not ours any more there is nothing to give back.
            call.commit(vec![ours], vec![TxnOp::delete(key, None)], None).await?;
        }
        for lease in &reservation.leases {
            call.revoke(*lease).await;
        }
        Ok(())
    }

    /// Claims `wanted`, or any free address.
    async fn claim_one(
        &self,
        call: &Call<'_>,
        claim: &Claim<'_>,
        wanted: Option<IpAddr>,
    ) -> Result<ReservedAddress, StoreError> {
        let (address, revision) = match wanted {
            Some(wanted) => self.claim_wanted(call, claim, wanted).await?,
            None => self.claim_any(call, claim).await?,
        };
        Ok(claim.reserved(address, revision))
    }

    /// Puts the claim on one address, if it is as `address_is` says. `None`: it is not, or the
    /// network is gone.
    async fn claim(
        &self,
        call: &Call<'_>,
        claim: &Claim<'_>,
        address: IpAddr,
        address_is: Compare,
    ) -> Result<Option<i64>, StoreError> {
        let key = self.keys().address(claim.network, address);
        let network = self.keys().network(claim.network);
        let created = claim.standing.created;
        let compares = vec![Compare::create_revision(network, CompareOp::Equal, created), address_is];
        let options = PutOptions::new().with_lease(claim.lease);
        let put = TxnOp::put(key.as_str(), claim.value, Some(options));
        Ok(call.commit(compares, vec![put], Some(Mark { key: &key, value: claim.value })).await?)
    }

    async fn claim_wanted(
        &self,
        call: &Call<'_>,
        claim: &Claim<'_>,
        wanted: IpAddr,
    ) -> Result<(IpAddr, i64), StoreError> {
        for attempt in 1..=TRIES {
            let address_is = self.is_to_be_had(call, claim.network, wanted).await?;
            if let Some(revision) = self.claim(call, claim, wanted, address_is).await? {
                return Ok((wanted, revision));
            }
            self.check_standing(call, claim).await?;
            wait_in_a_race(attempt).await;
        }
        Err(StoreError::Conflict(format!("{wanted} is taken and given back all the time; try again")))
    }

    /// That the key of an address is as it is now, if whoever asks for that one may have it.
    ///
    /// # Errors
    /// Who has it.
    pub(super) async fn is_to_be_had(
        &self,
        call: &Call<'_>,
        network: &NetworkName,
        address: IpAddr,
    ) -> Result<Compare, StoreError> {
        let key = self.keys().address(network, address);
        match call.get(&key).await? {
            None => Ok(Compare::create_revision(key, CompareOp::Equal, 0)),
            Some(found) if is_cooling(found.value()) => {
                Ok(Compare::mod_revision(key, CompareOp::Equal, found.mod_revision()))
            }
            Some(found) => {
                Err(StoreError::Conflict(format!("{address} {}", holder::of_address(found.value()))))
            }
        }
    }

    async fn claim_any(&self, call: &Call<'_>, claim: &Claim<'_>) -> Result<(IpAddr, i64), StoreError> {
        let pool = Pool::of(&claim.standing.network, claim.subnet);
        let mut attempt = 0;
        for window in pool.windows(claim.network, &claim.record.node) {
            loop {
                let taken = self.taken_in(call, claim.network, &pool, &window).await?;
                let free = pool.free(window.clone(), &taken);
                // After a lost race the first would be wanted by all who lost it.
                let choice = if attempt == 0 { free.first() } else { free.choose(&mut rand::rng()) };
                let Some(&address) = choice else {
                    break;
                };
                let key = self.keys().address(claim.network, address);
                let is_free = Compare::create_revision(key, CompareOp::Equal, 0);
                if let Some(revision) = self.claim(call, claim, address, is_free).await? {
                    return Ok((address, revision));
                }
                self.check_standing(call, claim).await?;
                attempt += 1;
                if attempt == TRIES || !call.has_time() {
                    return Err(StoreError::Conflict(format!(
                        "no address of network {} was got: too many ask at once; try again",
                        claim.network
                    )));
                }
                wait_in_a_race(attempt).await;
            }
        }
        Err(self.full(call, claim, pool.size()).await?)
    }

    /// The offsets in a window whose addresses have a record.
    async fn taken_in(
        &self,
        call: &Call<'_>,
        network: &NetworkName,
        pool: &Pool<'_>,
        window: &RangeInclusive<u32>,
    ) -> Result<BTreeSet<u32>, StoreError> {
        let key = |offset: u32| self.keys().address(network, pool.address(offset));
        let end = key(*window.end()) + "\0";
        let options = GetOptions::new().with_range(end).with_keys_only();
        let answer = call.range(&key(*window.start()), options).await?;
        let offset = |key: &[u8]| pool.offset(self.keys().address_in(network, key)?);
        Ok(answer.kvs().iter().filter_map(|kv| offset(kv.key())).collect())
    }

    async fn check_standing(&self, call: &Call<'_>, claim: &Claim<'_>) -> Result<(), StoreError> {
        let now = self.standing(call, claim.network).await?;
        if now.created == claim.standing.created {
            Ok(())
        } else {
            Err(StoreError::Conflict(format!("network {} was made anew meanwhile; try again", claim.network)))
        }
    }

    /// The error for a pool that has nothing left, with its numbers.
    async fn full(&self, call: &Call<'_>, claim: &Claim<'_>, size: u64) -> Result<StoreError, StoreError> {
        let (mut used, mut cooling) = (0, Vec::new());
        for kv in call.list(&self.keys().addresses(claim.network)).await? {
            let address = self.keys().address_in(claim.network, kv.key());
            if !address.is_some_and(|address| claim.subnet.net.contains(&address)) {
                continue;
            }
            match decoded::<AddressRecord>(kv.value()) {
                Some(record) if record.state == AddressState::Cooling => cooling.push(kv),
                _ => used += 1,
            }
        }
        // All cool for the same time, so the one that began first is free first.
        let first = cooling.iter().min_by_key(|kv| kv.mod_revision());
        let left = match first {
            Some(first) => call.seconds_left(first.lease()).await?,
            None => None,
        };
        let left = left.map_or_else(String::new, |left| format!(" (the first is free in {left} s)"));
        Ok(StoreError::Conflict(format!(
            "network {} is full: {} has {size} addresses to give; {used} are used, {} cooling{left}",
            claim.network,
            claim.subnet.range,
            cooling.len()
        )))
    }
}

// === impl Claim ===

impl Claim<'_> {
    fn reserved(&self, address: IpAddr, revision: i64) -> ReservedAddress {
        let address = IpNet::new_assert(address, self.subnet.net.prefix_len());
        ReservedAddress { address, revision }
    }
}

/// Checks that the addresses asked for can be an endpoint's, one of each family at most.
pub(super) fn check_wanted(
    name: &NetworkName,
    network: &Network,
    wanted: &[IpAddr],
) -> Result<(), StoreError> {
    for (index, &address) in wanted.iter().enumerate() {
        let check = network.check_address(address);
        check.map_err(|e| StoreError::Invalid(format!("not an address for network {name}: {e}")))?;
        if let Some(other) = wanted[..index].iter().find(|&&other| same_family(other, address)) {
            let text = format!("{other} and {address} are of one family: an endpoint has one of each");
            return Err(StoreError::Invalid(text));
        }
    }
    Ok(())
}

/// Whether an address is only cooling: its endpoint is gone in every node's eyes before they see who has it next, so
/// who asks for this one has it at once. Others are not given it unasked.
fn is_cooling(value: &[u8]) -> bool {
    decoded::<AddressRecord>(value).is_some_and(|record| record.state == AddressState::Cooling)
}
