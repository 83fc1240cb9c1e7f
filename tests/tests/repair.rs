//! What somebody else changes in the kernel: `overlayctl doctor` names it, and it is repaired.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{
    fs,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use overlay_tests::{
    cluster::{Cluster, Network},
    container::Container,
    exec::{self, eventually},
    node::{
        Datapath::{self, Kernel, Tc, Xdp},
        Node,
    },
    probe::{ping_all, reach},
    wire::{Card, UPLINK},
};
use serde_json::Value;

const BLUE: Network<'_> = Network { name: "blue", vni: 4242, subnet: "10.1.0.0/24" };

/// Seconds after which the daemon looks by itself: when a test is over.
const LATER: &str = "600";

/// The kernel's devices of network blue.
const VXLAN: &str = "ovv1092";
const BRIDGE: &str = "ovb1092";

/// Two nodes with a container each; what is broken is the first's.
struct Scene {
    cluster: Cluster,
    containers: Vec<Container>,
}

/// Something that somebody else does, and what the doctor then says.
type Damage = (&'static str, fn(&Scene) -> Result<()>, &'static str);

impl Scene {
    fn new(datapath: Datapath, verify_every: &str) -> Self {
        let mut cluster = Cluster::empty().unwrap();
        for name in ["n1", "n2"] {
            cluster.add(name, Card::Veth, datapath, &["--verify-every", verify_every]).unwrap();
        }
        cluster.wait_ready().unwrap();
        cluster.create_network(BLUE).unwrap();
        // An address of which the MAC address is not made has rows of its own.
        let attach = |(node, more): (usize, &[&str])| {
            let node = &cluster.nodes[node];
            Container::attach(node, BLUE.name, node.name(), more).unwrap()
        };
        let containers = [(0, &["--mac", "02:00:00:00:00:01"][..]), (1, &[])].map(attach).into();
        let scene = Self { cluster, containers };
        scene.forwards();
        for node in &scene.cluster.nodes {
            assert_eq!(node.doctor(&[]).unwrap(), []);
        }
        scene
    }

    fn node(&self) -> &Node {
        &self.cluster.nodes[0]
    }

    /// The host's end of the first container's interface.
    fn device(&self) -> &str {
        &self.containers[0].host_device
    }

    fn exec(&self, line: &str) -> Result<()> {
        self.node().netns().exec(line).map(drop)
    }

    fn forwards(&self) {
        ping_all(&self.containers[0], &self.containers[1]).unwrap();
        ping_all(&self.containers[1], &self.containers[0]).unwrap();
    }

    /// Does damage, has it named, repaired and named no longer.
    fn heals(&self, (what, damage, says): Damage) {
        damage(self).with_context(|| what.to_owned()).unwrap();
        let findings = self.node().doctor(&[]).unwrap();
        assert!(findings.iter().any(|finding| finding.what.contains(says)), "{what}: {findings:?}");
        let left = self.node().doctor(&["--fix"]).unwrap();
        assert_eq!(left, [], "{what}");
        self.forwards();
        assert_eq!(self.node().doctor(&[]).unwrap(), [], "{what}");
    }

    fn pin(&self, name: &str) -> String {
        self.node().bpffs().join("v1").join(name).to_string_lossy().into_owned()
    }

    /// The keys and values of a map as `bpftool` has them: bytes.
    fn rows(&self, map: &str) -> Result<Vec<(String, usize)>> {
        let listed = self.node().netns().exec(&format!("bpftool -j map dump pinned {}", self.pin(map)))?;
        let rows: Vec<Value> = serde_json::from_str(&listed)?;
        let hex = |bytes: &Value| -> Vec<String> {
            let bytes = bytes.as_array().into_iter().flatten();
            bytes.filter_map(|byte| Some(byte.as_str()?.trim_start_matches("0x").to_owned())).collect()
        };
        Ok(rows.iter().map(|row| (hex(&row["key"]).join(" "), hex(&row["value"]).len())).collect())
    }

    /// Deletes every row of a map.
    fn empty(&self, map: &str) -> Result<()> {
        for (key, _) in self.rows(map)? {
            self.exec(&format!("bpftool map delete pinned {} key hex {key}", self.pin(map)))?;
        }
        Ok(())
    }

    /// Writes zeros over every row of a map that has fewer than a thousand, over the first few of others.
    fn zero(&self, map: &str) -> Result<()> {
        for (key, length) in self.rows(map)?.into_iter().take(4) {
            let value = vec!["00"; length].join(" ");
            self.exec(&format!(
                "bpftool map update pinned {} key hex {key} value hex {value}",
                self.pin(map)
            ))?;
        }
        Ok(())
    }

