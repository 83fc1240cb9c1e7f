//! Where a MAC address of a network is.

use overlay_ebpf::abi::{Config, Endpoint, EndpointKey, FdbEntry, MacAddr, fdb_index};

use super::maps;

/// Has the processor fetch what [`find`] is going to look at. With many endpoints that takes longer than
/// all the rest of a packet, which goes on meanwhile.
#[inline(always)]
pub fn touch(config: &Config, vni: u32, mac: MacAddr) {
    if let Some(bucket) = maps::fdb.get(fdb_index(vni, mac, config.fdb_mask)) {
        bucket.touch();
    }
}

/// The entry of an endpoint: from `fdb`, or from `endpoints` if it found no room there.
#[inline(always)]
pub fn find(config: &Config, vni: u32, mac: MacAddr) -> Option<FdbEntry> {
    let bucket = maps::fdb.get(fdb_index(vni, mac, config.fdb_mask));
    if let Some(entry) = bucket.and_then(|bucket| bucket.find(vni, mac)) {
        return Some(entry);
    }
    // SAFETY: read at once.
    unsafe { maps::endpoints.get(EndpointKey::new(vni, mac)) }.map(|row| FdbEntry::new(vni, mac, row))
}

/// The row of an endpoint of this node.
#[inline(always)]
pub fn local(slot: u32) -> Option<&'static Endpoint> {
    maps::locals.get(slot).filter(|row| row.ifindex != 0)
}
