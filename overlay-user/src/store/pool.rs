//! What is free: pure functions of what is taken.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::{
    Vni,
    state::{Network, NetworkName, NodeName, Subnet},
};

/// Subnets are taken from here when none is asked for: parts of RFC 1918's ranges that other software's
/// defaults leave alone, in this order.
const SUBNETS: [Ipv4Net; 3] = [
    Ipv4Net::new_assert(Ipv4Addr::new(10, 64, 0, 0), 10),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 24, 0, 0), 13),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 128, 0), 17),
];

/// Prefix length of such a subnet.
const SUBNET_PREFIX: u8 = 24;

/// VNIs are taken from here on when none is asked for; small ones are left to hand-made tunnels.
const FIRST_VNI: u32 = 4096;

/// Addresses that are looked at in one request.
const WINDOW: u32 = 1024;

/// The first subnet of the pools that overlaps none of `taken`.
pub(super) fn free_subnet(taken: &[IpNet]) -> Option<IpNet> {
    let subnets = SUBNETS.iter().filter_map(|range| range.subnets(SUBNET_PREFIX).ok()).flatten();
    subnets.map(IpNet::V4).find(|subnet| !taken.iter().any(|other| overlap(subnet, other)))
}

/// An IPv6 subnet that overlaps none of `taken`: the first of a unique local prefix chosen at random (RFC 4193,
/// section 3.2).
pub(super) fn free_subnet6(taken: &[IpNet]) -> Option<IpNet> {
    let random = || {
        let global_id = u128::from(rand::random::<u64>() >> 24);
        Ipv6Net::new_assert(Ipv6Addr::from_bits((0xfd << 120) | (global_id << 80)), 64)
    };
    let mut candidates = std::iter::repeat_with(random).map(IpNet::V6).take(100);
    candidates.find(|subnet| !taken.iter().any(|other| overlap(subnet, other)))
}

/// The first VNI that is none of `taken`.
pub(super) fn free_vni(taken: &BTreeSet<u32>) -> Option<Vni> {
    (FIRST_VNI..=Vni::MAX).find(|n| !taken.contains(n)).and_then(|n| Vni::new(n).ok())
}

/// Whether two subnets share an address: then one holds the other.
pub(super) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// The addresses of one subnet that an endpoint can be given unasked, as parts of a range to be looked at
/// in turn. They are counted from the range's first; of an IPv6 range, only the first 2^32 are given.
pub(super) struct Pool<'a> {
    network: &'a Network,
    subnet: &'a Subnet,
    last: u32,
}

// === impl Pool ===

impl<'a> Pool<'a> {
    /// The pool of one of a network's subnets.
    pub fn of(network: &'a Network, subnet: &'a Subnet) -> Self {
        let bits = subnet.range.max_prefix_len() - subnet.range.prefix_len();
        Self { network, subnet, last: u32::MAX.checked_shr(32_u32.saturating_sub(bits.into())).unwrap_or(0) }
    }

    /// How many addresses there are to give.
    pub fn size(&self) -> u64 {
        let Subnet { net, gateway, .. } = *self.subnet;
        let aux = self.network.aux.values().copied().filter(|aux| net.contains(aux));
        let kept: BTreeSet<_> = [net.network(), net.broadcast(), gateway].into_iter().chain(aux).collect();
        let kept = kept.into_iter().filter(|&a| self.network.check_address(a).is_err());
        let kept = kept.filter(|&a| self.offset(a).is_some()).count();
        u64::from(self.last) + 1 - u64::try_from(kept).unwrap_or(0)
    }

    /// The whole range in pieces, beginning at a place of the node's own so that nodes that ask at
    /// once rarely want the same address.
    pub fn windows(
        &self,
        name: &NetworkName,
        node: &NodeName,
    ) -> impl Iterator<Item = RangeInclusive<u32>> + use<> {
        let mut hasher = DefaultHasher::new();
        (name, node).hash(&mut hasher);
        let start = u32::try_from(hasher.finish() % (u64::from(self.last) + 1)).unwrap_or(0);
        pieces(start, u64::from(self.last) + 1).chain(pieces(0, start.into()))
    }

    /// The addresses of a window that are not `taken` and can be an endpoint's.
    pub fn free(&self, window: RangeInclusive<u32>, taken: &BTreeSet<u32>) -> Vec<IpAddr> {
        window
            .filter(|offset| !taken.contains(offset))
            .map(|offset| self.address(offset))
            .filter(|&address| self.network.check_address(address).is_ok())
            .collect()
    }

    /// The address at an offset.
    pub fn address(&self, offset: u32) -> IpAddr {
        match self.subnet.range.network() {
            IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits() | offset).into(),
            IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits() | u128::from(offset)).into(),
        }
    }

    /// The offset of an address, if it is one of the pool's.
    pub fn offset(&self, address: IpAddr) -> Option<u32> {
        let offset = match (self.subnet.range.network(), address) {
            (IpAddr::V4(first), IpAddr::V4(address)) => address.to_bits().checked_sub(first.to_bits())?,
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                address.to_bits().checked_sub(first.to_bits())?.try_into().ok()?
            }
            _ => return None,
        };
        (offset <= self.last).then_some(offset)
    }
}

