//! What becomes of etcd, and what a node makes of it: forwarding goes on, what cannot be done says why, and
//! what was missed is caught up with.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{
    os::unix::net::UnixDatagram,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use overlay_tests::{
    cluster::{Cluster, Network},
    container::Container,
    etcd::Etcd,
    etcd_members::EtcdMembers,
    exec::eventually,
    node::{
        Datapath::{Tc, Xdp},
        Node,
    },
    probe::{Flood, ping_all},
    slow_link::SlowLink,
    wire::{Card, Wire},
};

const BLUE: Network<'_> = Network { name: "blue", vni: 4242, subnet: "10.1.0.0/24" };

/// How long a command may take that cannot be done.
const IN_TIME: Duration = Duration::from_secs(10);

fn unnoticed(containers: &[Container], what: &str, action: impl FnOnce()) {
    let [a, b] = [&containers[0], &containers[1]];
    let flood = Flood::start(&a.netns, &b.netns, b.addr, Duration::from_millis(2)).unwrap();
    thread::sleep(Duration::from_millis(300));
    action();
    thread::sleep(Duration::from_millis(300));
    let loss = flood.stop().unwrap();
    assert!(loss.sent > 200, "{what}: the flood was a trickle: {loss}");
    assert_eq!(loss.lost(), 0, "{what}: {loss}");
}

/// A cluster of two nodes with a container each.
fn pair(cluster: Cluster) -> (Cluster, Vec<Container>) {
    cluster.create_network(BLUE).unwrap();
    let containers = cluster.attach_each(BLUE).unwrap();
    ping_all(&containers[0], &containers[1]).unwrap();
    ping_all(&containers[1], &containers[0]).unwrap();
    (cluster, containers)
}

fn store_is(node: &Node, state: &str) -> Result<()> {
    let store = &node.status()?["store"];
    ensure!(store["state"] == state, "{store}");
    Ok(())
}

fn knows(node: &Node, network: &str) -> Result<()> {
    let listed = node.json(&["network", "ls"])?;
    let found = listed.as_array().into_iter().flatten().any(|listed| listed["name"] == network);
    ensure!(found, "{} does not know {network}: {listed}", node.name());
    Ok(())
}

/// Runs a command that cannot be done, and returns what it says about that.
fn refused(node: &Node, arguments: &[&str]) -> String {
    let begun = Instant::now();
    let output = node.try_ctl(arguments).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{arguments:?} was done");
    assert!(begun.elapsed() < IN_TIME, "{arguments:?} took {:?}: {said}", begun.elapsed());
    said
}

#[test]
fn members_that_fail_are_left_for_others() {
    let wire = Wire::new().unwrap();
    let mut members = EtcdMembers::start(&wire, 3).unwrap();
    let urls = members.urls();
    let nodes =
        ["n1", "n2"].map(|name| Node::start(&wire, name, Card::Veth, Tc, &["--etcd", &urls]).unwrap());
    for node in &nodes {
        node.wait_ready().unwrap();
    }
    nodes[0].ctl(&["network", "create", BLUE.name, "--subnet", BLUE.subnet]).unwrap();
    let containers: Vec<_> =
        nodes.iter().map(|node| Container::attach(node, BLUE.name, node.name(), &[]).unwrap()).collect();
    ping_all(&containers[0], &containers[1]).unwrap();
    let followed_by_both = |name: &str| {
        let create = || nodes[0].ctl(&["network", "create", name]);
        eventually(Duration::from_secs(30), create).unwrap();
        for node in &nodes {
            eventually(Duration::from_secs(45), || knows(node, name)).unwrap();
        }
    };
    // Everybody begins with the first.
    unnoticed(&containers, "the member that was followed is killed", || {
        members.kill(0);
        followed_by_both("red");
    });
    members.restart(0).unwrap();
    eventually(Duration::from_secs(30), || members.ctl(&["endpoint", "health"])).unwrap();
    // Then the second, which stays up and answers, but knows nothing new.
    unnoticed(&containers, "the member that was followed is cut off", || {
        members.cut_off(1, true).unwrap();
        followed_by_both("green");
        members.cut_off(1, false).unwrap();
    });
    for node in &nodes {
        node.wait_ready().unwrap();
    }
}

