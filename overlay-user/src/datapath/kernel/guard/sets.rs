//! Named sets, in which rules look up what there may be many of: endpoints, and the cluster's nodes. One comes or
//! goes without any rule being touched.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Display},
    net::{IpAddr, Ipv6Addr},
};

use serde_json::Value;

use super::names;
use crate::{
    MacAddr, Vni,
    plan::{Endpoint, Location, Network, Plan},
};

/// A set of the guard's, all of which are of family `netdev`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Set {
    /// Who may send into a network, by IPv4 tunnel addresses: chains.
    Members(Vni),
    /// The same by IPv6 tunnel addresses.
    Members6(Vni),
    /// Inner source MAC addresses that a node may send, by its tunnel address.
    Sources(Vni, IpAddr),
    /// Inner destinations on this node.
    Here(Vni),
    /// Inner destinations that are elsewhere.
    Elsewhere(Vni),
    /// Where frames to a MAC address go: chains.
    Stations(Vni),
    /// IPv4 addresses on other nodes.
    Addresses(Vni),
    /// IPv6 addresses of everybody, link-local ones included.
    Known6(Vni),
    /// Those of them on other nodes.
    Addresses6(Vni),
    /// IPv4 tunnel addresses of the cluster.
    Protected,
    /// IPv6 tunnel addresses of the cluster.
    Protected6,
}

/// One element of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Element {
    /// Bits as they stand in a packet.
    Bits(u128),
    /// An address.
    Address(IpAddr),
    /// What comes from a tunnel address is judged as its node's.
    Member(IpAddr),
    /// Frames to the MAC address go to the node at a tunnel address, or stay on this one.
    Station(MacAddr, Option<IpAddr>),
}

/// What sets lose and get.
#[derive(Debug, Default)]
pub(in super::super) struct Exchange {
    pub(super) gone: BTreeSet<(Set, Element)>,
    pub(super) come: BTreeSet<(Set, Element)>,
}

// === impl Set ===

impl Set {
    /// What is added to a table for it: whether it is a set or a map, and of what.
    pub(super) const fn kind(self) -> (&'static str, &'static str) {
        match self {
            Self::Members(_) => ("map", "type ipv4_addr : verdict;"),
            Self::Members6(_) => ("map", "type ipv6_addr : verdict;"),
            Self::Sources(..) => ("set", "typeof @th,176,48;"),
            Self::Here(_) | Self::Elsewhere(_) => ("set", "typeof @th,128,48;"),
            Self::Stations(_) => ("map", "type ether_addr : verdict;"),
            Self::Addresses(_) | Self::Protected => ("set", "type ipv4_addr;"),
            Self::Known6(_) | Self::Addresses6(_) => ("set", "typeof @th,64,128;"),
            Self::Protected6 => ("set", "type ipv6_addr;"),
        }
    }

    /// The network it is of.
    const fn vni(self) -> Option<Vni> {
        match self {
            Self::Members(vni)
            | Self::Members6(vni)
            | Self::Sources(vni, _)
            | Self::Here(vni)
            | Self::Elsewhere(vni)
            | Self::Stations(vni)
            | Self::Addresses(vni)
            | Self::Known6(vni)
            | Self::Addresses6(vni) => Some(vni),
            Self::Protected | Self::Protected6 => None,
        }
    }
}

impl Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Members(vni) => write!(f, "vni_{vni}_members"),
            Self::Members6(vni) => write!(f, "vni_{vni}_members6"),
            Self::Sources(vni, vtep) => write!(f, "vni_{vni}_sources_{}", names::of_address_in_chain(*vtep)),
            Self::Here(vni) => write!(f, "vni_{vni}_local"),
            Self::Elsewhere(vni) => write!(f, "vni_{vni}_elsewhere"),
            Self::Stations(vni) => write!(f, "vni_{vni}_stations"),
            Self::Addresses(vni) => write!(f, "vni_{vni}_addresses"),
            Self::Known6(vni) => write!(f, "vni_{vni}_known6"),
            Self::Addresses6(vni) => write!(f, "vni_{vni}_addresses6"),
            Self::Protected => f.write_str("protected"),
            Self::Protected6 => f.write_str("protected6"),
        }
    }
}

