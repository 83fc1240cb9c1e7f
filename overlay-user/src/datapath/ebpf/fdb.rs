//! `fdb`, through memory shared with the kernel: a row is written in place, without a system call.

use std::{collections::BTreeMap, num::NonZeroUsize, os::fd::AsFd as _, ptr::NonNull, slice};

use aya::{
    Ebpf,
    maps::{Map, MapData},
};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use overlay_ebpf::abi::{Endpoint, EndpointKey, FdbBucket, FdbEntry, PER_BUCKET, fdb_index};

use super::object::failed;
use crate::datapath::{DatapathError, DifferenceKind, Differences};

/// What the table is called to an operator.
const PLACE: &str = "map fdb";

/// The table, and the map as long as it is used.
pub struct Fdb {
    buckets: NonNull<FdbBucket>,
    mask: u32,
    /// Entries that found no room, by their buckets. They move in when another moves out, so that one that a
    /// later daemon would find room for has it now.
    outside: BTreeMap<u32, Vec<FdbEntry>>,
    /// None in tests.
    _map: Option<MapData>,
}

// SAFETY: the memory belongs to no thread.
unsafe impl Send for Fdb {}
// SAFETY: who has no exclusive reference only learns the size.
unsafe impl Sync for Fdb {}

/// How many rows `fdb` has for so many endpoints.
#[must_use]
pub fn buckets(max_endpoints: u32) -> u32 {
    max_endpoints.div_ceil(PER_BUCKET).max(1).next_power_of_two()
}

impl Fdb {
    /// Takes the map out of the loaded object.
    ///
    /// # Errors
    /// If it is missing, of another kind, or cannot be mapped into memory (Linux 5.5).
    pub fn open(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        let Some(Map::Array(map)) = ebpf.take_map("fdb") else {
            return Err(DatapathError::Unsupported("the BPF object has no array fdb".into()));
        };
        let rows = map.info().map_err(|e| failed("cannot ask for the size of map fdb", e))?.max_entries();
        if !rows.is_power_of_two() {
            return Err(DatapathError::Unsupported(format!("map fdb has {rows} rows, no power of two")));
        }
        let bytes = rows as usize * size_of::<FdbBucket>();
        let bytes = NonZeroUsize::new(bytes).unwrap_or(NonZeroUsize::MIN);
        // SAFETY: a new mapping, of the length that the map has.
        let mapped = unsafe {
            mmap(
                None,
                bytes,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                map.fd().as_fd(),
                0,
            )
        };
        let mapped = mapped.map_err(|e| failed("cannot map fdb into memory", e))?;
        Ok(Self { buckets: mapped.cast(), mask: rows - 1, outside: BTreeMap::new(), _map: Some(map) })
    }

    /// The number of rows less one.
    #[must_use]
    pub fn mask(&self) -> u32 {
        self.mask
    }

    /// Writes an endpoint's entry unless it is there. One that finds no room is left to `endpoints`. Returns
    /// whether there was another one, or none.
    pub fn ensure(&mut self, key: &EndpointKey, row: &Endpoint) -> bool {
        let entry = FdbEntry::new(key.vni, key.mac, row);
        let bucket = self.bucket(key);
        if bucket.find(key.vni, key.mac) == Some(entry) {
            return false;
        }
        let written = bucket.set(entry);
        self.forget_outside(key);
        if !written {
            self.outside.entry(self.index(key)).or_default().push(entry);
        }
        written
    }

    /// Removes an endpoint's entry, if it has one.
    pub fn remove(&mut self, key: &EndpointKey) {
        self.forget_outside(key);
        if !self.bucket(key).remove(*key) {
            return;
        }
        let index = self.index(key);
        let Some(mut waiting) = self.outside.remove(&index) else { return };
        let bucket = &self.all()[index as usize];
        waiting.retain(|entry| !bucket.set(*entry));
        if !waiting.is_empty() {
            self.outside.insert(index, waiting);
        }
    }

    /// Removes the entries that are not of the `right` rows; returns how many.
    pub fn clear_wrong(&mut self, right: impl Fn(&EndpointKey) -> Option<Endpoint>) -> usize {
        let is_right = |bucket: &FdbBucket, entry: FdbEntry| {
            entry.key().is_some_and(|key| {
                let right = right(&key).map(|row| FdbEntry::new(key.vni, key.mac, &row));
                right == Some(entry) && std::ptr::eq(self.bucket(&key), bucket)
            })
        };
        let cleared = self.all().iter().map(|bucket| bucket.retain(|entry| is_right(bucket, entry))).sum();
        // Nearly all of them found none: whoever is not right any more must not move in.
        for (index, mut waiting) in std::mem::take(&mut self.outside) {
            let bucket = &self.all()[index as usize];
            let is_due = |entry: &FdbEntry| {
                entry.key().and_then(|key| Some(FdbEntry::new(key.vni, key.mac, &right(&key)?)))
                    == Some(*entry)
            };
            waiting.retain(|entry| is_due(entry) && !bucket.set(*entry));
            if !waiting.is_empty() {
                self.outside.insert(index, waiting);
            }
        }
        cleared
    }

