use proptest::prelude::*;

use super::{super::MOST_REJECTED, *};

const BLUE: &str = r#"{"vni":7,"subnet":"10.0.9.0/24","gateway":"10.0.9.1"}"#;

/// A key, a value and the revision the key was made at.
type Raw = (String, String, i64);

fn raw(key: &str, value: &str, created: i64) -> Raw {
    (key.to_owned(), value.to_owned(), created)
}

fn node(name: &str, vtep: &str, created: i64) -> Raw {
    raw(&format!("nodes/{name}"), &format!(r#"{{"vtep":"{vtep}","port":4789}}"#), created)
}

fn endpoint(id: u64, node: &str, mac: u8, address: &str, created: i64) -> Raw {
    let value = format!(r#"{{"node":"{node}","mac":"02:00:00:00:00:{mac:02x}","addresses":["{address}"]}}"#);
    raw(&format!("endpoints/blue/{id:012x}"), &value, created)
}

fn put(set: &mut RecordSet, (key, value, created): &Raw) -> bool {
    set.put(RawRecord { key: key.as_bytes(), value: value.as_bytes(), create_revision: *created })
}

fn set(records: &[Raw]) -> RecordSet {
    let mut set = RecordSet::default();
    for record in records {
        put(&mut set, record);
    }
    set
}

fn state(records: &[Raw]) -> State {
    set(records).state(100)
}

/// Asserts that all but `keys` stand, and that the reasons of those contain the texts.
#[track_caller]
fn assert_rejected(records: &[Raw], keys: &[(&str, &str)]) -> State {
    let state = state(records);
    assert_eq!(
        state.rejected.keys().collect::<Vec<_>>(),
        keys.iter().map(|&(k, _)| k).collect::<Vec<_>>(),
        "{:#?}",
        state.rejected
    );
    for (key, says) in keys {
        assert!(state.rejected[*key].contains(says), "{key}: {}", state.rejected[*key]);
    }
    state
}

#[test]
fn records_that_hold_up_make_a_state() {
    let records = [
        raw("meta", r#"{"schema":1,"cluster":"6d8b5a3e-3f0e-4a52-9d8b-0c6a52a1f7aa"}"#, 1),
        raw("networks/blue", BLUE, 2),
        raw("vnis/00000007", "blue", 2),
        node("node1", "192.0.2.1", 3),
        raw("alive/node1", r#"{"incarnation":1}"#, 4),
        endpoint(1, "node1", 1, "10.0.9.2", 5),
    ];
    let state = assert_rejected(&records, &[]);
    assert_eq!((state.networks.len(), state.nodes.len(), state.endpoints.len()), (1, 1, 1));
    assert_eq!((state.alive.len(), state.revision), (1, 100));
    assert_eq!(set(&records).meta().map(|m| m.schema), Some(1));
}

#[test]
fn one_bad_record_does_not_touch_the_others() {
    let state = assert_rejected(
        &[
            raw("networks/blue", BLUE, 1),
            raw("networks/red", "{", 2),
            raw("zebra", "", 3),
            node("node1", "192.0.2.1", 3),
            node("node2", "127.0.0.1", 3),
            endpoint(1, "node1", 1, "10.0.9.2", 5),
        ],
        &[("networks/red", "EOF"), ("nodes/node2", "loopback"), ("zebra", "no record")],
    );
    assert_eq!((state.networks.len(), state.nodes.len(), state.endpoints.len()), (1, 1, 1));
}

#[test]
fn of_two_that_cannot_both_be_the_older_stands() {
    let other = BLUE.replace("10.0.9.", "10.0.8.");
    let state = assert_rejected(
        &[raw("networks/red", BLUE, 2), raw("networks/blue", &other, 3)],
        &[("networks/blue", "VNI 7 is network red's")],
    );
    assert!(state.networks.contains_key(&"red".parse::<NetworkName>().unwrap()));
    assert_rejected(&[node("a", "192.0.2.1", 9), node("b", "192.0.2.1", 8)], &[("nodes/a", "node b's")]);
    assert_rejected(
        &[
            raw("networks/blue", BLUE, 1),
            node("node1", "192.0.2.1", 1),
            endpoint(1, "node1", 1, "10.0.9.2", 7),
            endpoint(2, "node1", 1, "10.0.9.3", 6),
            endpoint(3, "node1", 3, "10.0.9.3", 7),
        ],
        &[
            ("endpoints/blue/000000000001", "the MAC address 02:00:00:00:00:01 is endpoint 000000000002's"),
            ("endpoints/blue/000000000003", "the address 10.0.9.3 is endpoint 000000000002's"),
        ],
    );
}

#[test]
fn what_was_left_out_claims_nothing() {
    assert_rejected(
        &[
            raw("networks/blue", BLUE, 1),
            node("node1", "192.0.2.1", 1),
            endpoint(1, "node1", 1, "10.0.9.1", 2),
            endpoint(2, "ghost", 1, "10.0.9.2", 3),
            endpoint(3, "node1", 1, "10.0.9.2", 4),
        ],
        &[
            ("endpoints/blue/000000000001", "is the gateway of"),
            ("endpoints/blue/000000000002", "waiting for a usable record of its node ghost"),
        ],
    );
}

#[test]
fn an_identity_stands_once_in_a_cluster() {
    let red = BLUE.replace(r#""vni":7"#, r#""vni":8"#);
    let (_, value, _) = endpoint(1, "node1", 1, "10.0.9.2", 3);
    assert_rejected(
        &[
            raw("networks/blue", BLUE, 1),
            raw("networks/red", &red, 1),
            node("node1", "192.0.2.1", 1),
            raw("endpoints/blue/000000000001", &value, 3),
            raw("endpoints/red/000000000001", &value, 2),
        ],
        &[("endpoints/blue/000000000001", "this identity in network red")],
    );
}

#[test]
fn an_endpoint_without_a_network_says_which_case_it_is() {
    let with = |records: &[Raw]| {
        let mut all = vec![node("node1", "192.0.2.1", 1), endpoint(1, "node1", 1, "10.0.9.2", 2)];
        all.extend_from_slice(records);
        state(&all).rejected["endpoints/blue/000000000001"].clone()
    };
    assert_eq!(with(&[]), "there is no network blue");
    assert_eq!(with(&[raw("networks/blue", "[", 1)]), "its network blue was left out");
}

#[test]
fn a_record_that_is_mended_or_deleted_is_no_longer_named() {
    let mut set = set(&[raw("networks/blue", BLUE, 1)]);
    assert!(put(&mut set, &raw("networks/blue", "{}", 1)));
    assert!(set.state(1).networks.is_empty());
    assert!(set.state(1).rejected.contains_key("networks/blue"));
    assert!(put(&mut set, &raw("networks/blue", BLUE, 1)));
    assert!(set.state(1).rejected.is_empty());
    put(&mut set, &raw("junk", "", 1));
    assert!(set.delete(b"junk"));
    assert!(!set.delete(b"junk"));
    assert!(set.delete(b"networks/blue"));
    assert_eq!(set.state(0), State::default());
}

#[test]
fn junk_without_end_is_counted_and_not_all_named() {
    let mut records = vec![raw("networks/blue", BLUE, 1), raw("networks/red", BLUE, 2)];
    records.extend((0..5000).map(|n| raw(&format!("junk/{n}"), "", 1)));
    let state = state(&records);
    assert_eq!((state.rejected.len(), state.rejected_more), (MOST_REJECTED, 5001 - MOST_REJECTED));
    assert!(state.rejected.contains_key("networks/red"), "what clashes goes before junk");
}

#[test]
fn signs_of_life_change_the_state_only_when_they_come_and_go() {
    let mut set = RecordSet::default();
    assert!(put(&mut set, &raw("alive/n", r#"{"incarnation":1}"#, 1)));
    assert!(!put(&mut set, &raw("alive/n", r#"{"incarnation":1,"applied":5}"#, 1)));
    assert!(!put(&mut set, &raw("addresses/blue/0a000902", "{}", 1)));
    assert!(set.delete(b"alive/n"));
}

/// Records of a small world, some of which cannot stand, with few names so that they meet.
fn any_record() -> impl Strategy<Value = Raw> {
    let created = 1..6_i64;
    prop_oneof![
        (0..3_u8, 0..4_u32, 7..10_u8, created.clone()).prop_map(|(name, vni, third, created)| {
            let value = format!(r#"{{"vni":{vni},"subnet":"10.0.{third}.0/24","gateway":"10.0.{third}.1"}}"#);
            raw(&format!("networks/n{name}"), &value, created)
        }),
        (0..3_u8, 0..4_u8, created.clone()).prop_map(|(name, last, created)| node(
            &format!("m{name}"),
            &format!("192.0.2.{last}"),
            created
        )),
        (0..3_u8, 0..6_u64, 0..4_u8, 0..4_u8, 7..10_u8, 0..5_u8, created).prop_map(
            |(network, id, node, mac, third, last, created)| {
                let address = format!("10.0.{third}.{last}");
                let (_, value, _) = endpoint(id, &format!("m{node}"), mac, &address, created);
                raw(&format!("endpoints/n{network}/{id:012x}"), &value, created)
            }
        ),
    ]
}

/// The newest of the records of each key.
fn newest(records: Vec<Raw>) -> Vec<Raw> {
    let by_key: BTreeMap<_, _> = records.into_iter().map(|record| (record.0.clone(), record)).collect();
    by_key.into_values().collect()
}

/// What is done to a set: records come, those of keys go, and the state is asked for in between.
#[derive(Clone, Debug)]
enum Step {
    Put(Raw),
    Delete(String),
    Anew(Vec<Raw>),
    Look,
}

fn any_step() -> impl Strategy<Value = Step> {
    let junk = prop_oneof![Just("networks/n1"), Just("nodes/m0"), Just("endpoints/n0/000000000001")];
    prop_oneof![
        6 => any_record().prop_map(Step::Put),
        2 => any_record().prop_map(|(key, ..)| Step::Delete(key)),
        1 => junk.prop_map(|key| Step::Put(raw(key, "{", 3))),
        1 => prop::collection::vec(any_record(), 0..20).prop_map(|all| Step::Anew(newest(all))),
        3 => Just(Step::Look),
    ]
}

proptest! {
    #[test]
    fn the_state_kept_up_is_the_state_made_at_once(steps in prop::collection::vec(any_step(), 0..80)) {
        let mut set = RecordSet::default();
        let mut there: BTreeMap<String, Raw> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Put(record) => {
                    put(&mut set, &record);
                    there.insert(record.0.clone(), record);
                }
                Step::Delete(key) => {
                    set.delete(key.as_bytes());
                    there.remove(&key);
                }
                Step::Anew(records) => {
                    // Most are as they were.
                    let mut all: Vec<_> = there.values().skip(1).cloned().collect();
                    all.extend(records);
                    set.begin();
                    there = newest(all).into_iter().map(|record| (record.0.clone(), record)).collect();
                    for record in there.values() {
                        put(&mut set, record);
                    }
                    set.end();
                }
                Step::Look => {
                    let records: Vec<_> = there.values().cloned().collect();
                    prop_assert_eq!(set.state(100), state(&records));
                }
            }
        }
        let records: Vec<_> = there.into_values().collect();
        prop_assert_eq!(set.state(100), state(&records));
    }

    #[test]
    fn no_bytes_make_it_panic(
        records in prop::collection::vec((
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..30),
                "(meta|networks|nodes|alive|endpoints|vnis)(/[a-c]{0,3}){0,3}".prop_map(String::into_bytes),
            ],
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..60),
                "\\PC{0,60}".prop_map(String::into_bytes),
            ],
            any::<i64>(),
        ), 0..20)
    ) {
        let mut set = RecordSet::default();
        for (key, value, created) in &records {
            set.put(RawRecord { key, value, create_revision: *created });
            let _ = set.state(*created);
        }
        for (key, ..) in &records {
            set.delete(key);
        }
        prop_assert_eq!(set.state(0), State::default());
    }

    #[test]
    fn no_mutation_of_good_records_makes_it_panic(
        records in prop::collection::vec((any_record(), any::<prop::sample::Index>(), any::<u8>()), 0..30)
    ) {
        let mut set = RecordSet::default();
        for ((key, value, created), at, byte) in records {
            let mut value = value.into_bytes();
            let at = at.index(value.len());
            value[at] = byte;
            set.put(RawRecord {
                key: key.as_bytes(), value: &value, create_revision: created
            });
            let _ = set.state(1);
        }
    }

    #[test]
    fn the_order_of_arrival_does_not_matter(
        (records, shuffled) in prop::collection::vec(any_record(), 0..40).prop_map(newest)
            .prop_flat_map(|records| (Just(records.clone()), Just(records).prop_shuffle())),
        detour in prop::collection::vec(any_record(), 0..10),
    ) {
        let straight = state(&records);
        let mut set = set(&detour);
        for (key, ..) in &detour {
            set.delete(key.as_bytes());
        }
        for record in &shuffled {
            put(&mut set, record);
        }
        prop_assert_eq!(straight, set.state(100));
    }

    #[test]
    fn every_record_stands_or_is_named_and_what_stands_is_consistent(
        records in prop::collection::vec(any_record(), 0..60).prop_map(newest)
    ) {
        let state = state(&records);
        let standing = state.networks.len() + state.nodes.len() + state.endpoints.len();
        prop_assert_eq!(standing + state.rejected.len(), records.len());

        let unique = |count: usize, set: BTreeSet<String>| count == set.len();
        let vnis = state.networks.values().map(|n| n.vni.to_string()).collect();
        prop_assert!(unique(state.networks.len(), vnis));
        let vteps = state.nodes.values().map(|n| n.vtep.to_string()).collect();
        prop_assert!(unique(state.nodes.len(), vteps));
        let macs = state.endpoints.iter().map(|(n, e)| format!("{n} {}", e.mac)).collect();
        prop_assert!(unique(state.endpoints.len(), macs));
        let addresses = state.endpoints.iter().map(|(n, e)| format!("{n} {:?}", e.addresses)).collect();
        prop_assert!(unique(state.endpoints.len(), addresses));
        let ids = state.endpoints.iter().map(|(_, e)| e.id.to_string()).collect();
        prop_assert!(unique(state.endpoints.len(), ids));
        for (network, endpoint) in state.endpoints.iter() {
            prop_assert!(state.nodes.contains_key(&endpoint.node));
            for &address in &endpoint.addresses {
                prop_assert!(state.networks[network].check_address(address).is_ok());
            }
        }
    }
}
