//! What programs read of `overlayctl`: exit codes, and the JSON of every command, which has what its
//! table has.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::ensure;
use overlay_tests::{
    cluster::Cluster,
    container::Container,
    etcd::Etcd,
    exec::eventually,
    netns::Netns,
    node::{
        Datapath::{Tc, Xdp},
        Node,
    },
    probe::ping_all,
    wire::{Card, Wire},
};
use serde_json::Value;

/// Runs `overlayctl status` with a patience in seconds; its exit code and how long it took.
fn status(node: &Node, wait: &str) -> (Option<i32>, Duration) {
    let begin = Instant::now();
    let output = node.try_ctl(&["status", "--wait", wait]).unwrap();
    (output.status.code(), begin.elapsed())
}

#[test]
fn status_ends_with_0_when_healthy_1_when_degraded_and_2_when_down() {
    let wire = Wire::new().unwrap();
    let mut node = Node::plug(&wire, "n1", Card::Veth, Tc, &[]).unwrap();
    let second = Duration::from_secs(1);
    let (code, took) = status(&node, "1");
    assert_eq!(code, Some(2), "never started");
    assert!(took >= second && took < 5 * second, "{took:?}");

    // Without its store.
    node.launch().unwrap();
    eventually(10 * second, || {
        ensure!(node.socket().exists(), "no socket yet");
        Ok(())
    })
    .unwrap();
    let (code, took) = status(&node, "1");
    assert_eq!(code, Some(1), "{}", node.log());
    assert!(took >= second && took < 5 * second, "{took:?}");

    // It waits no longer than it has to.
    let _etcd = Etcd::start(&wire).unwrap();
    let (code, took) = status(&node, "60");
    assert_eq!(code, Some(0), "{}", node.log());
    assert!(took < 30 * second, "{took:?}");
    assert_eq!(status(&node, "0").0, Some(0));

    node.kill().unwrap();
    assert_eq!(status(&node, "0").0, Some(2), "killed");
    node.launch().unwrap();
    assert_eq!(status(&node, "30").0, Some(0), "{}", node.log());
}

/// The words of a text that have a digit: numbers, addresses, ids and names with numbers.
fn numbers(text: &str) -> BTreeSet<&str> {
    let separates = |c: char| c.is_whitespace() || "\",()[]{}".contains(c);
    text.split(separates).filter(|word| word.contains(|c: char| c.is_ascii_digit())).collect()
}

/// Runs a command that changes nothing as JSON and as a table: the JSON has the fields, and every
/// number, address and id that the table has. What is counted may move between the two, but not always.
fn same_in_both(node: &Node, arguments: &[&str], fields: &[&str]) {
    eventually(Duration::from_secs(5), || {
        let json = node.json(arguments)?;
        has(arguments, &json, fields);
        let (table, text) = (node.ctl(arguments)?, json.to_string().replace([':', ','], " "));
        let table = table.replace(':', " ");
        let missing: Vec<_> = numbers(&table).difference(&numbers(&text)).copied().collect();
        ensure!(missing.is_empty(), "{arguments:?}: not in the JSON: {missing:?}\n{table}\n{json:#}");
        Ok(())
    })
    .unwrap();
}

/// Makes sure that the JSON, or each item of it, has these fields.
fn has(arguments: &[&str], json: &Value, fields: &[&str]) {
    let items = json.as_array().map_or_else(|| vec![json], |items| items.iter().collect());
    assert!(!items.is_empty(), "{arguments:?}: nothing in {json}");
    for item in items {
        for field in fields {
            assert!(item.get(field).is_some(), "{arguments:?}: no {field} in {item}");
        }
    }
}

const NETWORK: [&str; 8] = ["name", "vni", "subnet", "gateway", "ip_range", "mtu", "internal", "endpoints"];
const ENDPOINT: [&str; 7] = ["id", "network", "node", "addresses", "mac", "names", "host_device"];
const NODE: [&str; 8] = ["name", "vtep", "mtu", "datapath", "reason", "state", "endpoints", "this"];

#[test]
fn the_json_of_every_command_has_what_its_table_has() {
    let cluster = Cluster::start(&[Xdp, Tc]).unwrap();
    let node = &cluster.nodes[0];
    let changes = |arguments: &[&str], fields: &[&str]| {
        has(arguments, &node.json(arguments).unwrap(), fields);
    };
    changes(&["network", "create", "blue", "--subnet", "10.1.0.0/24", "--mtu", "1400"], &NETWORK);
    changes(&["network", "create", "red"], &NETWORK);
    changes(&["node", "add-static", "third", "--vtep", "10.99.0.200"], &["name"]);
    let (ip, mac) = ("10.1.0.77", "02:00:00:00:00:77");
    let third = ["endpoint", "add-static", "blue", "--node", "third", "--ip", ip, "--mac", mac];
    changes(&third, &["name"]);
    let netns = Netns::new("c").unwrap();
    let path = netns.path().to_string_lossy().into_owned();
    changes(
        &["endpoint", "attach", "red", "--netns", &path, "--name", "guest"],
        &["id", "network", "address", "mac", "host_device", "ifname", "vni", "mtu"],
    );
    let web = Container::attach(node, "blue", "web", &["--name", "www"]).unwrap();
    let far = Container::attach(&cluster.nodes[1], "blue", "far", &[]).unwrap();
    ping_all(&web, &far).unwrap();

    same_in_both(node, &["network", "ls"], &NETWORK);
    same_in_both(node, &["network", "inspect", "blue"], &[&NETWORK[..], &["members"]].concat());
    same_in_both(node, &["endpoint", "ls"], &ENDPOINT);
    same_in_both(node, &["endpoint", "ls", "--network", "blue"], &ENDPOINT);
    same_in_both(node, &["endpoint", "inspect", "www"], &[&ENDPOINT[..], &["vni", "traffic"]].concat());
    same_in_both(node, &["node", "ls"], &NODE);

    let status = node.status().unwrap();
    let parts =
        ["health", "degraded", "node", "version", "cluster", "uplink", "datapath", "store", "networks"];
    has(&["status"], &status, &parts);
    let parts = ["endpoints_local", "endpoints_remote", "peers", "problems", "rejected", "counters"];
    has(&["status"], &status, &parts);
    has(&["status"], &status["uplink"], &["name", "address", "driver", "mtu", "port"]);
    has(&["status"], &status["datapath"], &["mode", "reason", "apply_ms", "rows_changed"]);
    has(&["status"], &status["store"], &["state", "reason", "revision", "applied"]);
    has(&["status"], &status["peers"], &["name", "address", "datapath", "state", "routed", "traffic"]);
    let counter = ["hook", "outcome", "class", "packets", "bytes", "explanation"];
    has(&["status"], &status["counters"], &counter);

    changes(&["endpoint", "detach", "guest", "web"], &["name"]);
    let listed = node.json(&["endpoint", "ls", "--network", "blue"]).unwrap();
    let static_one = listed.as_array().unwrap().iter().find(|e| e["node"] == "third").unwrap();
    changes(&["endpoint", "detach", static_one["id"].as_str().unwrap()], &["name"]);
    changes(&["node", "rm", "third"], &["name"]);
    changes(&["network", "rm", "red"], &["name"]);
}