    /// Compares the table with what `endpoints` should have. An entry that found no room is not missed.
    pub fn audit(
        &self,
        endpoints: &BTreeMap<EndpointKey, Endpoint>,
        name: impl Fn(&EndpointKey) -> String,
        found: &mut Differences,
    ) {
        for bucket in self.all() {
            for entry in bucket.entries() {
                let Some(key) = entry.key() else {
                    found.note(DifferenceKind::Extra, PLACE, || "what is no entry".to_owned());
                    continue;
                };
                let right = endpoints.get(&key).map(|row| FdbEntry::new(key.vni, key.mac, row));
                if right.is_none() || !std::ptr::eq(self.bucket(&key), bucket) {
                    found.note(DifferenceKind::Extra, PLACE, || name(&key));
                } else if right != Some(entry) {
                    found.note(DifferenceKind::Different, PLACE, || name(&key));
                }
            }
        }
        for (key, row) in endpoints {
            let bucket = self.bucket(key);
            let entry = FdbEntry::new(key.vni, key.mac, row);
            if bucket.find(key.vni, key.mac).is_none() && bucket.has_room_for(entry) {
                found.note(DifferenceKind::Missing, PLACE, || name(key));
            }
        }
    }

    fn forget_outside(&mut self, key: &EndpointKey) {
        let index = self.index(key);
        if let Some(waiting) = self.outside.get_mut(&index) {
            waiting.retain(|entry| entry.key() != Some(*key));
            if waiting.is_empty() {
                self.outside.remove(&index);
            }
        }
    }

    fn index(&self, key: &EndpointKey) -> u32 {
        fdb_index(key.vni, key.mac, self.mask)
    }

    fn bucket(&self, key: &EndpointKey) -> &FdbBucket {
        &self.all()[self.index(key) as usize]
    }

    fn all(&self) -> &[FdbBucket] {
        // SAFETY: mapped with this length until this is dropped; a bucket changes behind a reference
        // by its own rules.
        unsafe { slice::from_raw_parts(self.buckets.as_ptr(), self.mask as usize + 1) }
    }
}

impl Drop for Fdb {
    fn drop(&mut self) {
        let bytes = size_of_val(self.all());
        // SAFETY: what `open` mapped, used by nobody any more.
        if let Err(error) = unsafe { munmap(self.buckets.cast(), bytes) } {
            tracing::debug!(%error, "cannot unmap fdb");
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::mman::mmap_anonymous;
    use overlay_ebpf::abi::MacAddr;

    use super::*;

    /// A table of one bucket, in memory of its own.
    fn one_bucket() -> Fdb {
        let bytes = NonZeroUsize::new(size_of::<FdbBucket>()).unwrap();
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping.
        let mapped = unsafe { mmap_anonymous(None, bytes, protection, MapFlags::MAP_PRIVATE) }.unwrap();
        Fdb { buckets: mapped.cast(), mask: 0, outside: BTreeMap::new(), _map: None }
    }

    fn endpoint(n: u8) -> (EndpointKey, Endpoint) {
        (EndpointKey::new(7, MacAddr([2, 0, 0, 0, 0, n])), Endpoint { vtep: n.into(), ..Endpoint::default() })
    }

    /// The last bytes of the MAC addresses that are in the table.
    fn inside(fdb: &Fdb) -> Vec<u8> {
        let keys = fdb.all()[0].entries().filter_map(FdbEntry::key);
        let mut inside: Vec<u8> = keys.map(|key| key.mac.0[5]).collect();
        inside.sort_unstable();
        inside
    }

    #[test]
    fn who_found_no_room_moves_in_when_another_moves_out() {
        let mut fdb = one_bucket();
        let written: Vec<_> = (1..=7).map(endpoint).map(|(key, row)| fdb.ensure(&key, &row)).collect();
        assert_eq!(written, [true, true, true, true, false, false, false]);
        fdb.remove(&endpoint(6).0);
        fdb.remove(&endpoint(2).0);
        assert_eq!(inside(&fdb), [1, 3, 4, 5]);
        // As it is now, not as it was.
        let (key, row) = endpoint(7);
        assert!(!fdb.ensure(&key, &Endpoint { vtep: 70, ..row }));
        fdb.remove(&endpoint(1).0);
        assert_eq!(inside(&fdb), [3, 4, 5, 7]);
        assert_eq!(fdb.all()[0].find(7, key.mac).and_then(FdbEntry::vtep), Some(70));
        fdb.remove(&endpoint(3).0);
        assert_eq!(inside(&fdb), [4, 5, 7], "nobody is left outside");
    }

    #[test]
    fn who_is_not_right_any_more_does_not_move_in() {
        let mut fdb = one_bucket();
        for (key, row) in (1..=7).map(endpoint) {
            let _ = fdb.ensure(&key, &row);
        }
        let gone = [2, 5];
        let right = |key: &EndpointKey| {
            let n = key.mac.0[5];
            (!gone.contains(&n)).then(|| endpoint(n).1)
        };
        assert_eq!(fdb.clear_wrong(right), 1);
        assert_eq!(inside(&fdb), [1, 3, 4, 6]);
        fdb.remove(&endpoint(1).0);
        assert_eq!(inside(&fdb), [3, 4, 6, 7]);
    }
}
