//! `fdb`: where the MAC addresses of all networks are, in a form that costs one cache line to look up.
//!
//! A hash map of the kernel's takes two to four dependent reads from all over memory for a key, which with
//! 100,000 endpoints is several times what all the rest of a packet costs. Here a key has one bucket of
//! 64 bytes. What finds no room in its bucket is in `endpoints` alone, where the programs look
//! for what they do not find here: this table makes them faster, not right.
//!
//! The daemon writes while the programs read, an entry as two words of which either alone is no entry
//! ([`FdbBucket::set`]).

use core::cell::UnsafeCell;
#[cfg(not(target_arch = "bpf"))]
use core::sync::atomic::{AtomicU64, Ordering};

use super::{ENDPOINT_LEARNED, Endpoint, EndpointKey, MAX_SLOTS, MAX_VTEPS, MacAddr, SELF_VTEP};

/// Entries of a bucket.
pub const WAYS: usize = 4;

/// Endpoints a bucket is made for: half as many as there is room for, so that about one in thirty finds none.
pub const PER_BUCKET: u32 = 2;

/// In the upper 16 bits of an entry's first word: the endpoint is this node's, and the number its slot.
const LOCAL: u64 = 1 << 62;
/// Likewise: it is a host behind a gateway port ([`ENDPOINT_LEARNED`]).
const LEARNED: u64 = 1 << 63;
const INDEX: u64 = (1 << 14) - 1;
const _: () = assert!(MAX_VTEPS as u64 - 1 <= INDEX && MAX_SLOTS as u64 - 1 <= INDEX);

/// Row of `fdb`.
#[derive(Default)]
#[repr(C, align(64))]
pub struct FdbBucket {
    ways: [FdbCell; WAYS],
}

const _: () = assert!(size_of::<FdbBucket>() == 64);

/// Place for one entry, as the programs and the daemon share it.
#[derive(Default)]
#[repr(C)]
struct FdbCell {
    station: UnsafeCell<u64>,
    place: UnsafeCell<u64>,
}

/// An entry: an endpoint's key and what is asked for with every packet.
///
/// The first word has the MAC address as it stands in a frame, and the row in `vteps` or the slot with two
/// flags in the last 16 bits; the second the VNI and, as it stands in a packet, the first IPv4 address. Zero
/// is no entry: there is no VNI 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FdbEntry {
    station: u64,
    place: u64,
}

/// The bucket of a key among `mask + 1`, a power of two.
#[inline(always)]
#[must_use]
pub const fn index(vni: u32, mac: MacAddr, mask: u32) -> u32 {
    // Odd factors with their bits spread evenly; the first is 2^64 divided by the golden ratio.
    let key = bits(mac) ^ (vni as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = key.wrapping_mul(0x9fb2_1c65_1e98_df25);
    let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (mixed >> 32) as u32 & mask
}

#[inline(always)]
const fn bits(mac: MacAddr) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}

// === impl FdbEntry ===

impl FdbEntry {
    /// The entry of an endpoint.
    #[inline(always)]
    #[must_use]
    pub const fn new(vni: u32, mac: MacAddr, row: &Endpoint) -> Self {
        let index =
            if row.vtep == SELF_VTEP { LOCAL | ((row.slot as u64) << 48) } else { (row.vtep as u64) << 48 };
        let learned = if row.flags & ENDPOINT_LEARNED != 0 { LEARNED } else { 0 };
        let addr4 = u32::from_le_bytes(row.addr4) as u64;
        Self { station: bits(mac) | index | learned, place: vni as u64 | (addr4 << 32) }
    }

    /// The row in `vteps` of the node it is on; `None` if that is this one.
    #[inline(always)]
    #[must_use]
    pub const fn vtep(self) -> Option<u32> {
        if self.station & LOCAL == 0 { Some((self.station >> 48 & INDEX) as u32) } else { None }
    }

    /// Its slot on this node, if it is on this one: its row in `locals`.
    #[inline(always)]
    #[must_use]
    pub const fn slot(self) -> Option<u32> {
        if self.station & LOCAL == 0 { None } else { Some((self.station >> 48 & INDEX) as u32) }
    }

    /// Its first IPv4 address, or zero.
    #[inline(always)]
    #[must_use]
    pub const fn addr4(self) -> [u8; 4] {
        ((self.place >> 32) as u32).to_le_bytes()
    }