/// Windows from `first` up to, without, `end`.
fn pieces(first: u32, end: u64) -> impl Iterator<Item = RangeInclusive<u32>> {
    let starts = (u64::from(first)..end).step_by(WINDOW as usize);
    starts.filter_map(move |start| {
        let last = (start + u64::from(WINDOW)).min(end) - 1;
        Some(u32::try_from(start).ok()?..=u32::try_from(last).ok()?)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::state::Policy;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn network(net: &str, gateway: &str, range: &str) -> Network {
        let subnet =
            Subnet { net: self::net(net), gateway: gateway.parse().unwrap(), range: self::net(range) };
        Network {
            vni: Vni::new(7).unwrap(),
            subnet,
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
    fn the_first_free_subnet_is_given() {
        assert_eq!(free_subnet(&[]), Some(net("10.64.0.0/24")));
        let taken = [net("10.64.0.0/23"), net("10.64.2.128/25"), net("192.168.0.0/16")];
        assert_eq!(free_subnet(&taken), Some(net("10.64.3.0/24")));
        assert_eq!(free_subnet(&[net("10.0.0.0/8")]), Some(net("172.24.0.0/24")));
        assert_eq!(free_subnet(&[net("0.0.0.0/1"), net("128.0.0.0/1")]), None);
    }

    #[test]
    fn the_first_free_vni_is_given() {
        assert_eq!(free_vni(&BTreeSet::new()), Vni::new(4096).ok());
        assert_eq!(free_vni(&[1, 4096, 4097, 4099].into()), Vni::new(4098).ok());
    }

    #[test]
    fn a_pool_has_what_endpoints_can_have() {
        for (network, size) in [
            (network("10.0.9.0/24", "10.0.9.1", "10.0.9.0/24"), 253),
            (network("10.0.9.0/30", "10.0.9.1", "10.0.9.0/30"), 1),
            (network("10.0.9.0/24", "10.0.9.1", "10.0.9.64/26"), 64),
            (network("10.0.9.0/24", "10.0.9.255", "10.0.9.128/25"), 127),
            (network("fd00::/120", "fd00::1", "fd00::/120"), 254),
            (network("fd00::/64", "fd00::1", "fd00::5:0/120"), 256),
            (network("fd00::/64", "fd00::5:80", "fd00::5:80/128"), 0),
        ] {
            assert_eq!(sizes(&network), (size, size), "{network:?}");
        }
    }

    /// How many addresses a pool says it has, and how many it gives.
    fn sizes(network: &Network) -> (u64, u64) {
        let pool = Pool::of(network, &network.subnet);
        let windows = pool.windows(&"blue".parse().unwrap(), &"node1".parse().unwrap());
        let free: usize = windows.map(|w| pool.free(w, &BTreeSet::new()).len()).sum();
        (pool.size(), free as u64)
    }

    #[test]
    fn what_the_owner_keeps_is_not_given() {
        let mut network = network("10.0.9.0/24", "10.0.9.1", "10.0.9.64/26");
        for (name, address) in [("router", "10.0.9.65"), ("twice", "10.0.9.65"), ("outside", "10.0.9.7")] {
            network.aux.insert(name.to_owned(), address.parse().unwrap());
        }
        assert_eq!(sizes(&network), (63, 63));
    }

    #[test]
    fn a_free_ipv6_subnet_is_a_unique_local_one() {
        let subnet = free_subnet6(&[]).unwrap();
        assert!(net("fd00::/8").contains(&subnet) && subnet.prefix_len() == 64 && subnet.trunc() == subnet);
        assert_ne!(free_subnet6(&[]), Some(subnet));
        assert_eq!(free_subnet6(&[net("fd00::/8")]), None);
    }

    #[test]
    fn a_large_subnet_is_not_walked_through() {
        let network = network("fd00:10::/64", "fd00:10::1", "fd00:10::/64");
        let pool = Pool::of(&network, &network.subnet);
        assert_eq!(pool.size(), (1 << 32) - 2);
        let mut windows = pool.windows(&"blue".parse().unwrap(), &"node1".parse().unwrap());
        let first = windows.next().unwrap();
        assert_eq!(pool.free(first.clone(), &BTreeSet::new()).len(), WINDOW as usize);
        assert_eq!(pool.offset(pool.address(*first.end())), Some(*first.end()));
        assert_eq!(pool.offset("fd00:10:0:0:1::".parse().unwrap()), None);
        assert_eq!(pool.offset("fd00:0f::ffff".parse().unwrap()), None);
    }

    proptest! {
        #[test]
        fn windows_cover_the_range_once(prefix in 12..=30_u8, six: bool, node in "[a-z]{1,8}") {
            let range = if six { format!("fd00::/{}", prefix + 96) } else { format!("10.0.0.0/{prefix}") };
            let network = network(&range, "10.0.0.1", &range);
            let pool = Pool::of(&network, &network.subnet);
            let mut windows: Vec<_> =
                pool.windows(&"blue".parse().unwrap(), &node.parse().unwrap()).collect();
            windows.sort_by_key(|w| *w.start());
            let mut next = 0;
            for window in windows {
                prop_assert_eq!(*window.start(), next);
                prop_assert!(*window.end() - *window.start() < WINDOW);
                next = window.end() + 1;
            }
            prop_assert_eq!(next, 1 << (32 - prefix));
            prop_assert_eq!(pool.address(next - 1), network.subnet.net.broadcast());
        }
    }
}