    /// Detaches the link of a program to an interface of the node.
    fn detach_link(&self, program: &str, device: &str) -> Result<()> {
        let link = self.link(program, device)?;
        exec::output(std::process::Command::new("bpftool").args(["link", "detach", "pinned", &link]))
            .map(drop)
    }

    fn link(&self, program: &str, device: &str) -> Result<String> {
        let ifindex = self.node().netns().ifindex(device)?;
        Ok(self.pin(&format!("links/{program}-{ifindex}")))
    }
}

const MAPS: [Damage; 12] = [
    ("endpoints emptied", |s| s.empty("endpoints"), "map endpoints: network blue, endpoint "),
    ("neighbours emptied", |s| s.empty("neighbours"), "map neighbours: network blue, address 10.1.0."),
    ("members emptied", |s| s.empty("members"), "map members: network blue, node at "),
    ("vtep_addrs emptied", |s| s.empty("vtep_addrs"), "map vtep_addrs: tunnel address "),
    ("networks emptied", |s| s.empty("networks"), "map networks: network blue is missing"),
    ("ports emptied", |s| s.empty("ports"), "map ports: interface ov"),
    ("flood_vteps emptied", |s| s.empty("flood_vteps"), "map flood_vteps: network blue, broadcast to node 0"),
    (
        "flood_ports emptied",
        |s| s.empty("flood_ports"),
        "map flood_ports: network blue, broadcast to interface 0",
    ),
    ("slow_devices emptied", |s| s.empty("slow_devices"), "map slow_devices: interface ovv1092 is missing"),
    ("bum_buckets emptied", |s| s.empty("bum_buckets"), "map bum_buckets: network blue is missing"),
    ("vteps zeroed", |s| s.zero("vteps"), "map vteps: node n2 is missing"),
    ("config zeroed", |s| s.zero("config"), "map config: this node's address and settings is missing"),
];

/// Two of [`OBJECTS`] that are found by reading everything.
const UNASKED: [&str; 2] = ["a row that nobody asked for", "the slow path's FDB emptied"];

const OBJECTS: [Damage; 10] = [
    (
        UNASKED[0],
        |s| {
            let (map, value) = (s.pin("neighbours"), "02 00 00 00 00 01 00 00");
            let key = "92 10 00 00 00 00 00 00 00 00 00 00 00 00 ff ff 0a 01 00 63";
            s.exec(&format!("bpftool map update pinned {map} key hex {key} value hex {value}"))
        },
        "map neighbours: network blue, address 10.1.0.99 should not be there",
    ),
    ("a map's pin removed", |s| Ok(fs::remove_file(s.pin("endpoints"))?), "pins: map endpoints"),
    (
        "a program's pin removed",
        |s| Ok(fs::remove_file(s.pin("programs/endpoint_in"))?),
        "pins: program endpoint_in",
    ),
    ("the uplink's link detached", |s| s.detach_link("uplink_in", UPLINK), "program uplink_in is missing"),
    (
        "the endpoint's link detached",
        |s| s.detach_link("endpoint_in", s.device()),
        "program endpoint_in is missing",
    ),
    (
        "a link's pin removed",
        |s| Ok(fs::remove_file(s.link("uplink_in", UPLINK)?)?),
        "program uplink_in is missing",
    ),
    (
        "the slow path's device deleted",
        |s| s.exec("ip link del ovv1092"),
        "the VXLAN device of VNI 4242 is missing",
    ),
    ("the slow path's device down", |s| s.exec("ip link set ovv1092 down"), "ovv1092: that it is set up"),
    (
        UNASKED[1],
        |s| s.exec(&format!("bridge fdb del {} dev {VXLAN}", s.containers[1].mac)),
        "FDB of ovv1092: ",
    ),
    (
        "the endpoint's interface down",
        |s| s.exec(&format!("ip link set {} down", s.device())),
        "that it is set up",
    ),
];

