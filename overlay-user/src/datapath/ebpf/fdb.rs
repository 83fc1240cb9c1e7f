//! `fdb`, through memory shared with the kernel: a row is written in place, without a system call.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
    os::fd::AsFd as _,
    ptr::NonNull,
    slice,
    sync::Arc,
};

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

/// The table, for its one writer.
pub struct Fdb {
    memory: Arc<Memory>,
    /// Entries that found no room, by their buckets. They move in when another moves out, so that one that a
    /// later daemon would find room for has it now.
    outside: BTreeMap<u32, Vec<FdbEntry>>,
}

/// The table's memory, and the map as long as it is used. Others may read while the writer writes.
pub struct Memory {
    buckets: NonNull<FdbBucket>,
    mask: u32,
    /// None in tests.
    _map: Option<MapData>,
}

// SAFETY: the memory belongs to no thread.
unsafe impl Send for Memory {}
// SAFETY: a bucket is read and written word by word, each of them whole, as the programs do at the same time.
unsafe impl Sync for Memory {}

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
        let memory = Memory { buckets: mapped.cast(), mask: rows - 1, _map: Some(map) };
        Ok(Self { memory: Arc::new(memory), outside: BTreeMap::new() })
    }

    /// The memory, to be read beside this.
    #[must_use]
    pub fn memory(&self) -> Arc<Memory> {
        Arc::clone(&self.memory)
    }

    /// The number of rows less one.
    #[must_use]
    pub fn mask(&self) -> u32 {
        self.memory.mask
    }

    /// Writes an endpoint's entry unless it is there. One that finds no room is left to `endpoints`. Returns
    /// whether there was another one, or none.
    pub fn ensure(&mut self, key: &EndpointKey, row: &Endpoint) -> bool {
        let entry = FdbEntry::new(key.vni, key.mac, row);
        let bucket = self.memory.bucket(key);
        if bucket.find(key.vni, key.mac) == Some(entry) {
            return false;
        }
        let written = bucket.set(entry);
        self.forget_outside(key);
        if !written {
            self.outside.entry(self.memory.index(key)).or_default().push(entry);
        }
        written
    }

    /// Removes an endpoint's entry, if it has one.
    pub fn remove(&mut self, key: &EndpointKey) {
        self.forget_outside(key);
        if !self.memory.bucket(key).remove(*key) {
            return;
        }
        self.let_in(self.memory.index(key), |_| true);
    }

    /// Removes the entries in `buckets` that are not of the `right` rows; returns how many.
    pub fn clear_wrong(
        &mut self,
        buckets: impl IntoIterator<Item = u32>,
        right: impl Fn(&EndpointKey) -> Option<Endpoint>,
    ) -> usize {
        let mut cleared = 0;
        for index in buckets {
            cleared += self.memory.clear_wrong(index, &right);
            // Whoever is not right any more must not move in.
            self.let_in(index, |entry| is_right(entry, &right));
        }
        cleared
    }

    /// Has those who wait for room in a bucket move in if they are due, and forgets the others.
    fn let_in(&mut self, index: u32, is_due: impl Fn(FdbEntry) -> bool) {
        let Some(mut waiting) = self.outside.remove(&index) else { return };
        let bucket = &self.memory.all()[index as usize];
        waiting.retain(|entry| is_due(*entry) && !bucket.set(*entry));
        if !waiting.is_empty() {
            self.outside.insert(index, waiting);
        }
    }

    /// Tells which entries of a bucket are not those of the `right` rows.
    pub fn audit(
        &self,
        bucket: u32,
        right: impl Fn(&EndpointKey) -> Option<Endpoint>,
        name: impl Fn(&EndpointKey) -> String,
        found: &mut Differences,
    ) {
        for entry in self.memory.wrong_in(bucket, &right) {
            let Some(key) = entry.key() else {
                found.note(DifferenceKind::Extra, PLACE, || "what is no entry".to_owned());
                continue;
            };
            let misplaced = right(&key).is_none() || self.memory.index(&key) != bucket;
            let kind = if misplaced { DifferenceKind::Extra } else { DifferenceKind::Different };
            found.note(kind, PLACE, || name(&key));
        }
    }

    /// Tells that an endpoint has no entry, if it has none. One that found no room is not missed.
    pub fn audit_missing(
        &self,
        key: &EndpointKey,
        row: &Endpoint,
        name: impl Fn(&EndpointKey) -> String,
        found: &mut Differences,
    ) {
        let missing = self.memory.bucket(key).find(key.vni, key.mac).is_none();
        if missing && self.memory.lacks(key, row) {
            found.note(DifferenceKind::Missing, PLACE, || name(key));
        }
    }

    fn forget_outside(&mut self, key: &EndpointKey) {
        let index = self.memory.index(key);
        if let Some(waiting) = self.outside.get_mut(&index) {
            waiting.retain(|entry| entry.key() != Some(*key));
            if waiting.is_empty() {
                self.outside.remove(&index);
            }
        }
    }
}

