//! Who does not have what is kept for it in the store, or has what is not, found among a million.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
    mem,
};

use etcd_client::KeyValue;

use super::{
    examine::Allocation,
    keys::Keys,
    value::{decoded, text},
};
use crate::state::{AddressRecord, AddressState, EndpointRecord, RecordKey, shown_key};

/// A key without the cluster's prefix, its value, and whether it has a lease.
#[derive(Clone, Copy)]
pub(super) struct Record<'a> {
    pub key: &'a [u8],
    pub value: &'a [u8],
    pub leased: bool,
}

/// Finds them at the price of a number for each.
#[derive(Default)]
pub(super) struct Sieve {
    hasher: RandomState,
    /// Marks of what endpoints have, and of what is kept for them.
    held: Vec<u64>,
    kept: Vec<u64>,
    /// Those that the other side does not have.
    odd: HashSet<u64>,
    /// Keys of what endpoints with such a mark have.
    asked: HashSet<String>,
}

/// The keys by which allocation keeps something, each with a mark of key and holder.
enum Marks {
    /// What an endpoint has.
    Held(Vec<(String, u64)>),
    /// What is kept for one.
    Kept(String, u64),
}

// === impl Record ===

impl<'a> Record<'a> {
    /// One that was read.
    pub fn of(key: &'a [u8], kv: &'a KeyValue) -> Self {
        Self { key, value: kv.value(), leased: kv.lease() != 0 }
    }
}

// === impl Sieve ===

impl Sieve {
    /// Takes in one key. What is not an endpoint, and not kept for one, goes on to `allocation`.
    pub fn take(&mut self, allocation: &mut Allocation, keys: &Keys, record: Record<'_>) {
        match self.marks(keys, record) {
            Some(Marks::Held(marks)) => self.held.extend(marks.into_iter().map(|(_, mark)| mark)),
            Some(Marks::Kept(_, mark)) => self.kept.push(mark),
            None => allocation.take(record),
        }
    }

    /// Finds what is held and not kept for the holder, or kept and not held by it. Returns whether there is any.
    pub fn find(&mut self) -> bool {
        let (mut held, mut kept) = (mem::take(&mut self.held), mem::take(&mut self.kept));
        held.sort_unstable();
        kept.sort_unstable();
        let beside = |marks: &[u64], others: &[u64]| -> Vec<u64> {
            marks.iter().filter(|mark| others.binary_search(mark).is_err()).copied().collect()
        };
        self.odd = beside(&held, &kept).into_iter().chain(beside(&kept, &held)).collect();
        !self.odd.is_empty()
    }

    /// Takes one key to `allocation` that something was found of, endpoints first.
    pub fn take_found(&mut self, allocation: &mut Allocation, keys: &Keys, record: Record<'_>) {
        let is_found = match self.marks(keys, record) {
            Some(Marks::Held(marks)) => {
                let is_found = marks.iter().any(|(_, mark)| self.odd.contains(mark));
                if is_found {
                    // Whoever it is kept for is to be named.
                    self.asked.extend(marks.into_iter().map(|(key, _)| key));
                }
                is_found
            }
            Some(Marks::Kept(key, mark)) => self.odd.contains(&mark) || self.asked.contains(&key),
            // It was taken before.
            None => false,
        };
        if is_found {
            allocation.take(record);
        }
    }

    fn marks(&self, keys: &Keys, Record { key, value, .. }: Record<'_>) -> Option<Marks> {
        let mark = |key: &str, holder: &str| self.hasher.hash_one((key, holder));
        match RecordKey::parse(key) {
            Ok(RecordKey::Endpoint(network, id)) => {
                let record: EndpointRecord = decoded(value)?;
                let (id, mac) = (id.to_string(), record.mac.parse().ok());
                let addresses = record.addresses.iter().map(|addr| keys.relative_address(&network, *addr));
                let held = addresses.chain(mac.map(|mac| keys.relative_mac(&network, mac)));
                Some(Marks::Held(held.map(|key| (key.clone(), mark(&key, &id))).collect()))
            }
            Ok(RecordKey::Allocation) if key.starts_with(b"addresses/") => {
                let record: AddressRecord = decoded(value)?;
                let key = shown_key(key);
                let mark = mark(&key, &record.endpoint.to_string());
                (record.state == AddressState::Bound).then_some(Marks::Kept(key, mark))
            }
            Ok(RecordKey::Allocation) if key.starts_with(b"macs/") => {
                let key = shown_key(key);
                let mark = mark(&key, &text(value));
                Some(Marks::Kept(key, mark))
            }
            _ => None,
        }
    }
}
