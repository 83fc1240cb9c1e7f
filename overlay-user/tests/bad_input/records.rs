//! Random records: some as they should be, many that clash with each other, and some that are nonsense.

use rand::{Rng as _, RngCore as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::{Value, json};

/// A key that is put or, without a value, deleted.
pub struct Change {
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
}

const KINDS: [&str; 12] = [
    "networks",
    "nodes",
    "alive",
    "endpoints",
    "endpoints",
    "endpoints",
    "ports",
    "learned",
    "meta",
    "vnis",
    "addresses",
    "zebra",
];
const NETWORKS: [&str; 6] = ["blue", "red", "green", "a b", "", "../x"];
const NODES: [&str; 6] = ["n1", "n2", "n3", "n4", "n\u{1b}", "-n"];
const DEVICES: [&str; 4] = ["eth1", "eth2", "a/b", "sixteen-letters-"];

/// The next change.
pub fn change(random: &mut StdRng) -> Change {
    let kind = pick(random, &KINDS);
    let key = key(random, kind);
    let value = (!random.random_ratio(1, 5)).then(|| value(random, kind));
    Change { key, value }
}

fn pick(random: &mut StdRng, of: &[&'static str]) -> &'static str {
    of.choose(random).copied().unwrap_or_default()
}

fn key(random: &mut StdRng, kind: &str) -> Vec<u8> {
    let key = match kind {
        "networks" => format!("networks/{}", pick(random, &NETWORKS)),
        "nodes" | "alive" => format!("{kind}/{}", pick(random, &NODES)),
        "endpoints" | "ports" => format!("{kind}/{}/{}", pick(random, &NETWORKS), id(random)),
        "learned" | "macs" => {
            format!("{kind}/{}/{}", pick(random, &NETWORKS), mac(random).replace(':', ""))
        }
        "addresses" => {
            format!("addresses/{}/0a0009{:02x}", pick(random, &NETWORKS), random.random_range(0..16))
        }
        other => other.to_owned(),
    };
    let mut key = key.into_bytes();
    if random.random_ratio(1, 30) {
        damage(random, &mut key);
    }
    key
}

/// One of a few identities, so that some are met again.
fn id(random: &mut StdRng) -> String {
    format!("{:012x}", random.random_range(0..40))
}

fn mac(random: &mut StdRng) -> String {
    if random.random_ratio(1, 12) {
        return pick(random, &["01:00:5e:00:00:01", "00:00:00:00:00:00", "zz", ""]).to_owned();
    }
    format!("02:00:00:00:00:{:02x}", random.random_range(0..32))
}

fn address(random: &mut StdRng) -> String {
    match random.random_range(0..12) {
        0 => pick(random, &["10.0.9.0", "10.0.9.255", "0.0.0.0", "239.1.1.1", "127.0.0.1", "::", "fe80::1"])
            .to_owned(),
        1 | 2 => format!("fd00::{:x}", random.random_range(1..16)),
        _ => format!("10.0.9.{}", random.random_range(1..24)),
    }
}

fn value(random: &mut StdRng, kind: &str) -> Vec<u8> {
    let mut record = match kind {
        "networks" => network(random),
        "nodes" => {
            json!({ "vtep": address(random), "port": random.random_range(0..3) * 4789, "mtu": 1500, "static": true })
        }
        "alive" => json!({ "incarnation": random.random_range(0..9), "applied": random.random_range(-2..9) }),
        "endpoints" => json!({
            "node": pick(random, &NODES), "mac": mac(random), "addresses": [address(random)], "names": ["web"],
            "delivery": pick(random, &["", "xdp", "later"]),
        }),
        "ports" => json!({
            "node": pick(random, &NODES), "device": pick(random, &DEVICES), "max_macs": random.random_range(0..4), "age": 300,
        }),
        "learned" => json!({ "node": pick(random, &NODES), "port": id(random) }),
        "meta" => {
            json!({ "schema": random.random_range(0..3), "cluster": "00000000-0000-0000-0000-000000000001" })
        }
        _ => nonsense(random, 3),
    };
    if random.random_ratio(1, 6)
        && let Some(fields) = record.as_object_mut()
        && let Some(field) = fields.keys().cloned().collect::<Vec<_>>().choose(random)
    {
        let other = nonsense(random, 3);
        fields.insert(field.clone(), other);
    }
    let mut bytes = record.to_string().into_bytes();
    match random.random_range(0..12) {
        0 => damage(random, &mut bytes),
        1 if random.random_ratio(1, 4) => bytes = b"[".repeat(random.random_range(1..4000)),
        _ => {}
    }
    bytes
}

fn network(random: &mut StdRng) -> Value {
    let (subnet, gateway) = match random.random_range(0..8) {
        0 => ("fd00::/64", "fd00::1"),
        1 => ("10.0.9.0/99", "10.0.9.1"),
        2 => ("0.0.0.0/0", "10.0.9.1"),
        3 => ("10.0.9.0/24", "10.8.0.1"),
        _ => ("10.0.9.0/24", "10.0.9.1"),
    };
    let vni: i64 = if random.random_ratio(1, 10) { random.random() } else { random.random_range(6..10) };
    json!({ "vni": vni, "subnet": subnet, "gateway": gateway, "flood_cap": random.random_range(0..4) })
}

/// Any JSON.
fn nonsense(random: &mut StdRng, depth: u32) -> Value {
    match random.random_range(0..if depth == 0 { 5 } else { 7 }) {
        0 => Value::Null,
        1 => random.random::<bool>().into(),
        2 => random.random::<i64>().into(),
        3 => random.random::<f64>().into(),
        4 => pick(random, &["", "n1", "10.0.9.1", "\u{0}", "\u{1b}[2J", "ä"]).into(),
        5 => (0..random.random_range(0..4)).map(|_| nonsense(random, depth - 1)).collect(),
        _ => json!({ "vni": nonsense(random, depth - 1), "node": nonsense(random, depth - 1) }),
    }
}

/// Changes some bytes, or cuts them off.
fn damage(random: &mut StdRng, bytes: &mut Vec<u8>) {
    if bytes.is_empty() || random.random() {
        bytes.truncate(random.random_range(0..=bytes.len()));
        return;
    }
    for _ in 0..random.random_range(1..4) {
        let at = random.random_range(0..bytes.len());
        bytes[at] = random.next_u32().to_le_bytes()[0];
    }
}
