//! A daemon that is replaced by one whose maps have another schema, under load.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::Result;
use overlay_tests::{
    cluster::{Cluster, Network},
    container::Container,
    exec::{self, eventually},
    node::{
        Datapath::{self, Tc, Xdp},
        Node,
    },
    probe::{Flood, ping_all, transfer},
};

const BLUE: Network<'_> = Network { name: "blue", vni: 4242, subnet: "10.1.0.0/24" };

/// Bytes of one TCP connection under load; one follows another.
const BYTES: u64 = 20_000_000;

/// Does something in the middle of a flood of datagrams and of TCP both ways, and requires that no datagram
/// is lost and each byte arrives.
fn under_load(containers: &[Container], what: &str, action: impl FnOnce()) {
    let [a, b] = [&containers[0], &containers[1]];
    let over = AtomicBool::new(false);
    let load = |from: &Container, to: &Container| -> Result<u64> {
        let mut bytes = 0;
        while !over.load(Ordering::Relaxed) {
            bytes += transfer(&from.netns, &to.netns, to.addr, BYTES)?.bytes;
        }
        Ok(bytes)
    };
    thread::scope(|scope| {
        let there = scope.spawn(|| load(a, b));
        let back = scope.spawn(|| load(b, a));
        let flood = Flood::start(&a.netns, &b.netns, b.addr, Duration::from_millis(1)).unwrap();
        thread::sleep(Duration::from_millis(500));
        action();
        thread::sleep(Duration::from_millis(500));
        let loss = flood.stop().unwrap();
        over.store(true, Ordering::Relaxed);
        for bytes in [there, back].map(|load| load.join().unwrap().unwrap()) {
            assert!(bytes > 0, "{what}: no load");
        }
        assert!(loss.sent > 500, "{what}: the flood was a trickle: {loss}");
        assert_eq!(loss.lost(), 0, "{what}: {loss}");
    });
}

fn schemas(node: &Node) -> Vec<String> {
    let entries = fs::read_dir(node.bpffs()).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn is_replaced_by_the_next(datapath: Datapath) {
    let mut cluster = Cluster::start(&[datapath, datapath]).unwrap();
    cluster.create_network(BLUE).unwrap();
    let containers = cluster.attach_each(BLUE).unwrap();
    ping_all(&containers[0], &containers[1]).unwrap();
    assert_eq!(schemas(&cluster.nodes[0]), ["v1"]);

    let node = &mut cluster.nodes[0];
    under_load(&containers, "upgrade", || {
        node.stop().unwrap();
        node.run_by("overlayd-next");
        node.launch().unwrap();
        node.wait_ready().unwrap();
        assert_eq!(schemas(node), ["v2"], "the old one's pins are gone");
    });
    // The new one is in charge.
    let guests = [0, 1].map(|i| Container::attach(&cluster.nodes[i], BLUE.name, "guest", &[]).unwrap());
    ping_all(&guests[0], &guests[1]).unwrap();
    ping_all(&containers[0], &guests[1]).unwrap();

    // The old one does not know the new one's maps, and says so.
    let node = &mut cluster.nodes[0];
    under_load(&containers, "downgrade", || {
        node.kill().unwrap();
        node.run_by("overlayd");
        let refused = exec::run(&mut node.overlayd(&[]).unwrap()).unwrap();
        let said = String::from_utf8_lossy(&refused.stderr);
        let last = said.lines().last().unwrap();
        assert!(
            !refused.status.success() && last.contains("a newer overlayd forwards by maps of schema 2"),
            "{said}"
        );
        assert!(last.contains("--purge"), "{said}");
        node.run_by("overlayd-next");
        node.launch().unwrap();
        node.wait_ready().unwrap();
    });

    // Purging takes every schema's out, and then the old one runs again.
    node.stop().unwrap();
    node.run_by("overlayd");
    node.purge().unwrap();
    assert!(!node.bpffs().exists(), "{:?}", schemas(node));
    node.launch().unwrap();
    eventually(Duration::from_secs(20), || node.status().map(drop)).unwrap();
}

#[test]
fn xdp_is_replaced_by_the_next_schema_without_a_loss() {
    is_replaced_by_the_next(Xdp);
}

#[test]
fn tc_is_replaced_by_the_next_schema_without_a_loss() {
    is_replaced_by_the_next(Tc);
}

/// Without etcd the new daemon knows less than the old one's programs do: they go on until it is back.
#[test]
fn an_upgrade_waits_for_the_store() {
    let mut cluster = Cluster::start(&[Xdp, Tc]).unwrap();
    cluster.create_network(BLUE).unwrap();
    let containers = cluster.attach_each(BLUE).unwrap();
    ping_all(&containers[0], &containers[1]).unwrap();
    let Cluster { nodes, etcd, wire } = &mut cluster;
    let node = &mut nodes[0];
    under_load(&containers, "without etcd", || {
        etcd.kill();
        node.kill().unwrap();
        node.run_by("overlayd-next");
        node.launch().unwrap();
        eventually(Duration::from_secs(15), || {
            let status = node.status()?;
            anyhow::ensure!(status["store"]["applied"].is_i64(), "{status}");
            Ok(())
        })
        .unwrap();
        assert!(schemas(node).contains(&"v1".to_owned()));
    });
    under_load(&containers, "etcd is back", || {
        etcd.restart(wire).unwrap();
        node.wait_ready().unwrap();
        assert_eq!(schemas(node), ["v2"]);
    });
}
