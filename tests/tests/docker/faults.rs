//! Daemons that are killed, a store that is away, a machine that boots: containers do not notice, or come back.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;
use overlay_tests::{
    docker::{DockerCluster, DockerNode, Release},
    etcd::Etcd,
    exec::eventually,
    netns::Netns,
    probe::Flood,
};

use crate::stage::{HEARD, RESOLVER, can, create, has, has_endpoints, has_not, once};

const NET: &str = "calm";
const SUBNET: &str = "10.0.9.0/24";
const SERVE: [&str; 4] = ["httpd", "-f", "-h", "/www"];

/// Each so often a packet goes there and back.
const INTERVAL: Duration = Duration::from_millis(1);

/// Packets go on while something is done.
struct Traffic {
    from: Netns,
    to: Netns,
    addr: std::net::Ipv4Addr,
}

impl Traffic {
    /// From the container `left` of one node to `right` of another.
    fn between(one: &DockerNode, two: &DockerNode) -> Self {
        let addr = two.docker.addr("right", NET).unwrap();
        Self { from: one.docker.netns("left").unwrap(), to: two.docker.netns("right").unwrap(), addr }
    }

    /// Requires that nothing is lost meanwhile.
    fn is_not_disturbed(&self, what: &str, action: impl FnOnce()) {
        let flood = Flood::start(&self.from, &self.to, self.addr, INTERVAL).unwrap();
        thread::sleep(Duration::from_millis(300));
        action();
        thread::sleep(Duration::from_millis(300));
        let loss = flood.stop().unwrap();
        eprintln!("{what}: {loss}");
        assert!(loss.sent > 300, "{what}: the flood was a trickle: {loss}");
        assert_eq!(loss.lost(), 0, "{what}: {loss}");
    }
}

/// Whose dockerd keeps containers, whose does not.
fn survives(release: Release) {
    let mut cluster = DockerCluster::empty().unwrap();
    cluster.add(release, &[&RESOLVER[..], &["--live-restore"]].concat(), &[]).unwrap();
    cluster.add(release, &RESOLVER, &[]).unwrap();
    cluster.wait_ready().unwrap();
    let DockerCluster { nodes, etcd, wire } = &mut cluster;
    create(&nodes[0], NET, &["--subnet", SUBNET]);
    has(&nodes[1], NET, SUBNET);
    nodes[0].docker.idle("left", NET, &[]).unwrap();
    nodes[1].docker.idle("right", NET, &[]).unwrap();
    nodes[1].docker.run("web", NET, &["--restart", "always"], &SERVE).unwrap();
    can(&nodes[0], "left", "timeout 5 wget -q -O /dev/null http://web");
    let traffic = Traffic::between(&nodes[0], &nodes[1]);

    traffic.is_not_disturbed("overlayd kill -9", || {
        for node in nodes.iter_mut() {
            node.node.kill().unwrap();
        }
        thread::sleep(Duration::from_secs(1));
        for node in nodes.iter_mut() {
            node.launch_overlayd().unwrap();
        }
        for node in nodes.iter() {
            node.wait_ready().unwrap();
        }
    });
    // It knows again who is who.
    can(&nodes[0], "left", "timeout 5 wget -q -O /dev/null http://web");
    assert_eq!(once(&nodes[0], NET, &[], "timeout 5 wget -q -O- http://web").unwrap(), "it works");

    traffic.is_not_disturbed("dockerd kill -9 with live-restore", || {
        nodes[0].docker.kill().unwrap();
        thread::sleep(Duration::from_secs(1));
        nodes[0].docker.launch().unwrap();
        nodes[0].docker.wait_ready().unwrap();
        nodes[0].docker.exec("left", "true").unwrap();
    });
    can(&nodes[0], "left", "timeout 5 wget -q -O /dev/null http://web");
    nodes[0].docker.idle("late", NET, &[]).unwrap();
    can(&nodes[1], "right", "ping -c1 -W1 late");
    nodes[0].docker.docker(&["rm", "-f", "late"]).unwrap();
    has_endpoints(&nodes[0], NET, 3);

    traffic.is_not_disturbed("etcd killed", || {
        etcd.kill();
        let begun = Instant::now();
        let said = nodes[0].docker.refused(&["run", "--rm", "--network", NET, "box", "true"]).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(12), "{:?}: {said}", begun.elapsed());
        assert!(said.contains("etcd"), "{said}");
        eprintln!("without etcd, after {:?}: {}", begun.elapsed(), said.trim());
        // Those that run go on, with their names.
        nodes[0].docker.exec("left", "timeout 5 wget -q -O /dev/null http://web").unwrap();
        etcd.restart(wire).unwrap();
        for node in nodes.iter() {
            node.wait_ready().unwrap();
        }
    });
    eventually(HEARD, || once(&nodes[0], NET, &[], "timeout 5 wget -q -O- http://web")).unwrap();
    drop(traffic);

    // Without live-restore containers end when their dockerd comes back, and begin anew if they are to.
    nodes[1].docker.kill().unwrap();
    can(&nodes[0], "left", "timeout 5 wget -q -O /dev/null http://web");
    nodes[1].docker.launch().unwrap();
    nodes[1].docker.wait_ready().unwrap();
    can(&nodes[0], "left", "timeout 5 wget -q -O /dev/null http://web");
    has_endpoints(&nodes[0], NET, 2);
    nodes[1].docker.docker(&["start", "right"]).unwrap();
    can(&nodes[0], "left", "ping -c1 -W1 right");

    // Stopped in order, with containers that come back by themselves.
    nodes[1].docker.stop().unwrap();
    has_endpoints(&nodes[0], NET, 1);
    nodes[1].docker.launch().unwrap();
    nodes[1].docker.wait_ready().unwrap();
    can(&nodes[0], "left", "timeout 5 wget -q -O /dev/null http://web");
    has_endpoints(&nodes[0], NET, 2);
}