#[test]
fn a_full_etcd_refuses_by_name_and_is_followed_on() {
    let wire = Wire::new().unwrap();
    let etcd = Etcd::start_with(&wire, &["--quota-backend-bytes=4194304"]).unwrap();
    let mut cluster = Cluster { nodes: Vec::new(), etcd, wire };
    for name in ["n1", "n2"] {
        cluster.add(name, Card::Veth, Tc, &[]).unwrap();
    }
    cluster.wait_ready().unwrap();
    let (cluster, containers) = pair(cluster);
    let Cluster { nodes, wire, .. } = &cluster;
    nodes[0].ctl(&["network", "create", "green"]).unwrap();
    for node in nodes {
        eventually(IN_TIME, || knows(node, "green")).unwrap();
    }
    unnoticed(&containers, "no space", || {
        let full = (0..20).find(|n| Etcd::put(wire, &format!("/fill/{n}"), vec![b' '; 1 << 20]).is_err());
        assert!(full.is_some(), "etcd takes everything");
        let said = refused(&nodes[0], &["network", "create", "red"]);
        assert!(said.contains("NOSPACE") && said.contains("alarm disarm"), "{said}");
        // What can still be changed is followed.
        Etcd::ctl(wire, &["del", "/overlay/v1/default/networks/green"]).unwrap();
        for node in nodes {
            eventually(IN_TIME, || {
                ensure!(knows(node, "green").is_err(), "{} still knows it", node.name());
                store_is(node, "synced")
            })
            .unwrap();
        }
    });
    // As the refusal says.
    Etcd::ctl(wire, &["del", "--prefix", "/fill/"]).unwrap();
    let status = Etcd::ctl(wire, &["endpoint", "status", "-w", "json"]).unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let revision = status[0]["Status"]["header"]["revision"].to_string();
    Etcd::ctl(wire, &["compact", &revision]).unwrap();
    Etcd::ctl(wire, &["defrag"]).unwrap();
    Etcd::ctl(wire, &["alarm", "disarm"]).unwrap();
    nodes[0].ctl(&["network", "create", "red"]).unwrap();
    eventually(IN_TIME, || knows(&nodes[1], "red")).unwrap();
    cluster.wait_ready().unwrap();
}

#[test]
fn a_slow_etcd_is_waited_for() {
    let mut cluster = Cluster::empty().unwrap();
    let slow = (Wire::gateway(), 2390).into();
    let delay = Duration::from_millis(100);
    let _link = SlowLink::start(cluster.wire.netns(), slow, (Wire::gateway(), 2379).into(), delay).unwrap();
    let url = format!("http://{slow}");
    for name in ["n1", "n2"] {
        cluster.add(name, Card::Veth, Tc, &["--etcd", &url]).unwrap();
    }
    cluster.wait_ready().unwrap();
    let (cluster, containers) = pair(cluster);
    unnoticed(&containers, "slow", || {
        let guest = Container::attach(&cluster.nodes[0], BLUE.name, "guest", &[]).unwrap();
        ping_all(&guest, &containers[1]).unwrap();
        cluster.nodes[0].ctl(&["endpoint", "detach", &guest.id]).unwrap();
        cluster.nodes[1].ctl(&["network", "create", "red"]).unwrap();
    });
    cluster.wait_ready().unwrap();
}

/// What a daemon without its store may take of one core: 5 %.
fn idles(node: &Node, what: &str) {
    let (window, before) = (Duration::from_secs(15), node.cpu_time().unwrap());
    thread::sleep(window);
    let used = node.cpu_time().unwrap().checked_sub(before).unwrap();
    println!("{what}: {used:?} of {window:?} on a core");
    assert!(used < window / 20, "{what}: {used:?} of {window:?}");
}

/// Makes a network as another node would, and waits until a node knows it.
fn caught_up(cluster: &Cluster, network: &str, limit: Duration) {
    let begun = Instant::now();
    let record = r#"{"vni":77,"subnet":"10.7.0.0/24","gateway":"10.7.0.1"}"#;
    let key = format!("/overlay/v1/default/networks/{network}");
    eventually(Duration::from_secs(20), || Etcd::ctl(&cluster.wire, &["put", &key, record])).unwrap();
    eventually(limit, || knows(&cluster.nodes[0], network)).unwrap();
    println!("{network}: caught up after {:?}", begun.elapsed());
}

#[test]
fn a_stopped_etcd_costs_nothing_and_is_caught_up_with() {
    let (cluster, containers) = pair(Cluster::start(&[Xdp, Tc]).unwrap());
    let node = &cluster.nodes[0];
    unnoticed(&containers, "etcd stopped", || {
        cluster.etcd.freeze().unwrap();
        eventually(Duration::from_secs(45), || store_is(node, "lost")).unwrap();
        let said = refused(node, &["network", "create", "red"]);
        assert!(said.contains("etcd is unreachable") && said.contains("are not affected"), "{said}");
        idles(node, "etcd stopped");
        cluster.etcd.thaw().unwrap();
        caught_up(&cluster, "after-stop", Duration::from_secs(5));
    });
    cluster.wait_ready().unwrap();
}

