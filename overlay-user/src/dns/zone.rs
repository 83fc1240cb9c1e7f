//! Who has which name and address, in the networks that containers of this node are on.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    MacAddr,
    state::{Endpoint, NetworkName, NodeName, State},
};

/// The names of the networks in use, by the state of one revision. It is kept up from one state to the
/// next: a change costs what it changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zones {
    state: Arc<State>,
    zones: BTreeMap<NetworkName, Zone>,
}

/// The names of one network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zone {
    /// The network's name in lower case: the domain of its names.
    domain: Box<str>,
    subnets: Vec<IpNet>,
    /// By names in lower case; those of each in the order of their MAC addresses.
    names: HashMap<Box<str>, Vec<Arc<Endpoint>>>,
    addresses: HashMap<IpAddr, Arc<Endpoint>>,
}

// === impl Zones ===

impl Zones {
    /// Brings it to a state and to the networks that are in use.
    pub fn update(&mut self, state: &Arc<State>, networks: &BTreeSet<NetworkName>) {
        self.zones.retain(|network, _| networks.contains(network));
        if !self.zones.is_empty() {
            let zones = &mut self.zones;
            self.state.endpoints.compare(&state.endpoints, |network, before, now| {
                let Some(zone) = zones.get_mut(network) else { return };
                if let Some(before) = before {
                    zone.remove(before);
                }
                if let Some(now) = now {
                    zone.insert(now);
                }
            });
        }
        for network in networks {
            let zone = self.zones.entry(network.clone()).or_insert_with(|| {
                let mut zone =
                    Zone { domain: network.as_str().to_ascii_lowercase().into(), ..Zone::default() };
                for endpoint in state.endpoints_of(network) {
                    zone.insert(endpoint);
                }
                zone
            });
            let known = state.networks.get(network);
            zone.subnets =
                known.into_iter().flat_map(|known| known.subnets().map(|subnet| subnet.net)).collect();
        }
        self.state = Arc::clone(state);
    }

    /// Those of a scope that are in use.
    pub fn of<'a>(&'a self, scope: &'a BTreeSet<NetworkName>) -> impl Iterator<Item = &'a Zone> {
        scope.iter().filter_map(|network| self.zones.get(network))
    }

    /// Whether nobody is seen to run a node: its lease is gone.
    #[must_use]
    pub fn is_away(&self, node: &NodeName) -> bool {
        let is_ours = self.state.nodes.get(node).is_some_and(|node| !node.is_static);
        is_ours && !self.state.alive.contains(node)
    }

    /// The revision of the state, as a zone's serial number: its lower bits.
    #[must_use]
    pub fn serial(&self) -> u32 {
        let [_, _, _, _, low @ ..] = self.state.revision.to_be_bytes();
        u32::from_be_bytes(low)
    }
}

// === impl Zone ===

impl Zone {
    /// The domain of its names, in lower case.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Who has a name, which is in lower case.
    #[must_use]
    pub fn named(&self, name: &str) -> &[Arc<Endpoint>] {
        self.names.get(name).map_or(&[], Vec::as_slice)
    }

    /// Who has an address.
    #[must_use]
    pub fn at(&self, address: IpAddr) -> Option<&Arc<Endpoint>> {
        self.addresses.get(&address)
    }

    /// Whether an address is in one of its subnets.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.subnets.iter().any(|subnet| subnet.contains(&address))
    }

    /// What stands before the domain in a name, both in lower case.
    #[must_use]
    pub fn host<'a>(&self, name: &'a str) -> Option<&'a str> {
        name.strip_suffix(&*self.domain)?.strip_suffix('.')
    }

    fn insert(&mut self, endpoint: &Arc<Endpoint>) {
        for name in &endpoint.names {
            let known = self.names.entry(name.to_ascii_lowercase().into()).or_default();
            match known.binary_search_by_key(&endpoint.mac, mac_of) {
                Ok(at) => known[at] = Arc::clone(endpoint),
                Err(at) => known.insert(at, Arc::clone(endpoint)),
            }
        }
        for address in &endpoint.addresses {
            self.addresses.insert(*address, Arc::clone(endpoint));
        }
    }

    fn remove(&mut self, endpoint: &Endpoint) {
        for name in &endpoint.names {
            let name = name.to_ascii_lowercase();
            if let Some(known) = self.names.get_mut(&*name) {
                if let Ok(at) = known.binary_search_by_key(&endpoint.mac, mac_of) {
                    known.remove(at);
                }
                if known.is_empty() {
                    self.names.remove(&*name);
                }
            }
        }
        for address in &endpoint.addresses {
            // It may have gone over to another already.
            if self.addresses.get(address).is_some_and(|has| has.mac == endpoint.mac) {
                self.addresses.remove(address);
            }
        }
    }
}

