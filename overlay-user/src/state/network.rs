//! A network, and the rules its record and the addresses in it obey.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use super::{
    AddressError, NetworkRecord, Policy, PolicyError, PoolId, Subnet, SubnetRecord, shown,
    subnet::same_family,
};
use crate::Vni;

/// The least MTU an IPv4 link can have, in bytes (RFC 791, section 3.2).
const LEAST_MTU4: u16 = 68;

/// The least MTU an IPv6 link can have, in bytes (RFC 8200, section 5).
const LEAST_MTU6: u16 = 1280;

/// Most addresses that a network keeps from its endpoints.
const MOST_AUX: usize = 256;

/// Most pools of a network: one for each family.
const MOST_POOLS: usize = 2;

/// A network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its VNI; no two networks of a state have the same.
    pub vni: Vni,
    /// Its subnet; the IPv4 one of a dual-stack network.
    pub subnet: Subnet,
    /// The IPv6 subnet of a dual-stack network.
    pub dual: Option<Subnet>,
    /// MTU of its endpoints' interfaces; `None`: from the underlay's.
    pub mtu: Option<u16>,
    /// No way out to the world.
    pub internal: bool,
    /// What its owner decided about its packets.
    pub policy: Policy,
    /// Addresses that no endpoint gets, by what they are kept for.
    pub aux: BTreeMap<String, IpAddr>,
    /// The pools that Docker has for it.
    pub pools: Vec<PoolId>,
    /// Its identity in Docker, where that is the same on all nodes.
    pub docker: Option<String>,
}

/// Why a network cannot be as its record says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// Not 24 bits, or zero.
    #[error("{0}")]
    Vni(String),
    /// Two subnets of one family.
    #[error("{0} and {1} are of one family: a network has one subnet of each")]
    Family(IpNet, IpNet),
    /// More than a prefix.
    #[error("{what} {net} has host bits set; write {}", net.trunc())]
    HostBits {
        /// Subnet or range.
        what: &'static str,
        /// As given.
        net: IpNet,
    },
    /// No room for two hosts, or larger than any private pool.
    #[error("the subnet {subnet} has an unusable size: use a prefix of /{least} to /{most}")]
    Size {
        /// The subnet.
        subnet: IpNet,
        /// The shortest prefix.
        least: u8,
        /// The longest prefix.
        most: u8,
    },
    /// Addresses no host can have.
    #[error("the subnet {0} lies in addresses no host can have")]
    Reserved(IpNet),
    /// The gateway cannot be an address of the subnet.
    #[error("the gateway is not usable: {0}")]
    Gateway(AddressError),
    /// The range is not a part of the subnet.
    #[error("the range {range} is not a part of the subnet {subnet}")]
    Range {
        /// The range.
        range: IpNet,
        /// The subnet.
        subnet: IpNet,
    },
    /// Below what a family needs.
    #[error("the MTU {mtu} is below {least}, the least {family} allows")]
    Mtu {
        /// As given.
        mtu: u16,
        /// What is needed.
        least: u16,
        /// By which family.
        family: &'static str,
    },
    /// Out of range.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// An address that cannot be kept.
    #[error("the address kept for {0} is not usable: {1}")]
    Aux(String, AddressError),
    /// Too many of something.
    #[error("it has {count} {what}, more than {most}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// How many it may have.
        most: usize,
    },
}

// === impl Network ===

impl Network {
    /// Checks a record and makes a network of it.
    pub fn from_record(record: &NetworkRecord) -> Result<Self, NetworkError> {
        let NetworkRecord { vni, subnet, gateway, range, dual, mtu, internal, policy, .. } = *record;
        let NetworkRecord { aux, pools, docker, .. } = record;
        let vni = Vni::new(vni).map_err(|e| NetworkError::Vni(e.to_string()))?;
        let mut subnet = Subnet::from_record(SubnetRecord { subnet, gateway, range })?;
        let mut dual = dual.map(Subnet::from_record).transpose()?;
        if let Some(dual) = &mut dual {
            if same_family(subnet.gateway, dual.gateway) {
                return Err(NetworkError::Family(subnet.net, dual.net));
            }
            if subnet.gateway.is_ipv6() {
                std::mem::swap(&mut subnet, dual);
            }
        }
        policy.check()?;
        let (aux, pools, docker) = (aux.clone(), pools.clone(), docker.clone());
        let network = Self { vni, subnet, dual, mtu, internal, policy, aux, pools, docker };
        mtu.map_or(Ok(()), |mtu| network.check_mtu(mtu))?;
        network.check_kept()?;
        Ok(network)
    }

