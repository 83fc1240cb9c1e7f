//! The record of a network to be made: what was asked for, and what was not is chosen.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

use super::{NewNetwork, exists, taken::Taken};
use crate::{
    state::{Network, NetworkRecord, Policy, PoolId, SubnetRecord, family, same_family},
    store::{StoreError, pool},
};

/// The record of a network, if nothing is in its way. Claims on `pools` are its own.
pub(super) fn prepare(
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
pub(in crate::store) fn default_gateway(subnet: IpNet) -> IpAddr {
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
