//! What an operator sees: tables, JSON, exit codes, and one line for each mistake.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{
    process::{Command, Output},
    time::{Duration, Instant},
};

use overlay_tests::{
    cluster::Cluster,
    container::Container,
    exec,
    netns::Netns,
    node::{
        Datapath::{Tc, Xdp},
        Node, program,
    },
    probe::ping_all,
    wire::{Card, Wire},
};
use serde_json::json;

/// No command makes anybody wait longer.
const LIMIT: Duration = Duration::from_secs(10);

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command that must fail in time with an exit code and one line that has these words.
fn fails(command: &mut Command, code: i32, words: &[&str]) {
    let begin = Instant::now();
    let Output { status, stdout, stderr } = exec::run(command).unwrap();
    let (said, took) = (text(&stderr), begin.elapsed());
    let shown = format!("{command:?}: {status} after {took:?}: {said}{}", text(&stdout));
    assert!(took < LIMIT, "{shown}");
    assert_eq!(status.code(), Some(code), "{shown}");
    assert_eq!(said.trim().lines().count(), 1, "{shown}");
    for word in words {
        assert!(said.contains(word), "no {word:?}: {shown}");
    }
}

fn overlayctl(arguments: &[&str]) -> Command {
    let mut command = Command::new(program("overlayctl").unwrap());
    command.args(arguments);
    command
}

fn overlayd(netns: &Netns, arguments: &[&str]) -> Command {
    let mut command = netns.command(program("overlayd").unwrap());
    let dir = std::env::temp_dir().join(netns.name());
    let dir = dir.to_string_lossy();
    let bpffs = format!("/sys/fs/bpf/{}", netns.name());
    command.args(["--run-dir", &dir, "--state-dir", &dir, "--bpffs", &bpffs]).args(arguments);
    command
}

/// The header and the row that has `key`, as words.
fn row(table: &str, key: &str) -> (Vec<String>, Vec<String>) {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
    let found = table.lines().find(|line| line.split_whitespace().any(|word| word == key));
    (words(table.lines().next().unwrap()), words(found.unwrap_or_else(|| panic!("no {key} in:\n{table}"))))
}

#[test]
fn mistakes_on_the_command_line_are_one_line_each() {
    fails(&mut overlayctl(&["status", "--nonsense"]), 2, &["--nonsense"]);
    fails(&mut overlayctl(&["network", "create", "a/b"]), 2, &["a/b"]);
    fails(&mut overlayctl(&["network", "create", "a", "--subnet", "10.0.0.0/99"]), 2, &["10.0.0.0/99"]);
    fails(&mut overlayctl(&["network", "create", "a", "--vni", "0"]), 2, &["--vni"]);
    fails(&mut overlayctl(&["endpoint", "attach", "a"]), 2, &["--netns", "--pid"]);
    fails(&mut overlayctl(&["-o", "yaml", "status"]), 2, &["yaml", "json"]);
    let netns = Netns::new("bare").unwrap();
    fails(&mut overlayd(&netns, &["--datapath", "magic"]), 2, &["magic", "xdp"]);
    fails(&mut overlayd(&netns, &["--port", "none"]), 2, &["--port"]);
}

#[test]
fn a_socket_nobody_listens_on_is_told_from_a_failure() {
    let socket = "/nonexistent/overlayd.sock";
    for command in [&["status"][..], &["network", "ls"], &["endpoint", "ls"], &["node", "ls"]] {
        fails(overlayctl(&["--socket", socket]).args(command), 2, &[socket, "overlayd"]);
    }
    let dead = std::env::temp_dir().join(format!("ovlab-{}-dead.sock", std::process::id()));
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    let path = dead.to_string_lossy().into_owned();
    fails(&mut overlayctl(&["--socket", &path, "status"]), 2, &[&path, "overlayd"]);
    std::fs::remove_file(dead).unwrap();
}

