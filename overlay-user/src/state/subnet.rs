//! A subnet of a network, and which addresses in it an endpoint can have.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{NetworkError, SubnetRecord};

/// One subnet of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// The prefix.
    pub net: IpNet,
    /// The address kept for a gateway.
    pub gateway: IpAddr,
    /// Where addresses are taken from unless asked for: the subnet or a part of it.
    pub range: IpNet,
}

/// Why an address cannot be an endpoint's in a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It is not in the subnet.
    #[error("{0} is not in the subnet {1}")]
    Outside(IpAddr, IpNet),
    /// The network has no subnet of its family.
    #[error("{0}: the network has no {name} subnet", name = family(.0))]
    Family(IpAddr),
    /// The first address of the subnet.
    #[error("{0} is the network address of {1}")]
    NetworkAddress(IpAddr, IpNet),
    /// The last address of an IPv4 subnet.
    #[error("{0} is the broadcast address of {1}")]
    Broadcast(IpAddr, IpNet),
    /// The gateway's.
    #[error("{0} is the gateway of {1}")]
    Gateway(IpAddr, IpNet),
    /// The network's owner keeps it from endpoints.
    #[error("{0} is kept for {1}, not for endpoints")]
    Kept(IpAddr, String),
}

/// The name of an address's family.
#[must_use]
pub const fn family(address: &IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    }
}

/// Whether two addresses are of one family.
#[must_use]
pub const fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv6() == b.is_ipv6()
}

// === impl Subnet ===

impl Subnet {
    /// Checks a record and makes a subnet of it.
    pub(crate) fn from_record(record: SubnetRecord) -> Result<Self, NetworkError> {
        let SubnetRecord { subnet: net, gateway, range } = record;
        check_net(net)?;
        check_host(net, gateway).map_err(NetworkError::Gateway)?;
        let range = range.unwrap_or(net);
        if range.trunc() != range {
            return Err(NetworkError::HostBits { what: "the range", net: range });
        }
        if !net.contains(&range) {
            return Err(NetworkError::Range { range, subnet: net });
        }
        Ok(Self { net, gateway, range })
    }

    /// Checks that `address` can be somebody's in this subnet: an endpoint's, or one that is kept.
    pub fn check_host(&self, address: IpAddr) -> Result<(), AddressError> {
        check_host(self.net, address)
    }

    /// Checks that `address` can be an endpoint's in this subnet.
    pub fn check_address(&self, address: IpAddr) -> Result<(), AddressError> {
        check_host(self.net, address)?;
        if address == self.gateway {
            return Err(AddressError::Gateway(address, self.net));
        }
        Ok(())
    }
}

/// Checks that `net` can be a network's.
fn check_net(net: IpNet) -> Result<(), NetworkError> {
    if net.trunc() != net {
        return Err(NetworkError::HostBits { what: "the subnet", net });
    }
    let (sizes, reserved) = match net {
        IpNet::V4(v4) => (8..=30, is_reserved4(v4)),
        IpNet::V6(v6) => (16..=126, is_reserved6(v6)),
    };
    if !sizes.contains(&net.prefix_len()) {
        return Err(NetworkError::Size { subnet: net, least: *sizes.start(), most: *sizes.end() });
    }
    if reserved { Err(NetworkError::Reserved(net)) } else { Ok(()) }
}

/// "This network", loopback, and everything from multicast on (RFC 6890, section 2.2.2).
fn is_reserved4(net: Ipv4Net) -> bool {
    [(Ipv4Addr::UNSPECIFIED, 8), (Ipv4Addr::LOCALHOST, 8), (Ipv4Addr::new(224, 0, 0, 0), 3)]
        .into_iter()
        .any(|(address, prefix)| Ipv4Net::new_assert(address, prefix).contains(&net.network()))
}

/// The unspecified address, loopback and IPv4 in disguise; link-local, which every interface has by
/// itself; multicast (RFC 4291, section 2.4).
fn is_reserved6(net: Ipv6Net) -> bool {
    [
        (Ipv6Addr::UNSPECIFIED, 8),
        (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
        (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
    ]
    .into_iter()
    .any(|(address, prefix)| Ipv6Net::new_assert(address, prefix).contains(&net.network()))
}

/// Checks that `address` is a host's address in `net`. The first of an IPv6 subnet is its routers'
/// (RFC 4291, section 2.6.1).
fn check_host(net: IpNet, address: IpAddr) -> Result<(), AddressError> {
    if !net.contains(&address) {
        return Err(AddressError::Outside(address, net));
    }
    if address == net.network() {
        return Err(AddressError::NetworkAddress(address, net));
    }
    if address.is_ipv4() && address == net.broadcast() {
        return Err(AddressError::Broadcast(address, net));
    }
    Ok(())
}