    /// Whether it is a host behind a gateway port, whose addresses nobody has told.
    #[inline(always)]
    #[must_use]
    pub const fn is_learned(self) -> bool {
        self.station & LEARNED != 0
    }

    /// The key in `endpoints`; `None` if this is no entry.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
    pub const fn key(self) -> Option<EndpointKey> {
        let [a, b, c, d, e, f, _, _] = self.station.to_le_bytes();
        let vni = self.place as u32;
        if vni == 0 { None } else { Some(EndpointKey::new(vni, MacAddr([a, b, c, d, e, f]))) }
    }
}

// === impl FdbBucket ===

impl FdbBucket {
    /// Has the processor fetch the bucket, and does not wait for it.
    #[inline(always)]
    pub fn touch(&self) {
        let _ = read(&self.ways[0].station);
    }

    /// The entry of a key, if it is here.
    ///
    /// Without branches: which way a key has is anybody's guess, and a wrong one would make the processor
    /// wait for the cache line before it goes on with the packet.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
    pub fn find(&self, vni: u32, mac: MacAddr) -> Option<FdbEntry> {
        let wanted = bits(mac);
        let mut found = FdbEntry::default();
        for cell in &self.ways {
            let (station, place) = (read(&cell.station), read(&cell.place));
            // All ones if the addresses are the same.
            let mask =
                ((((station ^ wanted) << 16 >> 16).wrapping_sub(1)).cast_signed() >> 63).cast_unsigned();
            found.station |= station & mask;
            found.place |= place & mask;
        }
        // An address that is in the bucket twice, for another network, is as good as not in it.
        if found.place as u32 == vni { Some(found) } else { None }
    }
}

/// What the daemon does with a bucket. One writer at a time.
#[cfg(not(target_arch = "bpf"))]
impl FdbBucket {
    /// Writes an entry over the one with its key, or where there is room; `false` if there is none. A MAC
    /// address that two networks have is in a bucket once: see [`Self::find`].
    ///
    /// A program that reads meanwhile finds the old entry, the new one, none, or of one key the old word
    /// and the new. The word with the MAC address comes last, and goes first: where it is not zero, the other
    /// is its own, also after a daemon that was killed in between.
    #[must_use]
    pub fn set(&self, entry: FdbEntry) -> bool {
        let Some(cell) = self.cell_for(entry) else { return false };
        write(&cell.place, entry.place);
        write(&cell.station, entry.station);
        true
    }

    /// Whether [`Self::set`] would find room for an entry.
    #[must_use]
    pub fn has_room_for(&self, entry: FdbEntry) -> bool {
        self.cell_for(entry).is_some()
    }

    /// What is in the bucket, be it an entry or not.
    pub fn entries(&self) -> impl Iterator<Item = FdbEntry> {
        self.ways.iter().map(FdbCell::load).filter(|entry| *entry != FdbEntry::default())
    }

    fn cell_for(&self, entry: FdbEntry) -> Option<&FdbCell> {
        let key = entry.key()?;
        let with = |mac| self.ways.iter().find(|cell| cell.load().key().map(|key| key.mac) == mac);
        let cell = with(Some(key.mac)).or_else(|| with(None))?;
        cell.load().key().is_none_or(|other| other == key).then_some(cell)
    }

    /// Removes the entry of a key; `false` if there is none.
    pub fn remove(&self, key: EndpointKey) -> bool {
        self.retain(|entry| entry.key() != Some(key)) > 0
    }

    /// Clears what is in the bucket and not to be kept, be it an entry or not; returns how much.
    pub fn retain(&self, keep: impl Fn(FdbEntry) -> bool) -> usize {
        let used = self.ways.iter().filter(|cell| cell.load() != FdbEntry::default());
        let cleared = used.filter(|cell| !keep(cell.load())).map(|cell| {
            write(&cell.station, 0);
            write(&cell.place, 0);
        });
        cleared.count()
    }
}

#[cfg(not(target_arch = "bpf"))]
impl FdbCell {
    fn load(&self) -> FdbEntry {
        FdbEntry { station: read(&self.station), place: read(&self.place) }
    }
}

/// Reads a word once, whole. For BPF before its fourth version the compiler has no atomic load.
#[inline(always)]
fn read(word: &UnsafeCell<u64>) -> u64 {
    // SAFETY: valid and aligned; a volatile load of a word is one load, whoever writes it meanwhile.
    unsafe { word.get().read_volatile() }
}