#[test]
fn a_daemon_that_cannot_start_says_why_in_one_line() {
    let wire = Wire::new().unwrap();
    let bare = Netns::new("bare").unwrap();
    let etcd = ["--etcd", "http://127.0.0.1:1", "--node", "n1"];
    let last_line = |netns: &Netns, arguments: &[&str]| {
        let begin = Instant::now();
        let output = exec::run(overlayd(netns, &etcd).args(arguments)).unwrap();
        assert!(!output.status.success() && begin.elapsed() < LIMIT, "{}", text(&output.stderr));
        text(&output.stderr).lines().last().unwrap_or_default().to_owned()
    };
    let line = last_line(&bare, &["--underlay", "nosuch0"]);
    assert!(line.contains("nosuch0"), "{line}");
    let line = last_line(&bare, &["--underlay", "192.0.2.77"]);
    assert!(line.contains("192.0.2.77"), "{line}");
    let line = last_line(&bare, &[]);
    assert!(line.contains("default route") && line.contains("--underlay"), "{line}");
    let node = Netns::new("node").unwrap();
    wire.plug(&node, Card::Veth).unwrap();
    let line = last_line(&node, &["--config", "/nonexistent.toml"]);
    assert!(line.contains("/nonexistent.toml"), "{line}");
}

#[test]
fn a_daemon_without_etcd_keeps_trying_and_says_so() {
    let wire = Wire::new().unwrap();
    let mut node = Node::plug(&wire, "n1", Card::Veth, Tc, &[]).unwrap();
    node.launch().unwrap();
    exec::eventually(LIMIT, || {
        let status = node.status()?;
        anyhow::ensure!(status["health"] == "degraded", "{status}");
        Ok(())
    })
    .unwrap();
    let table = text(&node.try_ctl(&["status"]).unwrap().stdout);
    assert!(table.contains("etcd"), "{table}");
    assert!(node.log().contains("etcd"), "{}", node.log());
    assert_eq!(node.try_ctl(&["status"]).unwrap().status.code(), Some(1));
    fails(&mut node.ctl_command(&["network", "create", "a"]).unwrap(), 1, &["etcd"]);

    let mut etcd = overlay_tests::etcd::Etcd::start(&wire).unwrap();
    node.wait_ready().unwrap();
    node.ctl(&["network", "create", "a"]).unwrap();

    etcd.kill();
    let container = Netns::new("c").unwrap();
    let netns = container.path().to_string_lossy().into_owned();
    fails(&mut node.ctl_command(&["network", "create", "b"]).unwrap(), 1, &["etcd"]);
    fails(&mut node.ctl_command(&["endpoint", "attach", "a", "--netns", &netns]).unwrap(), 1, &["etcd"]);
    // Nothing is left of the attempt.
    assert!(container.exec("ip -brief link").unwrap().lines().all(|line| !line.contains("eth0")));
}