    fn check_kept(&self) -> Result<(), NetworkError> {
        for (what, count, most) in
            [("kept addresses", self.aux.len(), MOST_AUX), ("pools", self.pools.len(), MOST_POOLS)]
        {
            if count > most {
                return Err(NetworkError::TooMany { what, count, most });
            }
        }
        self.aux.iter().try_for_each(|(name, &address)| {
            let subnet = self.subnet_of(address).ok_or(AddressError::Family(address));
            let check = subnet.and_then(|subnet| subnet.check_address(address));
            check.map_err(|error| NetworkError::Aux(shown(name), error))
        })
    }

    /// Its subnets: one, or one of each family.
    pub fn subnets(&self) -> impl Iterator<Item = &Subnet> {
        [&self.subnet].into_iter().chain(&self.dual)
    }

    /// The subnet of an address's family.
    #[must_use]
    pub fn subnet_of(&self, address: IpAddr) -> Option<&Subnet> {
        self.subnets().find(|subnet| same_family(subnet.gateway, address))
    }

    /// Checks that `address` can be an endpoint's in this network.
    pub fn check_address(&self, address: IpAddr) -> Result<(), AddressError> {
        self.subnet_of(address).ok_or(AddressError::Family(address))?.check_address(address)?;
        match self.kept_for(address) {
            Some(name) => Err(AddressError::Kept(address, shown(name))),
            None => Ok(()),
        }
    }

    /// What its owner keeps an address for.
    #[must_use]
    pub fn kept_for(&self, address: IpAddr) -> Option<&str> {
        self.aux.iter().find(|(_, kept)| **kept == address).map(|(name, _)| name.as_str())
    }

