//! The BPF data path: what it leaves on interfaces when endpoints, daemons and uplinks go.

use std::{path::PathBuf, time::Duration};

use aya::programs::{SchedClassifier, TcAttachType};
use overlay_user::{
    datapath::{
        Counters, Datapath as _, Mode, Underlay,
        ebpf::{self, EbpfDatapath, Features, Options, SCHEMA},
    },
    plan::Plan,
};

use crate::{
    cluster::{Cluster, VNI, id, pings},
    netns::Netns,
};

/// A directory for pins, gone with all that is in it when dropped.
pub struct Bpffs(pub PathBuf);

impl Bpffs {
    pub fn new(label: &str) -> Self {
        Self(PathBuf::from(format!("/sys/fs/bpf/ovt{}-{label}", std::process::id())))
    }

    pub fn options(&self) -> Options {
        Options {
            bpffs: self.0.clone(),
            max_endpoints: 64,
            verify_every: Duration::from_secs(30),
            ignore_reserved_bits: false,
            features: Features::probe(),
            schema: SCHEMA,
        }
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Brings a node to a plan, by a daemon that starts for it and ends after it.
fn apply_once(node: &Netns, bpffs: &Bpffs, mode: Mode, underlay: &Underlay, plan: &Plan) {
    node.run(async || {
        let mut datapath = EbpfDatapath::start(bpffs.options(), mode, underlay).unwrap();
        let applied = datapath.apply(plan, underlay).await.unwrap();
        assert_eq!(applied.problems, Vec::<String>::new());
    });
}

/// The programs on an interface: of tcx by name, and the XDP program.
pub fn programs(node: &Netns, device: &str) -> Vec<String> {
    let (_, tcx) = node
        .run(async || SchedClassifier::query_tcx(device, TcAttachType::Ingress))
        .expect("ask for programs");
    let names = tcx.iter().map(|program| program.name_as_str().unwrap_or("?").to_owned());
    let xdp = node.ip(&format!("link show {device}")).contains("prog/xdp").then(|| "xdp".to_owned());
    names.chain(xdp).collect()
}

/// Whether an interface loses all programs: the kernel lets go of a link some time after its pin.
fn becomes_bare(node: &Netns, device: &str) -> bool {
    (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        programs(node, device).is_empty()
    })
}

fn is_up(node: &Netns, device: &str) -> bool {
    node.ip(&format!("link show {device}")).contains(",UP")
}

#[test]
fn an_endpoint_that_is_withdrawn_does_not_reach_the_host() {
    let mut cluster = Cluster::new(1);
    let (one, two) = (cluster.attach(0, 1), cluster.attach(0, 2));
    let (plan, underlay) = (cluster.plan(0), cluster.underlay(0));
    let node = &cluster.nodes[0].netns;
    let bpffs = Bpffs::new("withdrawn");
    node.run(async || {
        let mut datapath = EbpfDatapath::start(bpffs.options(), Mode::Tc, &underlay).unwrap();
        datapath.apply(&plan, &underlay).await.unwrap();
        assert!(pings(&one, 2) && pings(&two, 1));
        datapath.apply(&Plan::default(), &underlay).await.unwrap();
    });

    // The host would answer, and the container knows by which MAC address.
    let device = id(1).host_device();
    let mac = node.exec(&format!("cat /sys/class/net/{device}/address"));
    if is_up(node, &device) {
        node.ip(&format!("route add 10.0.9.1/32 dev {device}"));
        node.ip(&format!("neigh add 10.0.9.1 lladdr {} dev {device}", crate::cluster::mac(1)));
    }
    one.ip("route add 192.0.2.1/32 dev eth0");
    one.ip(&format!("neigh add 192.0.2.1 lladdr {} dev eth0", mac.trim()));
    assert!(!one.succeeds("ping -q -c 2 -i 0.05 -W 0.5 192.0.2.1"));

    // It is no more than withdrawn.
    apply_once(node, &bpffs, Mode::Tc, &underlay, &plan);
    assert!(pings(&one, 2));
}

#[test]
fn an_interface_that_is_gone_leaves_no_pin() {
    let mut cluster = Cluster::new(1);
    let (_one, two) = (cluster.attach(0, 1), cluster.attach(0, 2));
    let (plan, underlay) = (cluster.plan(0), cluster.underlay(0));
    let node = &cluster.nodes[0].netns;
    let bpffs = Bpffs::new("gone");
    let pins = || {
        let pins = std::fs::read_dir(bpffs.0.join("v1/links")).unwrap();
        let names = pins.map(|pin| pin.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("endpoint_in-")).count()
    };
    apply_once(node, &bpffs, Mode::Tc, &underlay, &plan);
    assert_eq!(pins(), 2);
    two.ip("link del eth0");
    node.run(async || {
        let mut datapath = EbpfDatapath::start(bpffs.options(), Mode::Tc, &underlay).unwrap();
        datapath.apply(&plan, &underlay).await.unwrap();
    });
    assert_eq!(pins(), 1);
}

#[test]
fn every_copy_of_a_broadcast_counts_for_its_receiver() {
    let mut cluster = Cluster::new(2);
    let containers = [cluster.attach(0, 1), cluster.attach(0, 2), cluster.attach(1, 3)];
    let plans = [cluster.plan(0), cluster.plan(1)];
    let underlays = [cluster.underlay(0), cluster.underlay(1)];
    let bpffs = [Bpffs::new("copies0"), Bpffs::new("copies1")];
    let mut datapaths = Vec::new();
    for (n, node) in cluster.nodes.iter().enumerate() {
        datapaths.push(node.netns.run(async || {
            let mut datapath = EbpfDatapath::start(bpffs[n].options(), Mode::Tc, &underlays[n]).unwrap();
            datapath.apply(&plans[n], &underlays[n]).await.unwrap();
            datapath
        }));
    }
    let mut counters = |n: usize| {
        let datapath = &mut datapaths[n];
        cluster.nodes[n].netns.run(async || datapath.counters().await.unwrap())
    };
    let before = [counters(0), counters(1)];
    // By the kernel's device, which learns of the other node by itself.
    containers[0].succeeds("ping -q -b -c 1 -W 0.3 -s 1000 10.0.9.255");
    let after = [counters(0), counters(1)];
    for (node, number) in [(0, 2), (1, 3)] {
        let bytes = |counters: &Counters| counters.endpoints[&id(number)].rx.bytes;
        assert_eq!(bytes(&after[node]) - bytes(&before[node]), 1042, "endpoint {number}");
    }
    let from_peer = |counters: &Counters| counters.peers[&"node0".parse().unwrap()].tx.bytes;
    assert_eq!(from_peer(&after[1]) - from_peer(&before[1]), 1042);
}

#[test]
fn a_data_path_that_leaves_cuts_off_what_it_guarded() {
    let mut cluster = Cluster::new(2);
    let (one, _two) = (cluster.attach(0, 1), cluster.attach(1, 2));
    let (plan, underlay) = (cluster.plan(0), cluster.underlay(0));
    let node = &cluster.nodes[0].netns;
    let bpffs = Bpffs::new("leaves");
    apply_once(node, &bpffs, Mode::Xdp, &underlay, &plan);
    let (endpoint, vxlan) = (id(1).host_device(), format!("ovv{VNI:x}"));
    assert!(is_up(node, &endpoint) && is_up(node, &vxlan));

    for _ in 0..2 {
        node.run(async || ebpf::leave(&bpffs.0).await.unwrap());
    }
    for device in ["eth0", &endpoint, &vxlan] {
        assert!(becomes_bare(node, device), "{device}: {:?}", programs(node, device));
    }
    assert!(is_up(node, "eth0") && !is_up(node, &endpoint) && !is_up(node, &vxlan));
    assert!(!pings(&one, 2));
    assert!(!bpffs.0.join("v1").exists());
}

#[test]
fn a_link_that_was_adopted_is_let_go_of() {
    let mut cluster = Cluster::new(2);
    let (_one, _two) = (cluster.attach(0, 1), cluster.attach(1, 2));
    let (plan, underlay) = (cluster.plan(0), cluster.underlay(0));
    let node = &cluster.nodes[0].netns;
    let bpffs = Bpffs::new("adopted");
    apply_once(node, &bpffs, Mode::Xdp, &underlay, &plan);
    let both = ["uplink_in", "xdp"];
    assert_eq!(programs(node, "eth0"), both);

    // The next daemon takes the links over, and then the tunnel moves to another interface.
    node.ip("link add eth1 type veth peer name wire1");
    node.ip("link set eth1 up");
    let ifindex = node.exec("cat /sys/class/net/eth1/ifindex").trim().parse().unwrap();
    let moved = Underlay { ifindex, name: "eth1".into(), ..underlay.clone() };
    node.run(async || {
        let mut datapath = EbpfDatapath::start(bpffs.options(), Mode::Xdp, &underlay).unwrap();
        datapath.apply(&plan, &underlay).await.unwrap();
        assert_eq!(programs(node, "eth0"), both);
        datapath.apply(&plan, &moved).await.unwrap();
        assert!(becomes_bare(node, "eth0"), "{:?}", programs(node, "eth0"));
        assert_eq!(programs(node, "eth1"), both);
    });
}
