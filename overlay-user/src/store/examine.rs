//! The whole store read afresh, for who wants to know whether it is what it should be: the state it makes, and
//! what of allocation does not fit the records it is for.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::ready,
};

use etcd_client::KeyValue;

use super::{
    Store, StoreError,
    awaited::Roll,
    call::{Call, end_of},
    keys::Keys,
    sieve::{Record, Sieve},
    value::{decoded, text},
};
use crate::{
    MacAddr,
    state::{
        AddressRecord, AddressState, EndpointId, EndpointRecord, NetworkName, NetworkRecord, RawRecord,
        RecordKey, RecordSet, State, shown_key,
    },
};

/// The store as it was at one revision.
#[derive(Debug)]
pub struct Examined {
    /// What its records make.
    pub state: State,
    /// What is wrong with allocation.
    pub flaws: Vec<Flaw>,
    /// Endpoints that are being made: they have an address, and no record yet.
    pub in_the_making: BTreeSet<EndpointId>,
}

/// Something of allocation that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// What is wrong.
    pub what: String,
    /// The command that mends it.
    pub cure: String,
}

/// What is allocated, and for whom.
#[derive(Default)]
pub(super) struct Allocation {
    networks: BTreeMap<NetworkName, u32>,
    vnis: BTreeMap<String, String>,
    endpoints: BTreeMap<(NetworkName, EndpointId), EndpointRecord>,
    addresses: BTreeMap<String, AddressRecord>,
    macs: BTreeMap<String, String>,
    /// Claimed subnets that are claimed for ever.
    unending: Vec<String>,
}

// === impl Store ===

impl Store {
    /// Reads everything at one revision.
    pub async fn examine(&self) -> Result<Examined, StoreError> {
        let call = Call::stepwise(&self.inner.connection);
        let (mut records, mut roll) = (RecordSet::default(), Roll::new(&self.inner.awaited));
        let (mut sieve, mut allocation) = (Sieve::default(), Allocation::default());
        let mut revision = 0;
        records.begin();
        for range in self.keys().of_records() {
            let take = |page: Vec<KeyValue>| {
                for kv in &page {
                    let Some(key) = self.keys().relative(kv.key()) else { continue };
                    let raw = RawRecord { key, value: kv.value(), create_revision: kv.create_revision() };
                    records.put(raw);
                    roll.meet(key, kv.mod_revision());
                    sieve.take(&mut allocation, self.keys(), Record::of(key, kv));
                }
                records.settle();
                ready(())
            };
            revision = call.pages_in(range, revision, take).await?;
        }
        records.end();
        roll.show(&mut records);
        let addresses = || self.keys().of_addresses().into_iter();
        let take = |record: Record<'_>| sieve.take(&mut allocation, self.keys(), record);
        self.each(call, addresses(), revision, take).await?;
        if sieve.find() {
            let endpoints = self.keys().all_endpoints();
            let endpoints = (endpoints.clone().into_bytes(), end_of(&endpoints));
            let take = |record: Record<'_>| sieve.take_found(&mut allocation, self.keys(), record);
            self.each(call, [endpoints].into_iter().chain(addresses()), revision, take).await?;
        }
        let in_the_making = allocation.in_the_making();
        let flaws = allocation.flaws(self.keys());
        Ok(Examined { state: records.state(revision), flaws, in_the_making })
    }

