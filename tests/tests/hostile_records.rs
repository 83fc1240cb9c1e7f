//! Records in etcd that nobody of us wrote: each is named in `status`, and nothing else suffers.

use std::time::Duration;

use anyhow::{Result, ensure};
use overlay_tests::{
    cluster::{Cluster, Network},
    container::Container,
    etcd::Etcd,
    exec::eventually,
    node::Datapath::{Kernel, Tc, Xdp},
    probe::ping_all,
};
use serde_json::{Value, json};

const BLUE: Network<'_> = Network { name: "blue", vni: 4242, subnet: "10.1.0.0/24" };

const PREFIX: &str = "/overlay/v1/default/";

/// A key, a value, and a word of the reason it must be left out for.
struct Hostile {
    key: String,
    value: Vec<u8>,
    reason: &'static str,
}

fn hostile(key: impl Into<String>, value: impl Into<Vec<u8>>, reason: &'static str) -> Hostile {
    Hostile { key: key.into(), value: value.into(), reason }
}

fn record(key: impl Into<String>, value: &Value, reason: &'static str) -> Hostile {
    hostile(key, value.to_string(), reason)
}

fn network(name: &str, vni: u32, subnet: &str, gateway: &str, reason: &'static str) -> Hostile {
    let value = json!({ "vni": vni, "subnet": subnet, "gateway": gateway });
    record(format!("networks/{name}"), &value, reason)
}

fn policy(name: &str, vni: u32, decided: &Value, reason: &'static str) -> Hostile {
    let mut value = json!({ "vni": vni, "subnet": "10.9.0.0/24", "gateway": "10.9.0.1" });
    for (field, setting) in decided.as_object().into_iter().flatten() {
        value[field] = setting.clone();
    }
    record(format!("networks/{name}"), &value, reason)
}

fn endpoint(id: &str, mac: &str, address: &str, reason: &'static str) -> Hostile {
    let value = json!({ "node": "n2", "mac": mac, "addresses": [address] });
    record(format!("endpoints/blue/{id}"), &value, reason)
}

/// One of each kind. `victim` is an honest endpoint of network blue.
fn hostile_records(victim: &Container) -> Vec<Hostile> {
    let (mac, addr) = (victim.mac.to_string(), victim.addr.to_string());
    vec![
        hostile("networks/half", "{", "EOF"),
        hostile("networks/nothing", "", "EOF"),
        hostile("networks/bytes", b"\xff\xfe\x00".as_slice(), "record"),
        hostile("networks/text", "\"blue\"", "invalid type"),
        hostile("networks/deep", "[".repeat(50_000), "record"),
        hostile("networks/large", vec![b' '; 1_000_000], "bytes"),
        hostile("networks/huge", vec![b'x'; 10_000_000], "bytes"),
        record("networks/words", &json!({ "vni": "seven", "subnet": 1, "gateway": [] }), "invalid type"),
        network("zero", 0, "10.9.0.0/24", "10.9.0.1", "VNI"),
        network("wide", 1 << 24, "10.9.0.0/24", "10.9.0.1", "VNI"),
        network("twice", BLUE.vni, "10.9.0.0/24", "10.9.0.1", "blue"),
        // Who comes first in the alphabet but later in time is still the second.
        network("aaa", BLUE.vni, "10.9.0.0/24", "10.9.0.1", "blue"),
        network("bits", 901, "10.9.0.7/24", "10.9.0.1", "host bits"),
        network("world", 902, "0.0.0.0/0", "10.9.0.1", "size"),
        network("loop", 903, "127.0.0.0/8", "127.0.0.1", "no host"),
        network("far", 904, "10.9.0.0/24", "10.8.0.1", "not in the subnet"),
        policy("dscp", 906, &json!({ "dscp": "64" }), "DSCP"),
        policy("flooding", 907, &json!({ "broadcast": "maybe" }), "maybe"),
        policy("rate", 908, &json!({ "bum_rate": 0 }), "BUM rate"),
        policy("cap", 909, &json!({ "flood_cap": 0 }), "flood cap"),
        policy("vlan", 910, &json!({ "vlan": "sideways" }), "sideways"),
        policy("mtu", 911, &json!({ "mtu": 67 }), "MTU"),
        network("nonsense", 905, "10.9.0.0/99", "10.9.0.1", "record"),
        record("nodes/words", &json!({ "vtep": "n2", "port": 4789 }), "record"),
        record("nodes/multicast", &json!({ "vtep": "239.1.1.1", "port": 4789 }), "multicast"),
        record("nodes/loopback", &json!({ "vtep": "127.0.0.1", "port": 4789 }), "loopback"),
        record("nodes/port", &json!({ "vtep": "192.0.2.1", "port": 0 }), "port"),
        record("nodes/a b", &json!({ "vtep": "192.0.2.2", "port": 4789 }), "name"),
        endpoint("000000000001", "02:00:00:00:00:01", "10.7.0.1", "not in the subnet"),
        endpoint("000000000002", "01:00:5e:00:00:01", "10.1.0.201", "multicast"),
        endpoint("000000000003", "zz", "10.1.0.202", "MAC"),
        endpoint("ffffffffff04", &mac, "10.1.0.203", "MAC"),
        endpoint("000000000004", &mac, "10.1.0.203", "MAC"),
        endpoint("ffffffffff05", "02:00:00:00:00:05", &addr, "address"),
        endpoint("000000000005", "02:00:00:00:00:05", &addr, "address"),
        endpoint("000000000006", "02:00:00:00:00:06", "10.1.0.255", "broadcast"),
        endpoint("not-an-id", "02:00:00:00:00:07", "10.1.0.204", "endpoint id"),
        record(
            "endpoints/nowhere/000000000008",
            &json!({ "node": "n2", "mac": mac, "addresses": [] }),
            "network",
        ),
        hostile("alive/n9/more", "{}", "name"),
        hostile("something/else", "{}", "no record"),
        hostile("../../etc/passwd", "root", "no record"),
    ]
}