#[test]
fn a_black_holed_etcd_costs_nothing_and_is_caught_up_with() {
    let (cluster, containers) = pair(Cluster::start(&[Xdp, Tc]).unwrap());
    let (node, wire) = (&cluster.nodes[0], cluster.wire.netns());
    wire.exec("nft add table inet hole").unwrap();
    wire.exec("nft add chain inet hole input { type filter hook input priority 0 ; }").unwrap();
    unnoticed(&containers, "etcd in a black hole", || {
        wire.exec(&format!("nft add rule inet hole input ip saddr {} drop", node.addr())).unwrap();
        eventually(Duration::from_mins(1), || store_is(node, "lost")).unwrap();
        let said = refused(node, &["network", "create", "red"]);
        assert!(said.contains("etcd is unreachable"), "{said}");
        idles(node, "etcd in a black hole");
        wire.exec("nft flush table inet hole").unwrap();
        caught_up(&cluster, "after-hole", Duration::from_secs(30));
    });
    cluster.wait_ready().unwrap();
}

#[test]
fn an_etcd_restored_from_an_old_snapshot_or_wiped_is_not_believed() {
    let (mut cluster, containers) = pair(Cluster::start(&[Tc, Tc]).unwrap());
    let Cluster { nodes, etcd, wire } = &mut cluster;
    etcd.save(wire).unwrap();
    let late = Container::attach(&nodes[0], BLUE.name, "late", &[]).unwrap();
    unnoticed(&containers, "restored", || {
        etcd.restore(wire).unwrap();
        for node in &*nodes {
            eventually(Duration::from_secs(40), || store_is(node, "frozen")).unwrap();
        }
        let said = refused(&nodes[0], &["network", "create", "red"]);
        assert!(said.contains("back in time"), "{said}");
    });
    // It is not in the store that was restored, and it is not taken away.
    ping_all(&late, &containers[1]).unwrap();
    unnoticed(&containers, "wiped", || {
        etcd.wipe(wire).unwrap();
        for node in &*nodes {
            eventually(Duration::from_secs(40), || store_is(node, "frozen")).unwrap();
        }
        thread::sleep(Duration::from_secs(2));
    });
    ping_all(&late, &containers[1]).unwrap();
    let left = Etcd::ctl(wire, &["get", "--prefix", "--keys-only", "/overlay/"]).unwrap();
    assert_eq!(left.trim(), "", "no node writes into a store that is not its own");
}

/// Where a daemon says that it is ready (`sd_notify(3)`).
struct Notices {
    socket: UnixDatagram,
    flag: String,
    _directory: tempfile::TempDir,
}

impl Notices {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self { socket, flag: format!("NOTIFY_SOCKET={}", path.display()), _directory: directory }
    }

    fn launch(&self, node: &mut Node) {
        node.launch_by(&["env", &self.flag]).unwrap();
    }

    fn next(&self) -> String {
        let mut buffer = [0; 512];
        let length = self.socket.recv(&mut buffer).expect("no notice came");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }
}

#[test]
fn a_daemon_is_ready_once_it_forwards_with_or_without_etcd() {
    let (mut cluster, containers) = pair(Cluster::start(&[Xdp, Tc]).unwrap());
    let Cluster { nodes, etcd, wire } = &mut cluster;
    let notices = Notices::new();
    nodes[0].stop().unwrap();
    notices.launch(&mut nodes[0]);
    assert!(notices.next().contains("READY=1"));

    nodes[0].stop().unwrap();
    etcd.kill();
    unnoticed(&containers, "etcd away at start", || {
        notices.launch(&mut nodes[0]);
        let said = notices.next();
        assert!(said.contains("READY=1") && said.contains("STATUS=forwarding"), "{said}");
        let status = nodes[0].status().unwrap();
        assert!(status["store"]["applied"].is_i64(), "ready, but nothing is applied: {status}");
    });
    // On its first start a node has nothing to forward by, and nothing is to wait for it.
    let mut fresh = Node::plug(wire, "n3", Card::Veth, Tc, &[]).unwrap();
    notices.launch(&mut fresh);
    let said = notices.next();
    assert!(said.contains("READY=1") && said.contains("etcd has not answered"), "{said}");
    let said = refused(&fresh, &["network", "create", "red"]);
    assert!(said.contains("etcd is unreachable"), "{said}");
    etcd.restart(wire).unwrap();
    fresh.wait_ready().unwrap();
    nodes[0].wait_ready().unwrap();
}