fn mac_of(endpoint: &Arc<Endpoint>) -> MacAddr {
    endpoint.mac
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::state::{RawRecord, RecordSet};

    const NETWORKS: [&str; 2] = ["Blue", "red.example"];

    #[derive(Clone, Debug)]
    enum Change {
        Put { network: usize, id: u64, mac: u8, address: u8, names: Vec<&'static str> },
        Delete { network: usize, id: u64 },
        Use(Vec<usize>),
    }

    fn change() -> impl Strategy<Value = Change> {
        let names = proptest::sample::subsequence(vec!["web", "Web", "db", "db.blue", "cache"], 0..4);
        prop_oneof![
            6 => (0..2_usize, 0..6_u64, 1..6_u8, 2..8_u8, names).prop_map(
                |(network, id, mac, address, names)| Change::Put { network, id, mac, address, names }
            ),
            2 => (0..2_usize, 0..6_u64).prop_map(|(network, id)| Change::Delete { network, id }),
            1 => proptest::sample::subsequence(vec![0, 1], 0..3).prop_map(Change::Use),
        ]
    }

    fn put(records: &mut RecordSet, key: &str, value: &str, created: i64) {
        records.put(RawRecord { key: key.as_bytes(), value: value.as_bytes(), create_revision: created });
    }

    proptest! {
        #[test]
        fn what_is_kept_up_is_what_is_made_anew(changes in proptest::collection::vec(change(), 0..40)) {
            let mut records = RecordSet::default();
            put(&mut records, "nodes/n1", r#"{"vtep":"192.0.2.1","port":4789}"#, 1);
            for (index, network) in NETWORKS.iter().enumerate() {
                let value =
                    format!(r#"{{"vni":{},"subnet":"10.0.{index}.0/24","gateway":"10.0.{index}.1"}}"#, index + 7);
                put(&mut records, &format!("networks/{network}"), &value, 1);
            }
            let mut used = BTreeSet::new();
            let mut kept = Zones::default();
            for (revision, change) in (2..).zip(changes) {
                match change {
                    Change::Put { network, id, mac, address, names } => {
                        let value = format!(
                            r#"{{"node":"n1","mac":"02:00:00:00:00:0{mac}","addresses":["10.0.{network}.{address}"],"names":{}}}"#,
                            serde_json::to_string(&names).unwrap()
                        );
                        put(&mut records, &format!("endpoints/{}/{id:012x}", NETWORKS[network]), &value, revision);
                    }
                    Change::Delete { network, id } => {
                        records.delete(format!("endpoints/{}/{id:012x}", NETWORKS[network]).as_bytes());
                    }
                    Change::Use(networks) => {
                        used = networks.into_iter().map(|index| NETWORKS[index].parse().unwrap()).collect();
                    }
                }
                let state = Arc::new(records.state(revision));
                kept.update(&state, &used);
                let mut anew = Zones::default();
                anew.update(&state, &used);
                prop_assert_eq!(&kept, &anew);
            }
        }
    }

    #[test]
    fn a_host_is_what_stands_before_the_domain_and_its_dot() {
        let zone = Zone { domain: "my.net".into(), ..Zone::default() };
        for (name, host) in [
            ("web.my.net", Some("web")),
            ("a.b.my.net", Some("a.b")),
            ("my.net", None),
            ("webmy.net", None),
            ("web.other", None),
        ] {
            assert_eq!(zone.host(name), host, "{name}");
        }
    }
}