#[test]
fn tables_and_json_tell_the_same() {
    let cluster = Cluster::start(&[Xdp, Tc]).unwrap();
    let node = &cluster.nodes[0];
    let subnet = ["--subnet", "10.1.0.0/24", "--ip-range", "10.1.0.128/25", "--vni", "4242", "--internal"];
    let created = node.ctl(&[&["network", "create", "blue"], &subnet[..]].concat()).unwrap();
    assert!(created.contains("blue") && created.contains("4242"), "{created}");
    let container = Container::attach(node, "blue", "web", &["--mac", "02:00:00:00:00:42"]).unwrap();
    assert_eq!(container.mac.to_string(), "02:00:00:00:00:42");
    assert!(container.addr.octets()[3] >= 128, "{} is not in the range", container.addr);
    let far = Container::attach(&cluster.nodes[1], "blue", "db", &["--ip", "10.1.0.9"]).unwrap();
    ping_all(&container, &far).unwrap();

    let networks = node.json(&["network", "ls"]).unwrap();
    assert_eq!(networks.as_array().unwrap().len(), 1);
    let network = &networks[0];
    assert_eq!(
        [&network["name"], &network["vni"], &network["subnet"], &network["gateway"], &network["internal"]],
        [&json!("blue"), &json!(4242), &json!("10.1.0.0/24"), &json!("10.1.0.1"), &json!(true)]
    );
    let (header, cells) = row(&node.ctl(&["network", "ls"]).unwrap(), "blue");
    assert!(["NAME", "VNI", "SUBNET"].iter().all(|name| header.contains(&(*name).to_owned())), "{header:?}");
    assert!(cells.contains(&"4242".to_owned()) && cells.contains(&"10.1.0.0/24".to_owned()), "{cells:?}");
    let inspected = node.json(&["network", "inspect", "blue"]).unwrap();
    assert_eq!(inspected["members"].as_array().unwrap().len(), 2);

    let endpoints = node.json(&["endpoint", "ls"]).unwrap();
    let web = endpoints.as_array().unwrap().iter().find(|e| e["id"] == container.id.as_str()).unwrap();
    assert_eq!(
        [&web["mac"], &web["node"], &web["names"]],
        [&json!("02:00:00:00:00:42"), &json!("n1"), &json!(["web"])]
    );
    let (header, cells) = row(&node.ctl(&["endpoint", "ls"]).unwrap(), &container.id);
    assert_eq!(header, ["ID", "NETWORK", "NODE", "ADDRESS", "MAC", "NAMES"]);
    assert_eq!(cells[4], "02:00:00:00:00:42");
    let inspected = node.json(&["endpoint", "inspect", "web"]).unwrap();
    assert!(inspected["traffic"]["tx"]["packets"].as_u64().unwrap() >= 10, "{inspected}");

    let listed = node.json(&["node", "ls"]).unwrap();
    let liveness: Vec<_> = listed.as_array().unwrap().iter().map(|n| (&n["name"], &n["state"])).collect();
    assert_eq!(liveness, [(&json!("n1"), &json!("alive")), (&json!("n2"), &json!("alive"))]);
    let (_, cells) = row(&node.ctl(&["node", "ls"]).unwrap(), "n2");
    assert!(cells.contains(&"tc".to_owned()) && cells.contains(&"alive".to_owned()), "{cells:?}");

    let status = node.status().unwrap();
    assert_eq!(
        [&status["health"], &status["node"], &status["store"]["state"]],
        [&json!("healthy"), &json!("n1"), &json!("synced")]
    );
    assert_eq!(status["uplink"]["name"], "eth0");
    assert_eq!(status["store"]["applied"], status["store"]["revision"]);
    let peer = &status["peers"][0];
    assert_eq!(
        [&peer["name"], &peer["datapath"], &peer["routed"]],
        [&json!("n2"), &json!("tc"), &json!(true)]
    );
    assert!(peer["traffic"]["rx"]["packets"].as_u64().unwrap() >= 10, "{peer}");
    let table = node.ctl(&["status"]).unwrap();
    for word in ["healthy", "xdp", "eth0", "synced", "n2", "encapsulated", "delivered"] {
        assert!(table.contains(word), "no {word} in:\n{table}");
    }
}