// === impl Element ===

impl Element {
    /// As a script has it in `set`, and [`shown_sets`] of what is listed.
    pub(super) fn shown(self, set: Set) -> String {
        let (key, chain) = match self {
            Self::Bits(bits) => (format!("{bits:#x}"), None),
            Self::Address(addr) => (addr.to_string(), None),
            Self::Member(addr) => (addr.to_string(), set.vni().map(|vni| names::member_chain(vni, addr))),
            Self::Station(mac, None) => (mac.to_string(), set.vni().map(names::here_chain)),
            Self::Station(mac, Some(vtep)) => {
                (mac.to_string(), set.vni().map(|vni| names::node_chain(vni, vtep)))
            }
        };
        match chain {
            Some(chain) => format!("{key} : goto {chain}"),
            None => key,
        }
    }
}

impl From<MacAddr> for Element {
    fn from(mac: MacAddr) -> Self {
        Self::Bits(mac.0.iter().fold(0, |bits, byte| bits << 8 | u128::from(*byte)))
    }
}

impl From<Ipv6Addr> for Element {
    fn from(addr: Ipv6Addr) -> Self {
        Self::Bits(addr.into())
    }
}

// === impl Exchange ===

impl Exchange {
    /// Has one endpoint looked at as it was by one plan and is by the next.
    pub(in super::super) fn between(
        &mut self,
        (before, plan): (&Plan, &Plan),
        over_ipv6: bool,
        (vni, mac): (Vni, MacAddr),
    ) {
        let of = |plan: &Plan| {
            let endpoint = plan.networks.get(&vni).and_then(|network| network.endpoint(mac));
            endpoint.map(|endpoint| of_endpoint(plan, over_ipv6, (vni, mac), &endpoint)).unwrap_or_default()
        };
        self.gone.extend(of(before));
        self.come.extend(of(plan));
    }
}

/// The elements that one endpoint has in the sets of its network; no other has the same.
pub(super) fn of_endpoint(
    plan: &Plan,
    over_ipv6: bool,
    (vni, mac): (Vni, MacAddr),
    endpoint: &Endpoint<'_>,
) -> Vec<(Set, Element)> {
    let own6 = own6(mac, endpoint.addresses);
    let mut elements: Vec<_> = own6.iter().map(|addr| (Set::Known6(vni), (*addr).into())).collect();
    match endpoint.location {
        Location::Local => {
            elements
                .extend([(Set::Here(vni), mac.into()), (Set::Stations(vni), Element::Station(mac, None))]);
        }
        Location::Port(_) => elements.push((Set::Elsewhere(vni), mac.into())),
        Location::Remote(node) => {
            elements.push((Set::Elsewhere(vni), mac.into()));
            if let Some(vtep) = plan.vteps.get(node).map(|vtep| vtep.addr) {
                elements.push((Set::Stations(vni), Element::Station(mac, Some(vtep))));
                let v4 = endpoint.addresses.iter().filter(|addr| addr.is_ipv4());
                elements.extend(v4.map(|addr| (Set::Addresses(vni), Element::Address(*addr))));
                elements.extend(own6.iter().map(|addr| (Set::Addresses6(vni), (*addr).into())));
                if vtep.is_ipv6() == over_ipv6 {
                    elements.push((Set::Sources(vni, vtep), mac.into()));
                }
            }
        }
    }
    elements
}

/// The tunnel addresses of the other nodes that have somebody in a network.
pub(super) fn vteps(plan: &Plan, network: &Network) -> BTreeSet<IpAddr> {
    let vteps = network.endpoints().filter_map(|(_, endpoint)| match endpoint.location {
        Location::Remote(node) => plan.vteps.get(node).map(|vtep| vtep.addr),
        Location::Local | Location::Port(_) => None,
    });
    vteps.collect()
}

