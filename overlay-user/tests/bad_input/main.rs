//! Whatever is written to the store, asked for at the socket or kept on disk: it is taken, or it is left out by
//! name, and nothing else happens.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

mod judge;
mod records;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use overlay_user::{
    api::{
        AddStaticEndpoint, AddStaticNode, Attach, AttachPort, CreateNetwork, EndpointRef, PortRef, SetNetwork,
    },
    plan::{self, Planner},
    state::{NodeName, RawRecord, RecordSet},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use records::{Change, change};

/// What is in the store: values, and when their keys were made.
type Kept = BTreeMap<Vec<u8>, (Vec<u8>, i64)>;

/// Applies random records, and requires after each `batch` that the state is the one that the records make when they
/// are read anew, that every record is in it or is named once as left out, and that plans made from one
/// another are those made from nothing.
fn survives(seed: u64, count: usize, batch: usize) {
    let mut random = StdRng::seed_from_u64(seed);
    let nodes: Vec<NodeName> = ["n1", "n2", "n4"].map(|name| name.parse().unwrap()).into();
    let mut planners: Vec<_> = nodes.iter().cloned().map(Planner::new).collect();
    let (mut records, mut kept) = (RecordSet::default(), Kept::new());
    let (mut named, mut planned) = (BTreeSet::new(), 0);
    for revision in 1..=i64::try_from(count).unwrap() {
        let Change { key, value } = change(&mut random);
        if let Some(value) = value {
            let created = kept.get(&key).map_or(revision, |(_, created)| *created);
            records.put(RawRecord { key: &key, value: &value, create_revision: created });
            kept.insert(key, (value, created));
        } else {
            records.delete(&key);
            kept.remove(&key);
        }
        if !usize::try_from(revision).unwrap().is_multiple_of(batch) {
            continue;
        }
        let state = records.state(revision);
        let mut anew = RecordSet::default();
        for (key, (value, created)) in &kept {
            anew.put(RawRecord { key, value, create_revision: *created });
        }
        assert_eq!(state, anew.state(revision), "seed {seed}, record {revision}");
        judge::all_named(&state, kept.keys().map(Vec::as_slice));
        named.extend(state.rejected.keys().cloned());
        for (node, planner) in nodes.iter().zip(&mut planners) {
            let plan = planner.plan(&state);
            assert_eq!(plan, plan::plan(&state, node), "seed {seed}, record {revision}, {node}");
            planned += plan.networks.len();
        }
    }
    // It was not all nonsense, nor all good.
    assert!(named.len() > 50 && planned > 20, "{} were left out, {planned} networks planned", named.len());
}

#[test]
fn random_records_are_taken_or_named() {
    for seed in 1..=4 {
        survives(seed, 5_000, 100);
    }
}

#[test]
#[ignore = "takes a minute or two: cargo xtask test --full"]
fn a_million_random_records_are_taken_or_named() {
    survives(rand::random(), 1_000_000, 10_000);
}

/// Inputs that lead everywhere: what a fuzzer is to begin with.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad_input/corpus").join(target);
    let inputs: Vec<_> =
        fs::read_dir(folder).unwrap().map(|file| fs::read(file.unwrap().path()).unwrap()).collect();
    assert!(inputs.len() >= 10, "only {} inputs of {target}", inputs.len());
    inputs
}

#[test]
fn the_corpus_of_records_is_taken_or_named() {
    for input in corpus("records") {
        judge::record(&input);
    }
}

#[test]
fn the_corpus_of_kept_states_is_taken_or_not() {
    let folder = tempfile::tempdir().unwrap();
    for input in corpus("kept_state") {
        judge::kept_state(&input, folder.path());
    }
}

#[test]
fn requests_that_are_damaged_are_refused() {
    let good = [
        r#"{"name":"blue","subnets":["10.0.9.0/24"],"vni":7,"mtu":1400,"policy":{"dscp":"inherit"}}"#,
        r#"{"mtu":1400,"policy":{"broadcast":"drop","flood_cap":7}}"#,
        r#"{"network":"blue","netns":{"path":"/run/netns/c1"},"ifname":"eth0","ips":["10.0.9.2"],"mac":"02:00:00:00:00:01"}"#,
        r#"{"network":"blue","node":"n9","ips":["10.0.9.2"],"mac":"02:00:00:00:00:01","names":["web"]}"#,
        r#"{"name":"n9","vtep":"192.0.2.9","port":4789}"#,
        r#"{"network":"blue","device":"eth1","max_macs":7,"age":300}"#,
    ];
    let mut random = StdRng::seed_from_u64(1);
    let mut taken = 0;
    for round in 0..20_000 {
        let mut bytes = good[round % good.len()].as_bytes().to_vec();
        for _ in 0..random.random_range(0..4) {
            let at = random.random_range(0..bytes.len());
            bytes[at] = random.random();
        }
        // Who asks is told what is wrong: there is no other way out of these.
        taken += usize::from(serde_json::from_slice::<CreateNetwork>(&bytes).is_ok());
        taken += usize::from(serde_json::from_slice::<SetNetwork>(&bytes).is_ok());
        taken += usize::from(serde_json::from_slice::<Attach>(&bytes).is_ok());
        taken += usize::from(serde_json::from_slice::<AddStaticEndpoint>(&bytes).is_ok());
        taken += usize::from(serde_json::from_slice::<AddStaticNode>(&bytes).is_ok());
        taken += usize::from(serde_json::from_slice::<AttachPort>(&bytes).is_ok());
        let text = String::from_utf8_lossy(&bytes);
        let _ = (text.parse::<EndpointRef>(), text.parse::<PortRef>());
    }
    assert!(taken > 4_000, "only {taken} were taken: these are no requests any more");
}
