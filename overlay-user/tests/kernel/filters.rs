//! Programs as filters of clsact, as on kernels without tcx links.

use std::time::Duration;

use overlay_user::datapath::{
    Datapath as _, Mode, Underlay,
    ebpf::{self, EbpfDatapath, Features, Options},
};

use crate::{
    cluster::{Cluster, id, pings},
    ebpf_datapath::{Bpffs, programs},
    netns::Netns,
};

/// Settings as on a kernel without tcx links.
fn options(bpffs: &Bpffs) -> Options {
    Options { features: Features { tcx: false, ..Features::probe() }, ..bpffs.options() }
}

/// A node with two containers.
struct Running {
    cluster: Cluster,
    containers: [Netns; 2],
    underlay: Underlay,
    bpffs: Bpffs,
}

impl Running {
    fn start(label: &str) -> Self {
        let mut cluster = Cluster::new(1);
        let containers = [cluster.attach(0, 1), cluster.attach(0, 2)];
        let underlay = cluster.underlay(0);
        let running = Self { cluster, containers, underlay, bpffs: Bpffs::new(label) };
        running.apply();
        running
    }

    fn node(&self) -> &Netns {
        &self.cluster.nodes[0].netns
    }

    /// A daemon's life: it starts, brings the node to the plan, and ends.
    fn apply(&self) {
        let plan = self.cluster.plan(0);
        self.node().run(async || {
            let mut datapath = EbpfDatapath::start(options(&self.bpffs), Mode::Tc, &self.underlay).unwrap();
            let applied = datapath.apply(&plan, &self.underlay).await.unwrap();
            assert_eq!(applied.problems, Vec::<String>::new());
        });
    }

    fn purge(&self) {
        self.node().run(async || ebpf::remove(&self.bpffs.0).await.unwrap());
    }
}

/// Ids of the programs of BPF filters on a device's ingress.
fn filters(node: &Netns, device: &str) -> Vec<u64> {
    let listed = node.exec(&format!("tc -json filter show dev {device} ingress"));
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON of tc");
    let filters = listed.as_array().expect("a list of filters").iter();
    filters.filter_map(|filter| filter["options"]["prog"]["id"].as_u64()).collect()
}

#[test]
fn a_daemon_that_takes_over_loses_no_packet() {
    let running = Running::start("takeover");
    let device = id(1).host_device();
    assert_eq!(programs(running.node(), "eth0"), Vec::<String>::new(), "tcx was used after all");
    let before = (filters(running.node(), "eth0"), filters(running.node(), &device));
    assert_eq!((before.0.len(), before.1.len()), (1, 1));

    let packets = 400;
    let ping = format!("ping -q -c {packets} -i 0.005 -W 1 10.0.9.2");
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| running.containers[0].exec(&ping));
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(300));
            running.apply();
        }
        let said = flood.join().expect("ping ran");
        assert!(said.contains(&format!("{packets} received")), "{said}");
    });
    let after = (filters(running.node(), "eth0"), filters(running.node(), &device));
    assert_eq!((after.0.len(), after.1.len()), (1, 1), "a filter of a former daemon is left");
    assert!(before.0 != after.0 && before.1 != after.1, "the daemon runs another's program");
}

#[test]
fn filters_of_others_run_and_stay() {
    let running = Running::start("others");
    let node = running.node();
    // One of another kind at the priority that ours would take, and one behind ours.
    running.purge();
    assert_eq!(filters(node, "eth0"), Vec::<u64>::new());
    node.exec("tc filter add dev eth0 ingress protocol all prio 1 u32 match u32 0x5a5a5a5a 0xffffffff");
    node.exec("tc filter add dev eth0 ingress protocol all prio 9 u32 match u32 0x5a5a5a5a 0xffffffff");
    running.apply();
    running.apply();
    assert_eq!(filters(node, "eth0").len(), 1);
    assert!(pings(&running.containers[0], 2));

    let theirs = || node.exec("tc filter show dev eth0 ingress").matches("order 2048").count();
    assert_eq!(theirs(), 2);
    running.purge();
    assert_eq!((filters(node, "eth0"), theirs()), (Vec::new(), 2));
    assert!(!running.bpffs.0.join("v1").exists());
}

#[test]
fn a_filter_that_somebody_removes_comes_back() {
    let running = Running::start("removed");
    let node = running.node();
    node.exec("tc qdisc del dev eth0 clsact");
    assert_eq!(filters(node, "eth0"), Vec::<u64>::new());
    running.apply();
    assert_eq!(filters(node, "eth0").len(), 1);
    assert!(pings(&running.containers[0], 2));
}