    /// Checks that the network's families work with an MTU.
    pub fn check_mtu(&self, mtu: u16) -> Result<(), NetworkError> {
        let needs = |subnet: &Subnet| match subnet.net {
            IpNet::V4(_) => (LEAST_MTU4, "IPv4"),
            IpNet::V6(_) => (LEAST_MTU6, "IPv6"),
        };
        match self.subnets().map(needs).find(|&(least, _)| mtu < least) {
            Some((least, family)) => Err(NetworkError::Mtu { mtu, least, family }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(subnet: &str, gateway: &str, range: Option<&str>) -> NetworkRecord {
        NetworkRecord {
            vni: 7,
            subnet: subnet.parse().unwrap(),
            gateway: gateway.parse().unwrap(),
            range: range.map(|r| r.parse().unwrap()),
            dual: None,
            mtu: None,
            internal: false,
            policy: Policy::default(),
            aux: BTreeMap::new(),
            pools: Vec::new(),
            docker: None,
        }
    }

    #[test]
    fn networks_that_hold_up_are_taken() {
        let network =
            Network::from_record(&record("10.0.9.0/24", "10.0.9.1", Some("10.0.9.128/25"))).unwrap();
        assert_eq!(network.subnet.range, "10.0.9.128/25".parse::<IpNet>().unwrap());
        assert!(network.check_address("10.0.9.2".parse().unwrap()).is_ok());
        let whole = Network::from_record(&record("10.0.9.0/30", "10.0.9.2", None)).unwrap();
        assert_eq!(whole.subnet.range, whole.subnet.net);
        let six = Network::from_record(&record("fd00::/64", "fd00::1", None)).unwrap();
        assert!(six.check_address("fd00::ffff:ffff:ffff:ffff".parse().unwrap()).is_ok(), "no broadcast");
    }

    fn dual(first: (&str, &str), second: (&str, &str)) -> NetworkRecord {
        let SubnetRecord { subnet, gateway, range } = {
            let NetworkRecord { subnet, gateway, range, .. } = record(second.0, second.1, None);
            SubnetRecord { subnet, gateway, range }
        };
        NetworkRecord {
            dual: Some(SubnetRecord { subnet, gateway, range }),
            ..record(first.0, first.1, None)
        }
    }

    #[test]
    fn a_network_has_a_subnet_of_each_family_at_most() {
        let (four, six) = (("10.0.9.0/24", "10.0.9.1"), ("fd00::/64", "fd00::1"));
        for record in [dual(four, six), dual(six, four)] {
            let network = Network::from_record(&record).unwrap();
            let families: Vec<_> = network.subnets().map(|subnet| subnet.net.to_string()).collect();
            assert_eq!(families, [four.0, six.0]);
            for address in ["10.0.9.2", "fd00::2"] {
                assert!(network.check_address(address.parse().unwrap()).is_ok(), "{address}");
            }
        }
        for (first, second) in [(four, ("10.0.8.0/24", "10.0.8.1")), (six, ("fd01::/64", "fd01::1"))] {
            let error = Network::from_record(&dual(first, second)).unwrap_err();
            assert!(matches!(error, NetworkError::Family(..)), "{error}");
        }
        let small = NetworkRecord { mtu: Some(1279), ..dual(four, six) };
        let error = Network::from_record(&small).unwrap_err().to_string();
        assert_eq!(error, "the MTU 1279 is below 1280, the least IPv6 allows");
    }

    #[test]
    fn networks_that_do_not_hold_up_are_refused_with_a_sentence() {
        for (subnet, gateway, range, says) in [
            ("10.0.9.1/24", "10.0.9.1", None, "write 10.0.9.0/24"),
            ("fd00::7/64", "fd00::1", None, "write fd00::/64"),
            ("fd00::/127", "fd00::1", None, "unusable size: use a prefix of /16 to /126"),
            ("fe80::/64", "fe80::1", None, "no host can have"),
            ("::ffff:0:0/96", "::ffff:10.0.0.1", None, "no host can have"),
            ("ff05::/32", "ff05::1", None, "no host can have"),
            ("fd00::/64", "fd00::", None, "network address"),
            ("fd00::/64", "fd00::1", Some("10.0.9.0/25"), "not a part"),
            ("10.0.9.0/31", "10.0.9.1", None, "unusable size"),
            ("0.0.0.0/0", "10.0.9.1", None, "unusable size"),
            ("127.0.0.0/8", "127.0.0.1", None, "no host can have"),
            ("239.1.0.0/16", "239.1.0.1", None, "no host can have"),
            ("10.0.9.0/24", "10.0.8.1", None, "not in the subnet"),
            ("10.0.9.0/24", "fd00::1", None, "not in the subnet"),
            ("10.0.9.0/24", "10.0.9.0", None, "network address"),
            ("10.0.9.0/24", "10.0.9.255", None, "broadcast address"),
            ("10.0.9.0/24", "10.0.9.1", Some("10.0.8.0/23"), "not a part"),
            ("10.0.9.0/24", "10.0.9.1", Some("10.0.9.1/25"), "host bits"),
        ] {
            let error = Network::from_record(&record(subnet, gateway, range)).unwrap_err().to_string();
            assert!(error.contains(says), "{subnet} {gateway} {range:?}: {error}");
        }
        for vni in [0, 1 << 24, u32::MAX] {
            let bad = NetworkRecord { vni, ..record("10.0.9.0/24", "10.0.9.1", None) };
            assert!(matches!(Network::from_record(&bad), Err(NetworkError::Vni(_))));
        }
        let bad = NetworkRecord { mtu: Some(67), ..record("10.0.9.0/24", "10.0.9.1", None) };
        let error = Network::from_record(&bad).unwrap_err().to_string();
        assert_eq!(error, "the MTU 67 is below 68, the least IPv4 allows");
        let policy = Policy { bum_rate: 0, ..Policy::default() };
        let bad = NetworkRecord { policy, ..record("10.0.9.0/24", "10.0.9.1", None) };
        assert_eq!(Network::from_record(&bad), Err(NetworkError::Policy(PolicyError::BumRate(0))));
    }

    #[test]
    fn addresses_that_are_kept_are_the_networks_and_no_endpoints() {
        let keep = |address: &str| NetworkRecord {
            aux: BTreeMap::from([("router".to_owned(), address.parse().unwrap())]),
            ..record("10.0.9.0/24", "10.0.9.1", None)
        };
        let network = Network::from_record(&keep("10.0.9.7")).unwrap();
        let error = network.check_address("10.0.9.7".parse().unwrap()).unwrap_err().to_string();
        assert_eq!(error, "10.0.9.7 is kept for router, not for endpoints");
        for bad in ["10.0.8.7", "10.0.9.1", "10.0.9.0", "fd00::7"] {
            let error = Network::from_record(&keep(bad)).unwrap_err().to_string();
            assert!(error.starts_with("the address kept for router is not usable"), "{error}");
        }
        let aux = (0..257).map(|n| (n.to_string(), "10.0.9.7".parse().unwrap())).collect();
        let error = Network::from_record(&NetworkRecord { aux, ..keep("10.0.9.7") }).unwrap_err();
        assert_eq!(error.to_string(), "it has 257 kept addresses, more than 256");
    }

    #[test]
    fn addresses_an_endpoint_cannot_have_are_refused() {
        let network = Network::from_record(&record("10.0.9.0/24", "10.0.9.1", None)).unwrap();
        for (address, says) in [
            ("10.0.8.2", "not in the subnet"),
            ("10.0.9.0", "network address"),
            ("10.0.9.255", "broadcast"),
            ("10.0.9.1", "gateway"),
            ("::1", "the network has no IPv6 subnet"),
        ] {
            let error = network.check_address(address.parse().unwrap()).unwrap_err().to_string();
            assert!(error.contains(says), "{address}: {error}");
        }
    }
}
