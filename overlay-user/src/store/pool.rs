//! What is free: pure functions of what is taken.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
};

use ipnet::{IpNet, Ipv4Net};

use crate::{
    Vni,
    state::{Network, NetworkName, NodeName},
};

/// Subnets are taken from here when none is asked for: the part of RFC 1918's 10.0.0.0/8 that
/// other software's defaults leave alone.
const SUBNETS: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 64, 0, 0), 10);

/// Prefix length of such a subnet.
const SUBNET_PREFIX: u8 = 24;

/// VNIs are taken from here on when none is asked for; small ones are left to hand-made tunnels.
const FIRST_VNI: u32 = 4096;

/// Addresses that are looked at in one request.
const WINDOW: u32 = 1024;

/// The first subnet of the pool that overlaps none of `taken`.
pub(super) fn free_subnet(taken: &[IpNet]) -> Option<IpNet> {
    let subnets = SUBNETS.subnets(SUBNET_PREFIX).ok()?;
    subnets.map(IpNet::V4).find(|subnet| !taken.iter().any(|other| overlap(subnet, other)))
}

/// The first VNI that is none of `taken`.
pub(super) fn free_vni(taken: &BTreeSet<u32>) -> Option<Vni> {
    (FIRST_VNI..=Vni::MAX).find(|n| !taken.contains(n)).and_then(|n| Vni::new(n).ok())
}

/// Whether two subnets share an address: then one holds the other.
pub(super) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// The addresses an endpoint can be given unasked, as parts of a range to be looked at in turn.
pub(super) struct Pool<'a> {
    network: &'a Network,
    range: RangeInclusive<u32>,
}

// === impl Pool ===

impl<'a> Pool<'a> {
    /// The pool of an IPv4 network.
    pub fn of(network: &'a Network) -> Option<Self> {
        let IpNet::V4(range) = network.range else {
            return None;
        };
        Some(Self { network, range: range.network().to_bits()..=range.broadcast().to_bits() })
    }

    /// How many addresses there are to give.
    pub fn size(&self) -> u32 {
        let whole = self.range.end() - self.range.start() + 1;
        let kept = [self.network.subnet.network(), self.network.subnet.broadcast(), self.network.gateway];
        let kept: BTreeSet<_> = kept.into_iter().filter(|a| self.network.range.contains(a)).collect();
        whole.saturating_sub(u32::try_from(kept.len()).unwrap_or(0))
    }

    /// The whole range in pieces, beginning at a place of the node's own so that nodes that ask at
    /// once rarely want the same address.
    pub fn windows(&self, name: &NetworkName, node: &NodeName) -> Vec<RangeInclusive<u32>> {
        let (first, last) = (*self.range.start(), *self.range.end());
        let mut hasher = DefaultHasher::new();
        (name, node).hash(&mut hasher);
        let size = u64::from(last - first) + 1;
        let offset = u32::try_from(hasher.finish() % size).unwrap_or(0);
        let start = first + offset;
        let mut windows = pieces(start..=last);
        if start > first {
            windows.extend(pieces(first..=start - 1));
        }
        windows
    }

    /// The addresses of a window that are not `taken` and can be an endpoint's.
    pub fn free(&self, window: RangeInclusive<u32>, taken: &BTreeSet<u32>) -> Vec<IpAddr> {
        window
            .filter(|bits| !taken.contains(bits))
            .map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)))
            .filter(|&address| self.network.check_address(address).is_ok())
            .collect()
    }
}

fn pieces(range: RangeInclusive<u32>) -> Vec<RangeInclusive<u32>> {
    let (first, last) = range.into_inner();
    let starts = (u64::from(first)..=u64::from(last)).step_by(WINDOW as usize);
    starts
        .filter_map(|start| u32::try_from(start).ok())
        .map(|start| start..=last.min(start.saturating_add(WINDOW - 1)))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn network(subnet: &str, gateway: &str, range: &str) -> Network {
        Network {
            vni: Vni::new(1).unwrap(),
            subnet: net(subnet),
            gateway: gateway.parse().unwrap(),
            range: net(range),
            mtu: None,
            internal: false,
            policy: crate::state::Policy::default(),
        }
    }

    #[test]
    fn the_first_free_subnet_is_given() {
        assert_eq!(free_subnet(&[]), Some(net("10.64.0.0/24")));
        let taken = [net("10.64.0.0/23"), net("10.64.2.128/25"), net("192.168.0.0/16")];
        assert_eq!(free_subnet(&taken), Some(net("10.64.3.0/24")));
        assert_eq!(free_subnet(&[net("10.0.0.0/8")]), None);
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
        ] {
            let pool = Pool::of(&network).unwrap();
            let windows = pool.windows(&"blue".parse().unwrap(), &"node1".parse().unwrap());
            let free: usize = windows.into_iter().map(|w| pool.free(w, &BTreeSet::new()).len()).sum();
            assert_eq!((pool.size(), free), (size, size as usize), "{network:?}");
        }
    }

    proptest! {
        #[test]
        fn windows_cover_the_range_once(prefix in 12..=30_u8, node in "[a-z]{1,8}") {
            let subnet = Ipv4Net::new(Ipv4Addr::new(10, 0, 0, 0), prefix).unwrap();
            let network = network(&subnet.to_string(), "10.0.0.1", &subnet.to_string());
            let pool = Pool::of(&network).unwrap();
            let mut windows = pool.windows(&"blue".parse().unwrap(), &node.parse().unwrap());
            windows.sort_by_key(|w| *w.start());
            let mut next = subnet.network().to_bits();
            for window in windows {
                prop_assert_eq!(*window.start(), next);
                prop_assert!(*window.end() - *window.start() < WINDOW);
                next = window.end() + 1;
            }
            prop_assert_eq!(next, subnet.broadcast().to_bits() + 1);
        }
    }
}
