//! What must hold of any input, whoever made it up: a test's random numbers or its corpus.

use std::{collections::BTreeSet, fs, path::Path, sync::Arc};

use overlay_user::{
    config::{Config, Options},
    daemon::{LastRun, SnapshotFile},
    plan::{self, Planner},
    state::{MOST_REJECTED, NodeName, RawRecord, RecordKey, RecordSet, State, decode, shown_key},
    store::Store,
};

/// Records that an input meets: a network on two nodes, with all kinds of records.
const OTHERS: [(&str, &str); 7] = [
    ("networks/blue", r#"{"vni":7,"subnet":"10.0.9.0/24","gateway":"10.0.9.1"}"#),
    ("nodes/n1", r#"{"vtep":"192.0.2.1","port":4789,"mtu":1500}"#),
    ("nodes/n2", r#"{"vtep":"192.0.2.2","port":4789,"static":true}"#),
    ("endpoints/blue/000000000001", r#"{"node":"n1","mac":"02:00:00:00:00:01","addresses":["10.0.9.2"]}"#),
    ("endpoints/blue/000000000002", r#"{"node":"n2","mac":"02:00:00:00:00:02","addresses":["10.0.9.3"]}"#),
    ("ports/blue/000000000003", r#"{"node":"n2","device":"eth1","max_macs":7,"age":300}"#),
    ("learned/blue/020000000004", r#"{"node":"n2","port":"000000000003"}"#),
];

/// When the others were made.
const BEFORE: i64 = 1;

/// The longest that may be said of one record, in characters: it goes into a log's line.
const LONGEST_REASON: usize = 1000;

/// Takes an input for a record, its key in the first line and its value behind that.
///
/// # Panics
/// If anything but what must become of it does.
pub fn record(input: &[u8]) {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (key, value) = (&input[..end], input.get(end + 1..).unwrap_or_default());
    let (mut records, node) = (RecordSet::default(), node("n1"));
    let put = |records: &mut RecordSet, key, value, create_revision| {
        records.put(RawRecord { key, value, create_revision });
    };
    for (key, value) in OTHERS {
        put(&mut records, key.as_bytes(), value.as_bytes(), BEFORE);
    }
    let before = records.state(1);
    assert!(before.rejected.is_empty(), "{:?}", before.rejected);
    let mut planner = Planner::new(node.clone());
    planner.plan(&before);

    let replaced = OTHERS.iter().find(|(other, _)| other.as_bytes() == key);
    put(&mut records, key, value, if replaced.is_some() { BEFORE } else { BEFORE + 1 });
    let state = records.state(1);
    all_named(&state, OTHERS.iter().map(|(other, _)| other.as_bytes()).chain([key]));
    let alone = RecordKey::parse(key).map(|key| decode(key, value));
    let holds_up = matches!(alone, Ok(Ok(_)));
    assert!(holds_up || state.rejected.contains_key(&shown_key(key)), "{} is not named", shown_key(key));
    assert_eq!(planner.plan(&state), plan::plan(&state, &node));

    // When it goes, all is as it was.
    match replaced {
        Some((key, value)) => put(&mut records, key.as_bytes(), value.as_bytes(), BEFORE),
        None => drop(records.delete(key)),
    }
    let after = records.state(1);
    assert_eq!(after, before);
    assert_eq!(planner.plan(&after), plan::plan(&before, &node));
}

/// Takes an input for a file `state.json`, which is written into a folder.
///
/// # Panics
/// If anything but what must become of it does.
pub fn kept_state(input: &[u8], folder: &Path) {
    let file = || {
        let options =
            Options { node: Some("n1".to_owned()), state_dir: Some(folder.to_owned()), ..Options::default() };
        let config = Config::new(options, None).unwrap();
        let store = Store::new(config.store.clone()).unwrap();
        SnapshotFile::new(&config, store)
    };
    fs::write(folder.join("state.json"), input).unwrap();
    let Some(LastRun { state, records: _ }) = file().read() else { return };
    all_named(&state, []);
    let _ = plan::plan(&state, &node("n1"));
    let state = Arc::new(state);
    file().keep(&state);
    let LastRun { state: read, records: _ } = file().read().expect("what was kept is read");
    let kept = |state: &State| {
        let State { revision, networks, nodes, endpoints, ports, learned, .. } = state.clone();
        (revision, networks, nodes, endpoints, ports, learned)
    };
    assert_eq!(kept(&read), kept(&state));
    assert!(read.rejected.is_empty(), "{:?}", read.rejected);
}

/// Requires that each key is in the state, or named, or counted where there are more than can be named, or none
/// of its business, and that what is said of it fits into a line.
///
/// # Panics
/// If it is not so.
pub fn all_named<'a>(state: &State, keys: impl IntoIterator<Item = &'a [u8]>) {
    for (key, reason) in state.rejected.iter() {
        let fits = |text: &str| text.chars().count() <= LONGEST_REASON && !text.contains(char::is_control);
        assert!(fits(key) && fits(reason), "{key:?} {reason:?}");
    }
    let keys: BTreeSet<_> = keys.into_iter().collect();
    if keys.is_empty() {
        return;
    }
    let mut unexplained: BTreeSet<_> = state.rejected.keys().cloned().collect();
    // The cluster's own record is in no state, so it may be left out or not.
    let (mut left_out, mut perhaps, mut unnamed) = (0, 0, Vec::new());
    for key in keys {
        let shown = shown_key(key);
        let named = state.rejected.contains_key(&shown);
        unexplained.remove(&shown);
        let stands = match RecordKey::parse(key) {
            Ok(RecordKey::Network(name)) => state.networks.contains_key(&name),
            Ok(RecordKey::Node(name)) => state.nodes.contains_key(&name),
            Ok(RecordKey::Alive(name)) => state.alive.contains(&name),
            Ok(RecordKey::Endpoint(network, id)) => state.endpoint(&network, &id).is_some(),
            Ok(RecordKey::Port(network, id)) => state.ports.contains_key(&(network, id)),
            Ok(RecordKey::Learned(network, mac)) => state.learned.contains_key(&(network, mac)),
            Ok(RecordKey::Meta) => {
                perhaps += 1;
                continue;
            }
            Ok(RecordKey::Allocation) => continue,
            Err(_) => false,
        };
        assert!(!(stands && named), "{shown} stands, and is named as left out");
        left_out += usize::from(!stands);
        if !stands && !named {
            unnamed.push(shown);
        }
    }
    let more = |left_out: usize| left_out.saturating_sub(MOST_REJECTED);
    let counted = more(left_out)..=more(left_out + perhaps);
    assert!(counted.contains(&state.rejected_more), "{} more than named of {left_out}", state.rejected_more);
    assert!(unnamed.len() <= state.rejected_more, "{unnamed:?} are left out and not named");
    assert!(unexplained.is_empty(), "{unexplained:?} are named and not there");
}

fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}