#[cfg(not(target_arch = "bpf"))]
fn write(word: &UnsafeCell<u64>, value: u64) {
    // SAFETY: valid and aligned; all who write do it this way.
    unsafe { AtomicU64::from_ptr(word.get()) }.store(value, Ordering::Release);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(n: u32) -> MacAddr {
        let [a, b, c, d] = n.to_be_bytes();
        MacAddr([2, 0x42, a, b, c, d])
    }

    fn remote(vtep: u32) -> Endpoint {
        Endpoint { vtep, addr4: [10, 0, 9, 3], ..Endpoint::default() }
    }

    #[test]
    fn an_entry_tells_what_the_row_does() {
        let entry = FdbEntry::new(7, mac(1), &remote(MAX_VTEPS - 1));
        assert_eq!((entry.vtep(), entry.slot()), (Some(MAX_VTEPS - 1), None));
        assert_eq!((entry.addr4(), entry.is_learned()), ([10, 0, 9, 3], false));
        assert_eq!(entry.key(), Some(EndpointKey::new(7, mac(1))));

        let slot = u16::try_from(MAX_SLOTS - 1).unwrap();
        let row =
            Endpoint { vtep: SELF_VTEP, ifindex: 3, slot, flags: ENDPOINT_LEARNED, ..Endpoint::default() };
        let entry = FdbEntry::new((1 << 24) - 1, mac(u32::MAX), &row);
        assert_eq!((entry.vtep(), entry.slot()), (None, Some(MAX_SLOTS - 1)));
        assert!(entry.is_learned() && entry.addr4() == [0; 4]);
        assert_eq!(entry.key(), Some(EndpointKey::new((1 << 24) - 1, mac(u32::MAX))));
    }

    #[test]
    fn a_bucket_keeps_as_many_as_it_has_room_for_and_changes_in_place() {
        let bucket = FdbBucket::default();
        for n in 0..4 {
            assert!(bucket.set(FdbEntry::new(7, mac(n), &remote(n + 1))));
        }
        assert!(!bucket.set(FdbEntry::new(8, mac(0), &remote(1))), "full");
        assert!(bucket.set(FdbEntry::new(7, mac(2), &remote(9))));
        assert_eq!(bucket.find(7, mac(2)).and_then(FdbEntry::vtep), Some(9));
        assert_eq!(bucket.find(8, mac(2)), None);
        assert!(bucket.remove(EndpointKey::new(7, mac(2))) && !bucket.remove(EndpointKey::new(7, mac(2))));
        assert_eq!(bucket.find(7, mac(2)), None);
        assert!(bucket.set(FdbEntry::new(8, mac(5), &remote(5))));
        assert_eq!(bucket.find(8, mac(5)).and_then(FdbEntry::vtep), Some(5));
        assert_eq!(bucket.find(7, mac(0)).and_then(FdbEntry::vtep), Some(1));
    }

    #[test]
    fn what_was_removed_leaves_nothing_that_a_later_entry_is_mixed_with() {
        let bucket = FdbBucket::default();
        for n in 0..2 {
            assert!(bucket.set(FdbEntry::new(7, mac(n), &remote(1))));
        }
        assert!(bucket.remove(EndpointKey::new(7, mac(1))) && bucket.remove(EndpointKey::new(7, mac(0))));
        // In the place that the other had.
        assert!(bucket.set(FdbEntry::new(7, mac(1), &remote(2))));
        assert_eq!(bucket.find(7, mac(1)).and_then(FdbEntry::vtep), Some(2));
    }

    #[test]
    fn an_address_of_two_networks_is_in_a_bucket_once() {
        let bucket = FdbBucket::default();
        assert!(bucket.set(FdbEntry::new(7, mac(1), &remote(1))));
        assert!(!bucket.set(FdbEntry::new(8, mac(1), &remote(2))));
        assert_eq!(bucket.find(7, mac(1)).and_then(FdbEntry::vtep), Some(1));
        assert_eq!(bucket.find(8, mac(1)), None);
    }

    #[test]
    fn endpoints_are_spread_over_the_buckets() {
        const BUCKETS: u32 = 1 << 12;
        let (mut lengths, mut without) = (vec![0; BUCKETS as usize], 0);
        for n in 0..BUCKETS * PER_BUCKET {
            let length = &mut lengths[index(1 + n % 16, mac(n / 16), BUCKETS - 1) as usize];
            *length += 1;
            without += u32::from(*length > WAYS);
        }
        assert!(without * 20 < BUCKETS * PER_BUCKET, "{without} endpoints find no room");
    }
}