const KERNEL: [Damage; 11] = [
    (
        "a row of the VXLAN device's FDB deleted",
        |s| s.exec(&format!("bridge fdb del {} dev {VXLAN} self", s.containers[1].mac)),
        "FDB of ovv1092: 02:42:0a:01:00:",
    ),
    (
        "a row to a wrong node",
        |s| s.exec(&format!("bridge fdb replace {} dev {VXLAN} self dst 10.99.0.77", s.containers[1].mac)),
        "to 10.99.0.77 should not be there",
    ),
    (
        "broadcasts to a wrong node",
        |s| s.exec(&format!("bridge fdb append 00:00:00:00:00:00 dev {VXLAN} self dst 10.99.0.77")),
        "FDB of ovv1092: broadcasts to 10.99.0.77 should not be there",
    ),
    (
        "a row of the bridge's FDB deleted",
        |s| s.exec(&format!("bridge fdb del {} dev {} master", s.containers[0].mac, s.device())),
        "FDB of ovb1092: ",
    ),
    (
        "a neighbour deleted",
        |s| s.exec(&format!("ip neighbour del {} dev {BRIDGE}", s.containers[1].addr)),
        "neighbours of ovb1092: 10.1.0.",
    ),
    ("the guard flushed", |s| s.exec("nft flush table netdev overlay_guard"), "table overlay_guard"),
    ("the guard deleted", |s| s.exec("nft delete table netdev overlay_guard"), "table overlay_guard"),
    (
        "the VXLAN device deleted",
        |s| s.exec("ip link del ovv1092"),
        "the VXLAN device of VNI 4242 is missing",
    ),
    ("the bridge deleted", |s| s.exec("ip link del ovb1092"), "the bridge of VNI 4242 is missing"),
    ("the bridge down", |s| s.exec("ip link set ovb1092 down"), "ovb1092: that it is set up"),
    (
        "a port taken out of its bridge",
        |s| s.exec(&format!("ip link set {} nomaster", s.device())),
        ": its bridge is not as planned",
    ),
];

#[test]
fn every_map_is_compared_row_by_row_and_repaired() {
    let scene = Scene::new(Tc, LATER);
    for damage in MAPS {
        scene.heals(damage);
    }
}

#[test]
fn programs_pins_and_devices_are_compared_and_repaired() {
    let scene = Scene::new(Tc, LATER);
    for damage in OBJECTS {
        scene.heals(damage);
    }
}

#[test]
fn xdp_that_is_detached_comes_back() {
    let scene = Scene::new(Xdp, LATER);
    scene.heals((
        "XDP detached",
        |s| s.detach_link("uplink_xdp", UPLINK),
        "interface eth0: program uplink_xdp is missing",
    ));
    scene.heals((
        "XDP unpinned",
        |s| Ok(fs::remove_file(s.link("uplink_xdp", UPLINK)?)?),
        "interface eth0: program uplink_xdp is missing",
    ));
}

#[test]
fn the_kernels_own_objects_are_compared_and_repaired() {
    let scene = Scene::new(Kernel, LATER);
    for damage in KERNEL {
        scene.heals(damage);
    }
}

/// Without anybody asking, by the comparison that runs anyway.
#[test]
fn what_somebody_else_changed_is_repaired_in_the_background() {
    for datapath in [Tc, Kernel] {
        let scene = Scene::new(datapath, "2");
        if datapath == Kernel {
            scene.exec(&format!("bridge fdb del {} dev {VXLAN} self", scene.containers[1].mac)).unwrap();
            scene.exec("nft flush table netdev overlay_guard").unwrap();
        } else {
            for map in ["endpoints", "neighbours"] {
                scene.empty(map).unwrap();
            }
            scene.zero("vteps").unwrap();
            scene.detach_link("uplink_in", UPLINK).unwrap();
            for (what, damage, _) in OBJECTS.iter().filter(|(what, ..)| UNASKED.contains(what)) {
                damage(&scene).context(*what).unwrap();
            }
        }
        eventually(Duration::from_mins(1), || {
            reach(&scene.containers[0], &scene.containers[1])?;
            let findings = scene.node().doctor(&[])?;
            ensure!(findings.is_empty(), "{findings:?}");
            Ok(())
        })
        .unwrap();
        scene.forwards();
        assert!(scene.node().log().contains("repaired what somebody else changed"), "{}", scene.node().log());
    }
}

/// What is compared and what is changed at the same time is told apart.
#[test]
fn changes_are_not_taken_for_damage() {
    let scene = Scene::new(Tc, "1");
    let node = scene.node();
    node.ctl(&["node", "add-static", "other", "--vtep", "10.99.0.77"]).unwrap();
    let end = Instant::now() + Duration::from_secs(5);
    let taken: Vec<_> = scene.containers.iter().map(|container| container.addr).collect();
    // An address rests before another may have it.
    let addresses = (2..250).map(|n| Ipv4Addr::new(10, 1, 0, n)).filter(|addr| !taken.contains(addr));
    for addr in addresses.take_while(|_| Instant::now() < end) {
        let place = ["endpoint", "add-static", BLUE.name, "--node", "other", "--name", "other1"];
        node.ctl(&[&place[..], &["--mac", "02:00:00:00:07:07", "--ip", &addr.to_string()]].concat()).unwrap();
        node.ctl(&["endpoint", "detach", "other1"]).unwrap();
    }
    assert!(!node.log().contains("repaired"), "{}", node.log());
    assert_eq!(node.doctor(&[]).unwrap(), []);
}
