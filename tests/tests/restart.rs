//! A daemon that is stopped, killed or replaced, or that loses its store: nobody notices.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{fs, path::PathBuf, thread, time::Duration};

use overlay_tests::{
    cluster::{Cluster, Network},
    container::Container,
    etcd::Etcd,
    exec::eventually,
    node::{
        Datapath::{self, Kernel, Tc, Xdp},
        Node,
    },
    probe::{Flood, ping, ping_all},
};

const BLUE: Network<'_> = Network { name: "blue", vni: 4242, subnet: "10.1.0.0/24" };

/// Each so often a packet goes there and back.
const INTERVAL: Duration = Duration::from_millis(1);

/// A cluster of two nodes with one data path and a container on each.
fn pair(datapath: Datapath) -> (Cluster, Vec<Container>) {
    let cluster = Cluster::start(&[datapath, datapath]).unwrap();
    cluster.create_network(BLUE).unwrap();
    let attach = |node: &Node| Container::attach(node, BLUE.name, node.name(), &[]).unwrap();
    let containers: Vec<_> = cluster.nodes.iter().map(attach).collect();
    ping_all(&containers[0], &containers[1]).unwrap();
    ping_all(&containers[1], &containers[0]).unwrap();
    (cluster, containers)
}

/// Does something to a node in the middle of a flood and requires that nothing is lost.
fn unnoticed(containers: &[Container], what: &str, action: impl FnOnce()) {
    let [a, b] = [&containers[0], &containers[1]];
    let flood = Flood::start(&a.netns, &b.netns, b.addr, INTERVAL).unwrap();
    thread::sleep(Duration::from_millis(300));
    action();
    thread::sleep(Duration::from_millis(300));
    let loss = flood.stop().unwrap();
    assert!(loss.sent > 300, "{what}: the flood was a trickle: {loss}");
    assert_eq!(loss.lost(), 0, "{what}: {loss}");
}

fn survives(datapath: Datapath) {
    let (mut cluster, containers) = pair(datapath);
    let node = &mut cluster.nodes[0];

    unnoticed(&containers, "kill -9", || {
        node.kill().unwrap();
        thread::sleep(Duration::from_secs(1));
    });
    unnoticed(&containers, "start after kill -9", || {
        node.launch().unwrap();
        node.wait_ready().unwrap();
    });
    unnoticed(&containers, "stop", || {
        node.stop().unwrap();
        thread::sleep(Duration::from_secs(1));
    });
    unnoticed(&containers, "start after stop", || {
        node.launch().unwrap();
        node.wait_ready().unwrap();
    });

    // The new daemon is in charge, not only in the way.
    let [first, second] = [0, 1].map(|i| &cluster.nodes[i]);
    let guests = [first, second].map(|node| Container::attach(node, BLUE.name, "guest", &[]).unwrap());
    ping_all(&guests[0], &guests[1]).unwrap();
    ping_all(&containers[0], &guests[1]).unwrap();
    first.ctl(&["endpoint", "detach", &guests[0].id]).unwrap();
}

#[test]
fn xdp_forwards_on_whatever_becomes_of_the_daemon() {
    survives(Xdp);
}

#[test]
fn tc_forwards_on_whatever_becomes_of_the_daemon() {
    survives(Tc);
}

#[test]
fn the_kernel_forwards_on_whatever_becomes_of_the_daemon() {
    survives(Kernel);
}

#[test]
fn a_daemon_that_finds_all_as_it_should_be_changes_nothing() {
    for datapath in [Xdp, Tc] {
        let (mut cluster, _containers) = pair(datapath);
        let node = &mut cluster.nodes[0];
        let rows_changed = |node: &Node| node.status().unwrap()["datapath"]["rows_changed"].as_u64().unwrap();
        assert!(rows_changed(node) > 0);
        node.stop().unwrap();
        node.launch().unwrap();
        node.wait_ready().unwrap();
        assert_eq!(rows_changed(node), 0, "{datapath}: {}", node.log());
    }
}

#[test]
fn changes_made_while_a_daemon_was_away_are_applied_when_it_returns() {
    let (mut cluster, containers) = pair(Xdp);
    let moved = Container::attach(&cluster.nodes[1], BLUE.name, "moved", &[]).unwrap();
    ping_all(&containers[0], &moved).unwrap();

    cluster.nodes[0].kill().unwrap();
    cluster.nodes[1].ctl(&["endpoint", "detach", &moved.id]).unwrap();
    let new = Container::attach(&cluster.nodes[1], BLUE.name, "new", &[]).unwrap();
    cluster.nodes[0].launch().unwrap();
    cluster.nodes[0].wait_ready().unwrap();

    ping_all(&containers[0], &new).unwrap();
    let listed = cluster.nodes[0].json(&["endpoint", "ls"]).unwrap();
    let ids: Vec<_> = listed.as_array().unwrap().iter().map(|e| e["id"].as_str().unwrap()).collect();
    assert!(ids.contains(&new.id.as_str()) && !ids.contains(&moved.id.as_str()), "{ids:?}");
}

