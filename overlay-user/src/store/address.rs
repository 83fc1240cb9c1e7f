//! Claiming addresses under a lease, and giving them back.

use std::{collections::BTreeSet, net::IpAddr};

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
use crate::state::{AddressRecord, AddressState, EndpointId, NetworkName, NodeName};

/// How long a claimed address is kept for an endpoint that is being made.
const RESERVED_SECONDS: i64 = 120;

/// How often another address is tried after one was taken by somebody else meanwhile.
const TRIES: u32 = 100;

/// An address claimed for an endpoint under a lease, until it is bound or released.
#[derive(Debug)]
pub struct Reservation {
    /// The network.
    pub network: NetworkName,
    /// The endpoint it is for.
    pub endpoint: EndpointId,
    /// The address, with the subnet's prefix length.
    pub address: IpNet,
    /// What the record is written under.
    pub(super) lease: i64,
    /// The revision it was written at: it is ours while it has that.
    pub(super) revision: i64,
}

/// A claim: everything but which address.
struct Claim<'a> {
    network: &'a NetworkName,
    standing: &'a Standing,
    record: &'a AddressRecord,
    value: &'a [u8],
    lease: i64,
}

// === impl Store ===

impl Store {
    /// Claims `wanted`, or any free address, for an endpoint of `node`.
    pub async fn reserve_address(
        &self,
        network: &NetworkName,
        node: &NodeName,
        endpoint: &EndpointId,
        name: Option<&str>,
        wanted: Option<IpAddr>,
    ) -> Result<Reservation, StoreError> {
        let call = self.call();
        self.check_cluster(&call).await?;
        let standing = self.standing(&call, network).await?;
        if let Some(wanted) = wanted {
            let check = standing.network.check_address(wanted);
            check.map_err(|e| StoreError::Invalid(format!("not an address for network {network}: {e}")))?;
        }
        let record = AddressRecord {
            state: AddressState::Reserved,
            node: node.clone(),
            endpoint: endpoint.clone(),
            name: name.map(str::to_owned),
        };
        let value = encoded(&record)?;
        let lease = call.grant(RESERVED_SECONDS).await?;
        let claim = Claim { network, standing: &standing, record: &record, value: &value, lease };
        let claimed = match wanted {
            Some(wanted) => self.claim_wanted(&call, &claim, wanted).await,
            None => self.claim_any(&call, &claim).await,
        };
        match claimed {
            Ok((address, revision)) => Ok(Reservation {
                network: network.clone(),
                endpoint: endpoint.clone(),
                address: IpNet::new_assert(address, standing.network.subnet.prefix_len()),
                lease,
                revision,
            }),
            Err(error) => {
                call.revoke(lease).await;
                Err(error)
            }
        }
    }

    /// Gives a reservation back.
    pub async fn release(&self, reservation: &Reservation) -> Result<(), StoreError> {
        let call = self.call();
        let key = self.keys().address(&reservation.network, reservation.address.addr());
        let ours = Compare::mod_revision(key.as_str(), CompareOp::Equal, reservation.revision);
        // If it is not ours any more there is nothing to give back.
        call.commit(vec![ours], vec![TxnOp::delete(key, None)], None).await?;
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
        let network = &claim.standing.network;
        let pool = Pool::of(network).ok_or_else(|| {
            StoreError::Invalid(format!("{} is IPv6, which is not supported yet", network.range))
        })?;
        let mut attempt = 0;
        for window in pool.windows(claim.network, &claim.record.node) {
            loop {
                let taken = self.taken_in(call, claim.network, *window.start(), *window.end()).await?;
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
                if attempt == TRIES {
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

    /// The addresses of a window that have a record.
    async fn taken_in(
        &self,
        call: &Call<'_>,
        network: &NetworkName,
        first: u32,
        last: u32,
    ) -> Result<BTreeSet<u32>, StoreError> {
        let key = |bits: u32| self.keys().address(network, IpAddr::V4(bits.into()));
        let end = key(last) + "\0";
        let answer = call.range(&key(first), GetOptions::new().with_range(end).with_keys_only()).await?;
        let prefix = self.keys().addresses(network);
        let bits = |key: &[u8]| {
            let digits = str::from_utf8(key.strip_prefix(prefix.as_bytes())?).ok()?;
            u32::from_str_radix(digits, 16).ok()
        };
        Ok(answer.kvs().iter().filter_map(|kv| bits(kv.key())).collect())
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
    async fn full(&self, call: &Call<'_>, claim: &Claim<'_>, size: u32) -> Result<StoreError, StoreError> {
        let (mut used, mut cooling) = (0, 0);
        for kv in call.list(&self.keys().addresses(claim.network)).await? {
            match decoded::<AddressRecord>(kv.value()) {
                Some(record) if record.state == AddressState::Cooling => cooling += 1,
                _ => used += 1,
            }
        }
        let wait = if cooling > 0 { " (free again within a minute)" } else { "" };
        Ok(StoreError::Conflict(format!(
            "network {} is full: {} has {size} addresses to give; {used} are used, {cooling} cooling{wait}",
            claim.network, claim.standing.network.range
        )))
    }
}

/// Whether a cooling address was the claimant's: its name's, wherever it is now, or its node's. Who
/// asks for it may have it back at once: nobody else's traffic goes there.
fn had_it(claimant: &AddressRecord, value: &[u8]) -> bool {
    decoded::<AddressRecord>(value).is_some_and(|record| {
        record.state == AddressState::Cooling
            && (record.node == claimant.node || (record.name.is_some() && record.name == claimant.name))
    })
}