// === impl Memory ===

impl Memory {
    /// Whether an endpoint has not its entry though there is room for it.
    #[must_use]
    pub fn lacks(&self, key: &EndpointKey, row: &Endpoint) -> bool {
        let (bucket, entry) = (self.bucket(key), FdbEntry::new(key.vni, key.mac, row));
        bucket.find(key.vni, key.mac) != Some(entry) && bucket.has_room_for(entry)
    }

    /// The buckets that have an entry which is not of a `right` row, until it is `enough`.
    pub fn with_wrong(
        &self,
        right: impl Fn(&EndpointKey) -> Option<Endpoint>,
        enough: impl Fn() -> bool,
    ) -> BTreeSet<u32> {
        let buckets = (0..=self.mask).take_while(|_| !enough());
        buckets.filter(|index| self.wrong_in(*index, &right).next().is_some()).collect()
    }

    fn wrong_in(
        &self,
        index: u32,
        right: impl Fn(&EndpointKey) -> Option<Endpoint>,
    ) -> impl Iterator<Item = FdbEntry> {
        let belongs = move |entry: &FdbEntry| entry.key().is_some_and(|key| self.index(&key) == index);
        let entries = self.all()[index as usize].entries();
        entries.filter(move |entry| !(belongs(entry) && is_right(*entry, &right)))
    }

    fn clear_wrong(&self, index: u32, right: impl Fn(&EndpointKey) -> Option<Endpoint>) -> usize {
        let wrong: Vec<_> = self.wrong_in(index, right).collect();
        if wrong.is_empty() { 0 } else { self.all()[index as usize].retain(|entry| !wrong.contains(&entry)) }
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

/// Whether an entry is that of a `right` row.
fn is_right(entry: FdbEntry, right: impl Fn(&EndpointKey) -> Option<Endpoint>) -> bool {
    entry
        .key()
        .is_some_and(|key| right(&key).is_some_and(|row| FdbEntry::new(key.vni, key.mac, &row) == entry))
}

impl Drop for Memory {
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
        let memory = Memory { buckets: mapped.cast(), mask: 0, _map: None };
        Fdb { memory: Arc::new(memory), outside: BTreeMap::new() }
    }

    fn endpoint(n: u8) -> (EndpointKey, Endpoint) {
        (EndpointKey::new(7, MacAddr([2, 0, 0, 0, 0, n])), Endpoint { vtep: n.into(), ..Endpoint::default() })
    }

    /// The last bytes of the MAC addresses that are in the table.
    fn inside(fdb: &Fdb) -> Vec<u8> {
        let keys = fdb.memory.all()[0].entries().filter_map(FdbEntry::key);
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
        assert_eq!(fdb.memory.all()[0].find(7, key.mac).and_then(FdbEntry::vtep), Some(70));
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
        assert_eq!(fdb.clear_wrong([0], right), 1);
        assert_eq!(inside(&fdb), [1, 3, 4, 6]);
        fdb.remove(&endpoint(1).0);
        assert_eq!(inside(&fdb), [3, 4, 6, 7]);
    }

    #[test]
    fn who_reads_beside_the_writer_sees_what_is_wrong() {
        let mut fdb = one_bucket();
        let right = |key: &EndpointKey| (key.mac.0[5] <= 5).then(|| endpoint(key.mac.0[5]).1);
        for (key, row) in (1..=5).map(endpoint) {
            let _ = fdb.ensure(&key, &row);
        }
        let memory = fdb.memory();
        let lacking = || -> Vec<u8> {
            let all = (1..=5).filter(|n| {
                let (key, row) = endpoint(*n);
                memory.lacks(&key, &row)
            });
            all.collect()
        };
        assert!(memory.with_wrong(right, || false).is_empty());
        assert!(lacking().is_empty(), "the fifth has found no room");

        // Somebody else writes another row over one, and a row that nobody asked for over another.
        let (second, row) = endpoint(2);
        let bucket = &memory.all()[0];
        assert!(bucket.set(FdbEntry::new(7, second.mac, &Endpoint { vtep: 70, ..row })));
        assert!(bucket.remove(endpoint(3).0) && bucket.set(FdbEntry::new(7, endpoint(9).0.mac, &row)));
        assert_eq!(memory.with_wrong(right, || false), BTreeSet::from([0]));
        assert_eq!(lacking(), [2]);

        assert_eq!(fdb.clear_wrong([0], right), 2);
        assert_eq!((lacking(), inside(&fdb)), (vec![2, 3], vec![1, 4, 5]));
        assert!(memory.with_wrong(right, || false).is_empty());
    }
}
