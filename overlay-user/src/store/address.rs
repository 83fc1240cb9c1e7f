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
    /// What the records are written under.
    pub(super) lease: i64,
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
            let claimed = match wanted.iter().find(|wanted| same_family(subnet.gateway, **wanted)) {
                Some(wanted) => self.claim_wanted(&call, &claim, *wanted).await,
                None => self.claim_any(&call, &claim).await,
            };
            match claimed {
                Ok((address, revision)) => {
                    let address = IpNet::new_assert(address, subnet.net.prefix_len());
                    addresses.push(ReservedAddress { address, revision });
                }
                Err(error) => {
                    // What was claimed before goes with the lease.
                    call.revoke(lease).await;
                    return Err(error);
                }
            }
        }
        Ok(Reservation { network: network.clone(), endpoint: endpoint.clone(), addresses, lease })
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
        call.revoke(reservation.lease).await;
        Ok(())
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
        let key = self.keys().address(claim.network, wanted);
        for attempt in 1..=TRIES {
            let address_is = match call.get(&key).await? {
                None => Compare::create_revision(key.as_str(), CompareOp::Equal, 0),
                Some(found) if had_it(claim.record, found.value()) => {
                    Compare::mod_revision(key.as_str(), CompareOp::Equal, found.mod_revision())
                }
                Some(found) => {
                    let holder = holder::of_address(found.value());
                    return Err(StoreError::Conflict(format!("{wanted} {holder}")));
                }
            };
            if let Some(revision) = self.claim(call, claim, wanted, address_is).await? {
                return Ok((wanted, revision));
            }
            self.check_standing(call, claim).await?;
            wait_in_a_race(attempt).await;
        }
        Err(StoreError::Conflict(format!("{wanted} is taken and given back all the time; try again")))
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

/// Whether a cooling address was the claimant's: its name's, wherever it is now, or its node's. Who
/// asks for it may have it back at once: nobody else's traffic goes there.
fn had_it(claimant: &AddressRecord, value: &[u8]) -> bool {
    decoded::<AddressRecord>(value).is_some_and(|record| {
        record.state == AddressState::Cooling
            && (record.node == claimant.node || (record.name.is_some() && record.name == claimant.name))
    })
}
