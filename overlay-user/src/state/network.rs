//! A network, and the rules its record and the addresses in it obey.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use super::{NetworkRecord, Policy, PolicyError};
use crate::Vni;

/// The least MTU an IPv4 link can have, in bytes (RFC 791, section 3.2).
const LEAST_MTU: u16 = 68;

/// A network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its VNI; no two networks of a state have the same.
    pub vni: Vni,
    /// Its subnet.
    pub subnet: IpNet,
    /// The address kept for a gateway.
    pub gateway: IpAddr,
    /// Where addresses are taken from unless asked for: the subnet or a part of it.
    pub range: IpNet,
    /// MTU of its endpoints' interfaces; `None`: from the underlay's.
    pub mtu: Option<u16>,
    /// No way out to the world.
    pub internal: bool,
    /// What its owner decided about its packets.
    pub policy: Policy,
}

/// Why a network cannot be as its record says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// Not 24 bits, or zero.
    #[error("{0}")]
    Vni(String),
    /// IPv6.
    #[error("the subnet {0} is IPv6, which is not supported yet")]
    Ipv6(IpNet),
    /// More than a prefix.
    #[error("{what} {net} has host bits set; write {}", net.trunc())]
    HostBits {
        /// Subnet or range.
        what: &'static str,
        /// As given.
        net: IpNet,
    },
    /// No room for two hosts, or larger than any private pool.
    #[error("the subnet {0} has an unusable size: use a prefix of /8 to /30")]
    Size(IpNet),
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
    /// Below what IPv4 needs.
    #[error("the MTU {0} is below {LEAST_MTU}, the least IPv4 allows")]
    Mtu(u16),
    /// Out of range.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

/// Why an address cannot be an endpoint's in a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It is not in the subnet.
    #[error("{0} is not in the subnet {1}")]
    Outside(IpAddr, IpNet),
    /// The first address of the subnet.
    #[error("{0} is the network address of {1}")]
    NetworkAddress(IpAddr, IpNet),
    /// The last address of the subnet.
    #[error("{0} is the broadcast address of {1}")]
    Broadcast(IpAddr, IpNet),
    /// The gateway's.
    #[error("{0} is the gateway of {1}")]
    Gateway(IpAddr, IpNet),
}

// === impl Network ===

impl Network {
    /// Checks a record and makes a network of it.
    pub fn from_record(record: &NetworkRecord) -> Result<Self, NetworkError> {
        let NetworkRecord { vni, subnet, gateway, range, mtu, internal, policy } = *record;
        let vni = Vni::new(vni).map_err(|e| NetworkError::Vni(e.to_string()))?;
        check_subnet(subnet)?;
        check_host(subnet, gateway).map_err(NetworkError::Gateway)?;
        let range = range.unwrap_or(subnet);
        if range.trunc() != range {
            return Err(NetworkError::HostBits { what: "the range", net: range });
        }
        if !subnet.contains(&range) {
            return Err(NetworkError::Range { range, subnet });
        }
        if let Some(mtu) = mtu
            && mtu < LEAST_MTU
        {
            return Err(NetworkError::Mtu(mtu));
        }
        policy.check()?;
        Ok(Self { vni, subnet, gateway, range, mtu, internal, policy })
    }

    /// Checks that `address` can be an endpoint's in this network.
    pub fn check_address(&self, address: IpAddr) -> Result<(), AddressError> {
        check_host(self.subnet, address)?;
        if address == self.gateway {
            return Err(AddressError::Gateway(address, self.subnet));
        }
        Ok(())
    }
}

/// Checks that `subnet` can be a network's.
fn check_subnet(subnet: IpNet) -> Result<(), NetworkError> {
    let IpNet::V4(v4) = subnet else {
        return Err(NetworkError::Ipv6(subnet));
    };
    if subnet.trunc() != subnet {
        return Err(NetworkError::HostBits { what: "the subnet", net: subnet });
    }
    if !(8..=30).contains(&v4.prefix_len()) {
        return Err(NetworkError::Size(subnet));
    }
    // "This network", loopback, and everything from multicast on (RFC 6890, section 2.2.2).
    let reserved =
        [(Ipv4Addr::UNSPECIFIED, 8), (Ipv4Addr::new(127, 0, 0, 0), 8), (Ipv4Addr::new(224, 0, 0, 0), 3)];
    let lies_in = |(address, prefix)| Ipv4Net::new_assert(address, prefix).contains(&v4);
    if reserved.into_iter().any(lies_in) {
        return Err(NetworkError::Reserved(subnet));
    }
    Ok(())
}

/// Checks that `address` is a host's address in `subnet`.
fn check_host(subnet: IpNet, address: IpAddr) -> Result<(), AddressError> {
    if !subnet.contains(&address) {
        return Err(AddressError::Outside(address, subnet));
    }
    if address == subnet.network() {
        return Err(AddressError::NetworkAddress(address, subnet));
    }
    if address == subnet.broadcast() {
        return Err(AddressError::Broadcast(address, subnet));
    }
    Ok(())
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
            mtu: None,
            internal: false,
            policy: Policy::default(),
        }
    }

    #[test]
    fn networks_that_hold_up_are_taken() {
        let network =
            Network::from_record(&record("10.0.9.0/24", "10.0.9.1", Some("10.0.9.128/25"))).unwrap();
        assert_eq!(network.range, "10.0.9.128/25".parse::<IpNet>().unwrap());
        assert!(network.check_address("10.0.9.2".parse().unwrap()).is_ok());
        let whole = Network::from_record(&record("10.0.9.0/30", "10.0.9.2", None)).unwrap();
        assert_eq!(whole.range, whole.subnet);
    }

    #[test]
    fn networks_that_do_not_hold_up_are_refused_with_a_sentence() {
        for (subnet, gateway, range, says) in [
            ("10.0.9.1/24", "10.0.9.1", None, "write 10.0.9.0/24"),
            ("fd00::/64", "fd00::1", None, "not supported yet"),
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
        assert_eq!(Network::from_record(&bad), Err(NetworkError::Mtu(67)));
        let policy = Policy { bum_rate: 0, ..Policy::default() };
        let bad = NetworkRecord { policy, ..record("10.0.9.0/24", "10.0.9.1", None) };
        assert_eq!(Network::from_record(&bad), Err(NetworkError::Policy(PolicyError::BumRate(0))));
    }

    #[test]
    fn addresses_an_endpoint_cannot_have_are_refused() {
        let network = Network::from_record(&record("10.0.9.0/24", "10.0.9.1", None)).unwrap();
        for (address, says) in [
            ("10.0.8.2", "not in the subnet"),
            ("10.0.9.0", "network address"),
            ("10.0.9.255", "broadcast"),
            ("10.0.9.1", "gateway"),
            ("::1", "not in the subnet"),
        ] {
            let error = network.check_address(address.parse().unwrap()).unwrap_err().to_string();
            assert!(error.contains(says), "{address}: {error}");
        }
    }
}