/// An endpoint's IPv6 addresses, the link-local one of its MAC address included.
pub(super) fn own6(mac: MacAddr, addresses: &[IpAddr]) -> BTreeSet<Ipv6Addr> {
    let v6 = addresses.iter().filter_map(|addr| match addr {
        IpAddr::V4(_) => None,
        IpAddr::V6(addr) => Some(*addr),
    });
    v6.chain([mac.link_local().into()]).collect()
}

/// The elements of the sets in a listing, by their names.
pub(super) fn shown_sets(listing: &[Value]) -> BTreeMap<String, BTreeSet<String>> {
    let sets = listing.iter().filter_map(|object| object.get("set").or_else(|| object.get("map")));
    sets.filter_map(|set| {
        let elements = set.get("elem").and_then(Value::as_array).into_iter().flatten();
        Some((set.get("name")?.as_str()?.to_owned(), elements.map(shown_element).collect()))
    })
    .collect()
}

/// An element of a listing as [`Element::shown`] has it; anything else as it is.
fn shown_element(element: &Value) -> String {
    let bits = |text: &str| u128::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    let text = match element {
        Value::Number(number) => number.as_u64().map(|bits| format!("{bits:#x}")),
        Value::String(text) => Some(match (bits(text), text.parse::<IpAddr>()) {
            (Some(bits), _) => format!("{bits:#x}"),
            (None, Ok(addr)) => addr.to_string(),
            (None, Err(_)) => text.clone(),
        }),
        Value::Array(pair) => match pair.as_slice() {
            [key, verdict] => {
                let target = verdict.pointer("/goto/target").and_then(Value::as_str);
                target.map(|chain| format!("{} : goto {chain}", shown_element(key)))
            }
            _ => None,
        },
        _ => None,
    };
    text.unwrap_or_else(|| element.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn elements_are_listed_as_they_are_written() {
        let vni = Vni::new(7).unwrap();
        let mac = MacAddr([2, 0x42, 10, 1, 0, 5]);
        let (four, six) = ("192.0.2.7".parse().unwrap(), "fe80::7".parse::<Ipv6Addr>().unwrap());
        for (set, element, listed) in [
            (Set::Here(vni), mac.into(), json!(0x0242_0a01_0005_u64)),
            (Set::Known6(vni), six.into(), json!("0xfe800000000000000000000000000007")),
            (Set::Known6(vni), Ipv6Addr::LOCALHOST.into(), json!(1)),
            (Set::Addresses(vni), Element::Address(four), json!("192.0.2.7")),
            (Set::Protected6, Element::Address(six.into()), json!("fe80::7")),
            (
                Set::Stations(vni),
                Element::Station(mac, Some(four)),
                json!(["02:42:0a:01:00:05", { "goto": { "target": "vni_7_at_192_0_2_7" } }]),
            ),
            (
                Set::Members(vni),
                Element::Member(four),
                json!(["192.0.2.7", { "goto": { "target": "vni_7_from_192_0_2_7" } }]),
            ),
            (
                Set::Stations(vni),
                Element::Station(mac, None),
                json!(["02:42:0a:01:00:05", { "goto": { "target": "vni_7_here" } }]),
            ),
        ] {
            let (kind, _) = set.kind();
            let listing = [json!({ kind: { "name": set.to_string(), "elem": [listed] } })];
            let shown = BTreeMap::from([(set.to_string(), BTreeSet::from([element.shown(set)]))]);
            assert_eq!(shown_sets(&listing), shown);
        }
        let foreign =
            [json!({ "set": { "name": "protected", "elem": [{ "range": ["10.0.0.1", "10.0.0.9"] }] } })];
        assert_eq!(shown_sets(&foreign)["protected"].len(), 1);
    }
}