    /// Hands on every key of ranges as it is at a revision.
    async fn each(
        &self,
        call: Call<'_>,
        ranges: impl Iterator<Item = (Vec<u8>, Vec<u8>)>,
        revision: i64,
        mut take: impl FnMut(Record<'_>),
    ) -> Result<(), StoreError> {
        for range in ranges {
            let take = |page: Vec<KeyValue>| {
                let keys = page.iter().filter_map(|kv| Some((self.keys().relative(kv.key())?, kv)));
                keys.for_each(|(key, kv)| take(Record::of(key, kv)));
                ready(())
            };
            call.pages_in(range, revision, take).await?;
        }
        Ok(())
    }

    /// Whether a record, by its key without the cluster's prefix, was written or deleted after `revision`, where it
    /// `was` there or not.
    pub async fn is_changed_since(&self, key: &str, revision: i64, was: bool) -> Result<bool, StoreError> {
        let call = Call::stepwise(&self.inner.connection);
        let now = call.get(&format!("{}{key}", self.keys().prefix())).await?;
        Ok(now.map_or(was, |now| now.mod_revision() > revision))
    }
}

// === impl Allocation ===

impl Allocation {
    /// Takes in one key.
    pub fn take(&mut self, Record { key, value, leased }: Record<'_>) {
        let shown = || shown_key(key);
        match RecordKey::parse(key) {
            Ok(RecordKey::Network(name)) => {
                if let Some(record) = decoded::<NetworkRecord>(value) {
                    self.networks.insert(name, record.vni);
                }
            }
            Ok(RecordKey::Endpoint(network, id)) => {
                if let Some(record) = decoded(value) {
                    self.endpoints.insert((network, id), record);
                }
            }
            Ok(RecordKey::Allocation) if key.starts_with(b"addresses/") => {
                if let Some(record) = decoded(value) {
                    self.addresses.insert(shown(), record);
                }
            }
            Ok(RecordKey::Allocation) if key.starts_with(b"macs/") => {
                self.macs.insert(shown(), text(value).into_owned());
            }
            Ok(RecordKey::Allocation) if key.starts_with(b"vnis/") => {
                self.vnis.insert(shown(), text(value).into_owned());
            }
            Ok(RecordKey::Allocation) if key.starts_with(b"pools/") && !leased => self.unending.push(shown()),
            _ => {}
        }
    }

    fn in_the_making(&self) -> BTreeSet<EndpointId> {
        let reserved = self.addresses.values().filter(|record| record.state == AddressState::Reserved);
        reserved.map(|record| record.endpoint.clone()).collect()
    }