#[test]
fn requests_that_cannot_be_met_name_what_is_in_the_way() {
    let cluster = Cluster::start(&[Tc]).unwrap();
    let node = &cluster.nodes[0];
    let refused =
        |arguments: &[&str], words: &[&str]| fails(&mut node.ctl_command(arguments).unwrap(), 1, words);
    node.ctl(&["network", "create", "blue", "--subnet", "10.1.0.0/24", "--vni", "7"]).unwrap();
    let web = Container::attach(node, "blue", "web", &["--ip", "10.1.0.5"]).unwrap();
    let free = Netns::new("free").unwrap();
    let netns = free.path().to_string_lossy().into_owned();

    refused(&["network", "create", "blue"], &["blue"]);
    refused(&["network", "create", "red", "--vni", "7"], &["7", "blue"]);
    refused(&["network", "create", "red", "--subnet", "10.1.0.128/25"], &["blue", "10.1.0.0/24"]);
    refused(&["network", "create", "red", "--subnet", "10.2.0.0/24", "--gateway", "10.3.0.1"], &["10.3.0.1"]);
    refused(&["network", "set", "green", "--dscp", "46"], &["green"]);
    refused(&["network", "set", "blue", "--mtu", "60"], &["60"]);
    refused(&["network", "rm", "blue"], &["web"]);
    refused(&["network", "rm", "green"], &["green"]);
    refused(&["network", "inspect", "green"], &["green"]);
    refused(&["endpoint", "attach", "green", "--netns", &netns], &["green"]);
    refused(
        &["endpoint", "attach", "blue", "--netns", &netns, "--ip", "10.1.0.5"],
        &["10.1.0.5", "web", "n1"],
    );
    refused(&["endpoint", "attach", "blue", "--netns", &netns, "--ip", "10.9.0.5"], &["10.9.0.5"]);
    refused(&["endpoint", "attach", "blue", "--netns", &netns, "--ip", "10.1.0.1"], &["10.1.0.1", "gateway"]);
    refused(&["endpoint", "attach", "blue", "--netns", "/nonexistent"], &["/nonexistent"]);
    refused(&["endpoint", "attach", "blue", "--netns", "/etc/passwd"], &["/etc/passwd"]);
    refused(&["endpoint", "attach", "blue", "--pid", "4194304"], &["4194304"]);
    refused(&["endpoint", "detach", "nosuch"], &["nosuch"]);
    refused(&["node", "rm", "n1"], &["n1"]);
    refused(&["node", "rm", "n9"], &["n9"]);
    let again = web.netns.path().to_string_lossy().into_owned();
    refused(&["endpoint", "attach", "blue", "--netns", &again], &["eth0"]);

    // All that left nothing behind.
    assert_eq!(node.json(&["endpoint", "ls"]).unwrap().as_array().unwrap().len(), 1);
    assert!(!free.exec("ip -brief link").unwrap().contains("eth0"));
    node.ctl(&["endpoint", "detach", "web"]).unwrap();
    assert!(!web.netns.exec("ip -brief link").unwrap().contains("eth0"));
    node.ctl(&["network", "rm", "blue"]).unwrap();
    assert_eq!(node.json(&["network", "ls"]).unwrap(), json!([]));
}

#[test]
fn what_is_not_given_is_chosen_and_never_twice() {
    let cluster = Cluster::start(&[Tc, Xdp]).unwrap();
    let [first, second] = [&cluster.nodes[0], &cluster.nodes[1]];
    let names: Vec<_> = (0..8).map(|n| format!("net{n}")).collect();
    std::thread::scope(|scope| {
        for (index, name) in names.iter().enumerate() {
            let node = if index.is_multiple_of(2) { first } else { second };
            scope.spawn(move || node.ctl(&["network", "create", name]).unwrap());
        }
    });
    let networks = first.json(&["network", "ls"]).unwrap();
    let networks = networks.as_array().unwrap();
    for field in ["vni", "subnet", "name"] {
        let mut values: Vec<_> = networks.iter().map(|network| network[field].to_string()).collect();
        values.sort();
        values.dedup();
        assert_eq!(values.len(), names.len(), "{field}: {values:?}");
    }

    let containers: Vec<_> = std::thread::scope(|scope| {
        let attach = |index: usize| {
            let node = if index.is_multiple_of(2) { first } else { second };
            scope.spawn(move || Container::attach(node, "net0", &format!("c{index}"), &[]).unwrap())
        };
        let threads: Vec<_> = (0..8).map(attach).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut addresses: Vec<_> = containers.iter().map(|c| (c.addr, c.mac)).collect();
    addresses.sort();
    addresses.dedup_by_key(|(addr, _)| *addr);
    assert_eq!(addresses.len(), 8, "{addresses:?}");
    ping_all(&containers[0], &containers[1]).unwrap();
}
