//! The daemon's side of `fdb`: a real map, and what it is brought to.

use std::collections::BTreeMap;

use overlay_ebpf::abi::{Endpoint, EndpointKey, MacAddr};
use overlay_user::datapath::ebpf::{self, Fdb, Features};

use crate::frames::VNI;

const ROOM: u32 = 64;

/// So many endpoints on other nodes.
fn endpoints(count: u8) -> BTreeMap<EndpointKey, Endpoint> {
    let row = |n: u8| Endpoint { vtep: n.into(), addr4: [10, 0, 9, n], ..Endpoint::default() };
    (1..=count).map(|n| (EndpointKey::new(VNI, MacAddr([2, 0x42, 10, 0, 9, n])), row(n))).collect()
}

fn open() -> (aya::Ebpf, Fdb) {
    let features = Features::probe();
    let mut loader = ebpf::loader(features);
    loader.map_max_entries("fdb", ebpf::buckets(ROOM));
    let mut ebpf = loader.load(&ebpf::object_for(features)).expect("needs root");
    let fdb = Fdb::open(&mut ebpf).unwrap();
    (ebpf, fdb)
}

/// Brings the table to `rows`; returns how many entries were not as they should be.
fn repair(fdb: &mut Fdb, rows: &BTreeMap<EndpointKey, Endpoint>) -> usize {
    let wrong = fdb.clear_wrong(0..=fdb.mask(), |key| rows.get(key).copied());
    wrong + rows.iter().filter(|(key, row)| fdb.ensure(key, row)).count()
}

#[test]
fn what_is_wrong_in_it_is_found_and_repaired() {
    let (_ebpf, mut fdb) = open();
    assert_eq!(fdb.mask() + 1, 32, "two endpoints for a bucket");
    let rows = endpoints(10);
    assert_eq!(repair(&mut fdb, &rows), 10, "it was empty");
    assert_eq!(repair(&mut fdb, &rows), 0);

    let (changed, removed) = (rows.first_key_value().unwrap(), rows.last_key_value().unwrap());
    fdb.ensure(changed.0, &Endpoint { vtep: 99, ..*changed.1 });
    fdb.remove(removed.0);
    let stranger = EndpointKey::new(VNI + 1, MacAddr([2, 0x42, 10, 0, 9, 200]));
    fdb.ensure(&stranger, changed.1);
    // The changed one is taken out and written anew.
    assert_eq!(repair(&mut fdb, &rows), 4);
    assert_eq!(repair(&mut fdb, &rows), 0);
}

#[test]
fn what_finds_no_room_is_no_fault() {
    let (_ebpf, mut fdb) = open();
    let rows = endpoints(255);
    let found_room = repair(&mut fdb, &rows);
    assert!((64..=128).contains(&found_room), "{found_room} of 128 places are taken");
    assert_eq!(repair(&mut fdb, &rows), 0);
}