    /// What does not fit.
    fn flaws(&self, keys: &Keys) -> Vec<Flaw> {
        let whole = |key: &str| format!("{}{key}", keys.prefix());
        let mut flaws = Vec::new();
        let mut flaw = |what: String, cure: String| flaws.push(Flaw { what, cure });
        let delete = |key: &str| format!("etcdctl del {}", whole(key));
        let attach_anew =
            |id: &EndpointId| format!("overlayctl endpoint detach {id} on its node, and attach it again");
        let mut held: BTreeSet<String> = BTreeSet::new();
        for ((network, id), record) in &self.endpoints {
            for address in &record.addresses {
                let key = keys.relative_address(network, *address);
                match self.addresses.get(&key) {
                    Some(holder) if holder.endpoint == *id && holder.state == AddressState::Bound => {}
                    Some(holder) => flaw(
                        format!(
                            "{address} of network {network} is endpoint {id}'s on {}, but kept for endpoint {} on {}",
                            record.node, holder.endpoint, holder.node
                        ),
                        attach_anew(id),
                    ),
                    None => flaw(
                        format!(
                            "{address} of network {network} is endpoint {id}'s, but may be given to another"
                        ),
                        attach_anew(id),
                    ),
                }
                held.insert(key);
            }
            let Ok(mac) = record.mac.parse::<MacAddr>() else { continue };
            let key = keys.relative_mac(network, mac);
            if self.macs.get(&key).is_none_or(|holder| *holder != id.to_string()) {
                flaw(
                    format!("the MAC address {mac} of endpoint {id} in network {network} is not kept for it"),
                    attach_anew(id),
                );
            }
            held.insert(key);
        }
        for (key, record) in &self.addresses {
            if record.state == AddressState::Bound && !held.contains(key) {
                flaw(
                    format!(
                        "the address of {key} is kept for endpoint {} on {}, which has no record",
                        record.endpoint, record.node
                    ),
                    delete(key),
                );
            }
        }
        for (key, id) in self.macs.iter().filter(|(key, _)| !held.contains(*key)) {
            flaw(
                format!("the MAC address of {key} is kept for endpoint {id}, which has no record"),
                delete(key),
            );
        }
        for key in &self.unending {
            flaw(
                format!("the subnet of {key} is kept for a network that is being made, for ever"),
                delete(key),
            );
        }
        for (name, vni) in &self.networks {
            let key = format!("vnis/{vni:08}");
            if self.vnis.get(&key).is_none_or(|holder| holder != name.as_str()) {
                flaw(
                    format!("VNI {vni} of network {name} is not kept for it"),
                    format!("etcdctl put {} {name}", whole(&key)),
                );
            }
        }
        for (key, name) in &self.vnis {
            let network = name.parse::<NetworkName>().ok();
            let vni = network.and_then(|name| self.networks.get(&name));
            if vni.is_none_or(|vni| *key != format!("vnis/{vni:08}")) {
                flaw(format!("{key} is kept for network {name}, which does not have it"), delete(key));
            }
        }
        flaws
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flaws(records: &[(&'static str, &'static str)]) -> Vec<String> {
        let keys = Keys::new("default");
        let (mut sieve, mut allocation) = (Sieve::default(), Allocation::default());
        // Endpoints before what is kept for them, as they are read.
        let (ends, others): (Vec<_>, Vec<_>) =
            records.iter().partition(|(key, _)| key.starts_with("endpoints/"));
        let record = |(key, value): &(&'static str, &'static str)| Record {
            key: key.as_bytes(),
            value: value.as_bytes(),
            leased: false,
        };
        let all = || ends.iter().chain(&others).map(record);
        all().for_each(|record| sieve.take(&mut allocation, &keys, record));
        if sieve.find() {
            all().for_each(|record| sieve.take_found(&mut allocation, &keys, record));
        } else {
            assert!(allocation.endpoints.is_empty() && allocation.macs.is_empty(), "nothing is kept in mind");
        }
        allocation.flaws(&keys).into_iter().map(|flaw| flaw.what).collect()
    }

    const WHOLE: [(&str, &str); 5] = [
        ("networks/blue", r#"{"vni":7,"subnet":"10.0.9.0/24","gateway":"10.0.9.1"}"#),
        ("vnis/00000007", "blue"),
        (
            "endpoints/blue/aaaaaaaaaaaa",
            r#"{"node":"n1","mac":"02:42:0a:00:09:02","addresses":["10.0.9.2"]}"#,
        ),
        ("addresses/blue/0a000902", r#"{"state":"bound","node":"n1","endpoint":"aaaaaaaaaaaa"}"#),
        ("macs/blue/02420a000902", "aaaaaaaaaaaa"),
    ];

    #[test]
    fn what_fits_is_no_flaw() {
        assert_eq!(flaws(&WHOLE), Vec::<String>::new());
        let cooling = r#"{"state":"cooling","node":"n1","endpoint":"bbbbbbbbbbbb"}"#;
        assert_eq!(flaws(&[("addresses/blue/0a000903", cooling)]), Vec::<String>::new());
    }

    #[test]
    fn each_key_that_is_gone_or_left_behind_is_a_flaw() {
        for (without, says) in [
            (0, "vnis/00000007 is kept for network blue, which does not have it"),
            (1, "VNI 7 of network blue is not kept for it"),
            (3, "10.0.9.2 of network blue is endpoint aaaaaaaaaaaa's, but may be given to another"),
            (
                4,
                "the MAC address 02:42:0a:00:09:02 of endpoint aaaaaaaaaaaa in network blue is not kept for it",
            ),
        ] {
            let mut records = WHOLE.to_vec();
            records.remove(without);
            assert_eq!(flaws(&records), [says]);
        }
        assert_eq!(
            flaws(&[("pools/0123456789ab", "{}")]),
            ["the subnet of pools/0123456789ab is kept for a network that is being made, for ever"]
        );
        let mut records = WHOLE.to_vec();
        records.remove(2);
        assert_eq!(flaws(&records).len(), 2, "an address and a MAC address without their endpoint");
        let mut records = WHOLE.to_vec();
        records[3].1 = r#"{"state":"bound","node":"n2","endpoint":"bbbbbbbbbbbb"}"#;
        let said = flaws(&records);
        assert!(said.len() == 1 && said[0].contains("but kept for endpoint bbbbbbbbbbbb on n2"), "{said:?}");
    }
}