#[test]
fn killed_daemons_and_a_store_that_is_away_cost_no_packet() {
    survives(Release::Newest);
}

#[test]
#[ignore = "the same with Docker 20.10: cargo xtask test --full"]
fn killed_daemons_and_a_store_that_is_away_cost_docker_20_10_no_packet() {
    survives(Release::V20_10);
}

/// A host that boots: namespaces, interfaces, programs and all that was in memory are gone.
fn boots(release: Release) {
    let mut cluster = DockerCluster::start(&[release; 2], &RESOLVER).unwrap();
    let nodes = &mut cluster.nodes;
    create(&nodes[0], NET, &["--subnet", SUBNET]);
    has(&nodes[1], NET, SUBNET);
    nodes[0].docker.idle("left", NET, &[]).unwrap();
    nodes[1].docker.run("web", NET, &["--restart", "always"], &SERVE).unwrap();
    nodes[1].docker.idle("right", NET, &[]).unwrap();
    can(&nodes[0], "left", "ping -c1 -W1 right");

    nodes[1].boot().unwrap();
    nodes[1].wait_ready().unwrap();
    has(&nodes[1], NET, SUBNET);
    // What restarts by itself is there again, under its name; what does not is nowhere.
    can(&nodes[0], "left", "timeout 5 wget -q -O /dev/null http://web");
    has_endpoints(&nodes[0], NET, 2);
    nodes[1].docker.docker(&["start", "right"]).unwrap();
    can(&nodes[0], "left", "ping -c1 -W1 right");
    eventually(HEARD, || {
        let findings = nodes[1].node.doctor(&[])?;
        ensure!(findings.is_empty(), "{findings:?}");
        Ok(())
    })
    .unwrap();
}

#[test]
#[ignore = "boots a host with each Docker: cargo xtask test --full"]
fn a_host_that_boots_has_its_networks_and_containers_again() {
    Release::ALL.into_iter().for_each(boots);
}

#[test]
#[ignore = "wipes the store under Docker: cargo xtask test --full"]
fn a_wiped_store_takes_no_network_from_docker() {
    let cluster = DockerCluster::start(&[Release::Newest; 2], &RESOLVER).unwrap();
    let nodes = &cluster.nodes;
    create(&nodes[0], NET, &["--subnet", SUBNET]);
    has(&nodes[1], NET, SUBNET);
    nodes[0].docker.idle("left", NET, &[]).unwrap();
    nodes[1].docker.idle("right", NET, &[]).unwrap();
    let traffic = Traffic::between(&nodes[0], &nodes[1]);
    traffic.is_not_disturbed("etcd wiped", || {
        Etcd::ctl(&cluster.wire, &["del", "--prefix", "/overlay/"]).unwrap();
        eventually(Duration::from_secs(40), || {
            let state = nodes[0].node.status()?["store"]["state"].clone();
            ensure!(state == "frozen", "{state}");
            Ok(())
        })
        .unwrap();
        thread::sleep(Duration::from_secs(3));
    });
    for node in nodes {
        has(node, NET, SUBNET);
    }
    nodes[0].docker.exec("left", "ping -c1 -W1 right").unwrap();
}

#[test]
#[ignore = "Docker waits for overlayd for minutes: cargo xtask test --full"]
fn what_docker_does_while_overlayd_is_away_is_made_up_for() {
    let mut cluster = DockerCluster::start(&[Release::Newest; 2], &RESOLVER).unwrap();
    let nodes = &mut cluster.nodes;
    create(&nodes[0], NET, &["--subnet", SUBNET]);
    has(&nodes[1], NET, SUBNET);
    nodes[0].docker.idle("left", NET, &[]).unwrap();
    nodes[1].docker.idle("right", NET, &[]).unwrap();
    let traffic = Traffic::between(&nodes[0], &nodes[1]);
    let timed = |what: &str, begun: Instant| eprintln!("{what} without overlayd took {:?}", begun.elapsed());
    traffic.is_not_disturbed("docker run without overlayd", || {
        nodes[0].node.kill().unwrap();
        let begun = Instant::now();
        let said = nodes[0].docker.refused(&["run", "--rm", "--network", NET, "box", "true"]).unwrap();
        timed("docker run", begun);
        assert!(begun.elapsed() < Duration::from_mins(1), "{:?}: {said}", begun.elapsed());
        assert!(said.contains("overlayd"), "{said}");
    });
    drop(traffic);
    nodes[1].docker.docker(&["rm", "-f", "right"]).unwrap();
    for (what, line) in
        [("docker rm -f", &["rm", "-f", "left"][..]), ("docker network rm", &["network", "rm", NET])]
    {
        let begun = Instant::now();
        nodes[0].docker.docker(line).unwrap();
        timed(what, begun);
        assert!(begun.elapsed() < Duration::from_mins(2), "{what}: {:?}", begun.elapsed());
    }
    has(&nodes[1], NET, SUBNET);
    nodes[0].launch_overlayd().unwrap();
    nodes[0].wait_ready().unwrap();
    // An interface that Docker has moved out of a container may be on its way for so long.
    eventually(Duration::from_mins(2), || {
        let listed = nodes[1].node.json(&["network", "ls"])?.to_string();
        ensure!(!listed.contains(NET), "{listed}");
        Ok(())
    })
    .unwrap();
    for node in nodes.iter() {
        has_not(node, NET);
        has_endpoints(node, NET, 0);
    }
}