#[test]
fn etcd_that_goes_away_and_comes_back_costs_no_packet() {
    let (mut cluster, containers) = pair(Xdp);
    let Cluster { nodes, etcd, wire } = &mut cluster;
    unnoticed(&containers, "etcd killed", || {
        etcd.kill();
        eventually(Duration::from_secs(30), || {
            let status = nodes[0].status()?;
            anyhow::ensure!(status["health"] == "degraded", "{status}");
            Ok(())
        })
        .unwrap();
        // A daemon that starts without its store keeps what it finds.
        nodes[0].kill().unwrap();
        nodes[0].launch().unwrap();
        thread::sleep(Duration::from_secs(2));
    });
    unnoticed(&containers, "etcd back", || {
        etcd.restart(wire).unwrap();
        nodes[0].wait_ready().unwrap();
        nodes[1].wait_ready().unwrap();
    });
    let guest = Container::attach(&nodes[0], BLUE.name, "guest", &[]).unwrap();
    ping_all(&containers[1], &guest).unwrap();
}

/// The state a daemon keeps for a start without its store.
fn state_file(node: &Node) -> PathBuf {
    node.socket().ancestors().nth(2).unwrap().join("state/state.json")
}

/// A daemon killed right after a change has kept the state from before it. Started without its store,
/// it knows less than the kernel does.
fn newer_than_what_was_kept(datapath: Datapath) {
    let (mut cluster, containers) = pair(datapath);
    let Cluster { nodes, etcd, wire } = &mut cluster;
    let file = state_file(&nodes[0]);
    let kept = eventually(Duration::from_secs(10), || {
        let text = fs::read_to_string(&file)?;
        anyhow::ensure!(containers.iter().all(|container| text.contains(&container.id)), "{text}");
        Ok(text)
    })
    .unwrap();
    let late = [0, 1].map(|i| Container::attach(&nodes[i], BLUE.name, "late", &[]).unwrap());
    ping_all(&late[0], &late[1]).unwrap();

    unnoticed(&late, "start without the store", || {
        etcd.kill();
        nodes[0].kill().unwrap();
        fs::write(&file, &kept).unwrap();
        nodes[0].launch().unwrap();
        eventually(Duration::from_secs(15), || {
            let status = nodes[0].status()?;
            anyhow::ensure!(status["store"]["applied"].is_i64(), "{status}");
            Ok(())
        })
        .unwrap();
        thread::sleep(Duration::from_secs(1));
    });
    ping_all(&containers[0], &containers[1]).unwrap();
    unnoticed(&late, "the store is back", || {
        etcd.restart(wire).unwrap();
        nodes[0].wait_ready().unwrap();
        nodes[1].wait_ready().unwrap();
    });

    // What the store has taken away is gone, now that it was read.
    nodes[1].ctl(&["endpoint", "detach", &late[1].id]).unwrap();
    eventually(Duration::from_secs(10), || {
        let got = ping(&late[0].netns, late[1].addr, 1, &[])?;
        anyhow::ensure!(got.received == 0, "still forwarded: {got:?}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn xdp_takes_nothing_away_by_a_state_that_is_only_last_known() {
    newer_than_what_was_kept(Xdp);
}

#[test]
fn the_kernel_takes_nothing_away_by_a_state_that_is_only_last_known() {
    newer_than_what_was_kept(Kernel);
}

/// As after a boot of the machine: the kernel has nothing, the store does not answer.
fn made_from_what_was_kept(datapath: Datapath, forget: impl FnOnce(&Node)) {
    let (mut cluster, containers) = pair(datapath);
    let Cluster { nodes, etcd, .. } = &mut cluster;
    nodes[0].stop().unwrap();
    etcd.kill();
    forget(&nodes[0]);
    // The kernel lets go of an unpinned link a little later.
    eventually(Duration::from_secs(5), || {
        let got = ping(&containers[0].netns, containers[1].addr, 1, &[])?;
        anyhow::ensure!(got.received == 0, "still forwarded: {got:?}");
        Ok(())
    })
    .unwrap();
    nodes[0].launch().unwrap();
    eventually(Duration::from_secs(15), || ping_all(&containers[0], &containers[1])).unwrap();
    ping_all(&containers[1], &containers[0]).unwrap();
}

#[test]
fn tc_makes_what_is_missing_from_what_was_kept() {
    made_from_what_was_kept(Tc, |node| fs::remove_dir_all(node.bpffs()).unwrap());
}

#[test]
fn the_kernel_makes_what_is_missing_from_what_was_kept() {
    made_from_what_was_kept(Kernel, |node| {
        for device in [format!("ovb{:x}", BLUE.vni), format!("ovv{:x}", BLUE.vni)] {
            node.netns().exec(&format!("ip link del {device}")).unwrap();
        }
    });
}

#[test]
fn a_store_that_was_wiped_is_not_believed() {
    let (cluster, containers) = pair(Tc);
    unnoticed(&containers, "etcd wiped", || {
        Etcd::ctl(&cluster.wire, &["del", "--prefix", "/overlay/"]).unwrap();
        eventually(Duration::from_secs(30), || {
            let status = cluster.nodes[0].status()?;
            anyhow::ensure!(status["store"]["state"] == "frozen", "{}", status["store"]);
            Ok(())
        })
        .unwrap();
    });
    ping_all(&containers[0], &containers[1]).unwrap();
}