#[test]
fn hostile_records_are_left_out_by_name_and_the_rest_goes_on() {
    let cluster = Cluster::start(&[Xdp, Tc, Kernel]).unwrap();
    cluster.create_network(BLUE).unwrap();
    let containers: Vec<_> = cluster
        .nodes
        .iter()
        .map(|node| Container::attach(node, BLUE.name, node.name(), &[]).unwrap())
        .collect();
    let all_talk = || {
        for from in &containers {
            for to in containers.iter().filter(|to| to.addr != from.addr) {
                ping_all(from, to).unwrap();
            }
        }
    };
    all_talk();

    let records = hostile_records(&containers[1]);
    for Hostile { key, value, .. } in &records {
        Etcd::put(&cluster.wire, &format!("{PREFIX}{key}"), value.clone()).unwrap();
    }
    for node in &cluster.nodes {
        for Hostile { key, reason, .. } in &records {
            eventually(Duration::from_secs(15), || named(&node.status()?, key, reason)).unwrap();
        }
        assert_eq!(node.status().unwrap()["health"], "healthy", "{}", node.name());
        // The log names the key as well. It quotes what is not plain text.
        let log = node.log();
        assert!(log.contains("networks/twice") && log.contains("endpoints/blue/ffffffffff05"), "{log}");
        assert!(log.len() < 1_000_000, "the log repeats what is in the records");
    }
    all_talk();

    // New things work, among all that.
    let guest = Container::attach(&cluster.nodes[0], BLUE.name, "guest", &[]).unwrap();
    ping_all(&containers[2], &guest).unwrap();
    cluster.create_network(Network { name: "red", vni: 77, subnet: "10.2.0.0/24" }).unwrap();

    // What is taken away is forgotten.
    for Hostile { key, .. } in &records {
        Etcd::ctl(&cluster.wire, &["del", &format!("{PREFIX}{key}")]).unwrap();
    }
    for node in &cluster.nodes {
        eventually(Duration::from_secs(15), || {
            let rejected = &node.status()?["rejected"];
            ensure!(rejected == &json!({}), "still there: {rejected}");
            Ok(())
        })
        .unwrap();
    }
    all_talk();
}

fn named(status: &Value, key: &str, reason: &str) -> Result<()> {
    let rejected = &status["rejected"];
    let said = rejected[key].as_str();
    ensure!(
        said.is_some_and(|said| said.contains(reason)),
        "{key}: {said:?} does not say {reason:?} in {rejected}"
    );
    Ok(())
}

#[test]
fn unknown_fields_are_no_fault() {
    let cluster = Cluster::start(&[Tc]).unwrap();
    let value = json!({
        "vni": 55, "subnet": "10.5.0.0/24", "gateway": "10.5.0.1", "colour": { "of": ["the", "sky"] },
    });
    Etcd::put(&cluster.wire, &format!("{PREFIX}networks/new"), value.to_string().into_bytes()).unwrap();
    let node = &cluster.nodes[0];
    eventually(Duration::from_secs(5), || {
        let networks = node.json(&["network", "ls"])?;
        ensure!(networks[0]["name"] == "new" && networks[0]["vni"] == 55, "{networks}");
        Ok(())
    })
    .unwrap();
    assert_eq!(node.status().unwrap()["rejected"], json!({}));
}
