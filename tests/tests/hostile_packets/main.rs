//! Packets no honest sender makes, at the uplink and from a container: each is counted under the name
//! of what is wrong with it, none is delivered, and every packet is accounted for.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

mod checksums;
mod forgeries;
mod scene;

use std::{
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

use anyhow::{Result, ensure};
use overlay_ebpf::abi::VXLAN_PORT;
use overlay_tests::{
    capture::PacketSocket,
    container::IFNAME,
    exec::eventually,
    frame::{Station, Vxlan, offset, udp},
    node::Datapath::{self, Kernel, Tc, Xdp},
    probe::{ping, ping_all},
};

use crate::{
    forgeries::{ByTheKernel, FORGERIES, cut, put},
    scene::{BLUE, MARKER, SOON, Scene, accounted, station, uplink},
};

/// What happened to everything hostile, at a node with the given data path.
fn hostile_packets_at(datapath: Datapath) {
    let scene = Scene::new(datapath);
    let good = scene.packet(&scene.inner());
    scene.wire.send(&good).unwrap();
    assert!(scene.delivered(SOON), "the packet that all forgeries are made from is not delivered itself");

    let failures: Vec<_> = FORGERIES
        .iter()
        .filter_map(|forgery| {
            let frame = (forgery.forge)(&scene, good.clone());
            let result = match (datapath, forgery.by_the_kernel) {
                (Kernel, ByTheKernel::Counted(outcome)) => {
                    scene.refused(forgery.what, &frame, "uplink", outcome)
                }
                (Kernel, ByTheKernel::Unseen) => not_seen(&scene, forgery.what, &frame),
                (Kernel, ByTheKernel::Delivered) => taken_for_good(&scene, forgery.what, &frame),
                _ => scene.refused(forgery.what, &frame, "uplink", forgery.outcome),
            };
            result.err()
        })
        .map(|error| format!("{error:#}\n"))
        .collect();
    assert!(failures.is_empty(), "{}", failures.concat());

    // No harm done.
    ping_all(&scene.peer, &scene.victim).unwrap();
    assert_eq!(scene.node().status().unwrap()["health"], "healthy");
    accounted(scene.node()).unwrap();
}

/// Sends a packet that must be neither counted nor delivered, often enough to tell it from what the
/// containers' own kernels send now and then.
fn not_seen(scene: &Scene, what: &str, frame: &[u8]) -> Result<()> {
    const TIMES: u64 = 50;
    let received = scene.node().counter("uplink", "received")?;
    for _ in 0..TIMES {
        scene.wire.send(frame)?;
    }
    ensure!(!scene.delivered(Duration::from_millis(100)), "{what}: delivered");
    let counted = scene.node().counter("uplink", "received")? - received;
    ensure!(counted < TIMES, "{what}: {counted} counted, {TIMES} sent");
    Ok(())
}

/// Sends a packet that is delivered, as ARCHITECTURE.md says of the kernel data path.
fn taken_for_good(scene: &Scene, what: &str, frame: &[u8]) -> Result<()> {
    scene.counted(what, frame, "uplink", "delivered")?;
    ensure!(scene.delivered(SOON), "{what}: not delivered, though ARCHITECTURE.md says it is");
    Ok(())
}

#[test]
fn xdp_counts_hostile_packets_by_name_and_delivers_none() {
    hostile_packets_at(Xdp);
}

#[test]
fn tc_counts_hostile_packets_by_name_and_delivers_none() {
    hostile_packets_at(Tc);
}

#[test]
fn the_kernel_data_path_counts_hostile_packets_by_name_and_delivers_no_forged_sender() {
    hostile_packets_at(Kernel);
}

#[test]
fn reserved_bits_are_ignored_where_that_is_asked_for() {
    for datapath in [Xdp, Tc] {
        let scene = Scene::with(datapath, &["--reserved-bits", "ignore"]);
        let good = scene.packet(&scene.inner());
        for (what, at, byte) in [
            ("a reserved flag", offset::VXLAN_FLAGS, 0x0c),
            ("a reserved byte before the VNI", offset::VXLAN_FLAGS + 3, 0xff),
            ("a reserved byte behind the VNI", offset::VXLAN_LAST, 1),
        ] {
            let frame = put(good.clone(), at, &[byte]);
            scene.counted(what, &frame, "uplink", "delivered").unwrap();
            assert!(scene.delivered(SOON), "{datapath}, {what}: not delivered");
        }
        let no_vni = put(good, offset::VXLAN_FLAGS, &[0xf7]);
        scene.refused("no I flag among reserved ones", &no_vni, "uplink", "no_vni_flag").unwrap();
        accounted(scene.node()).unwrap();
    }
}

#[test]
fn vxlan_that_did_not_come_by_the_uplink_is_counted_and_not_delivered() {
    for datapath in [Xdp, Tc, Kernel] {
        let scene = Scene::new(datapath);
        let good = Vxlan {
            from: uplink(scene.node()),
            to: uplink(scene.node()),
            vni: BLUE.vni,
            inner: &scene.inner(),
        };
        let (target, payload) = ((scene.node().addr(), VXLAN_PORT), good.payload());
        // From a process on the node itself: by the loopback interface.
        let send = move || Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.send_to(&payload, target)?);
        scene.node().netns().run(send).unwrap();
        eventually(SOON, || {
            let counted = scene.node().counter("slowpath", "unchecked")?;
            ensure!(counted == 1, "{datapath}: counted {counted} times");
            Ok(())
        })
        .unwrap();
        assert!(!scene.delivered(Duration::from_millis(20)), "{datapath}: delivered");
        accounted(scene.node()).unwrap();
    }
}

#[test]
fn random_bytes_behind_a_good_outer_header_harm_nobody() {
    let scene = Scene::new(Xdp);
    let good = scene.packet(&scene.inner());
    let received = scene.node().counter("uplink", "received").unwrap();
    let mut state = 1_u64;
    for round in 0..5_000_usize {
        let mut frame = good.clone();
        // Everything behind the UDP header in one half, everything behind the VXLAN header in the other.
        let start = if round % 2 == 0 { offset::VXLAN_FLAGS } else { offset::INNER };
        for byte in &mut frame[start..] {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = state.to_be_bytes()[0];
        }
        let length = offset::VXLAN_FLAGS + round % (frame.len() - offset::VXLAN_FLAGS);
        scene.wire.send(&cut(frame, length)).unwrap();
    }
    eventually(SOON, || {
        let now = scene.node().counter("uplink", "received")?;
        ensure!(now >= received + 5_000, "{} of 5000 counted", now - received);
        Ok(())
    })
    .unwrap();
    assert!(!scene.delivered(Duration::from_millis(50)));
    accounted(scene.node()).unwrap();
    ping_all(&scene.peer, &scene.victim).unwrap();
}

#[test]
fn a_container_cannot_inject_into_another_network_by_sending_vxlan() {
    for datapath in [Xdp, Tc, Kernel] {
        let scene = Scene::new(datapath);
        // The victim's own node, another node: by the overlay, where every node address is protected.
        let inside = PacketSocket::open(&scene.victim.netns, IFNAME).unwrap();
        for node in &scene.cluster.nodes {
            let before = scene.node().counter("endpoint", "encap_prohibited").unwrap();
            let to = Station { mac: scene.peer.mac, addr: node.addr() };
            let inner = udp(station(&scene.victim), station(&scene.peer), (1, 2), MARKER);
            let frame = Vxlan { from: station(&scene.victim), to, vni: BLUE.vni, inner: &inner }.frame();
            let at_peer = PacketSocket::open(&scene.peer.netns, IFNAME).unwrap();
            inside.send(&frame).unwrap();
            eventually(SOON, || {
                let counted = scene.node().counter("endpoint", "encap_prohibited")? - before;
                ensure!(counted == 1, "VXLAN to {}: counted {counted} times", node.addr());
                Ok(())
            })
            .unwrap();
            let marked = |frame: &[u8]| frame.windows(MARKER.len()).any(|part| part == MARKER);
            assert!(at_peer.find(Duration::from_millis(50), marked).unwrap().is_none());
        }
        // To anybody else VXLAN is a packet like any other.
        let to = station(&scene.peer);
        let inner = udp(station(&scene.victim), station(&scene.peer), (1, 2), MARKER);
        let frame = udp(station(&scene.victim), to, (5000, VXLAN_PORT), &inner);
        let at_peer = PacketSocket::open(&scene.peer.netns, IFNAME).unwrap();
        inside.send(&frame).unwrap();
        assert!(at_peer.find(SOON, |seen| seen == frame.as_slice()).unwrap().is_some());
        accounted(scene.node()).unwrap();
    }
}

#[test]
fn vxlan_in_another_vlan_of_the_wire_is_not_the_underlays() {
    for datapath in [Xdp, Tc, Kernel] {
        let scene = Scene::new(datapath);
        let good = scene.packet(&scene.inner());
        scene.wire.send(&good).unwrap();
        assert!(scene.delivered(SOON), "the same packet without a tag is not delivered");
        // The wire's bridge takes the tag off into the packet's metadata, as a card does.
        let tagged = [&good[..12], &[0x81, 0, 0, 7], &good[12..]].concat();
        scene.wire.send(&tagged).unwrap();
        assert!(!scene.delivered(Duration::from_millis(300)), "{datapath:?}: delivered");
        accounted(scene.node()).unwrap();
    }
}

#[test]
fn the_attacker_on_the_wire_gets_no_answer_through_the_overlay() {
    let scene = Scene::new(Xdp);
    let reached = ping(&scene.attacker, scene.victim.addr, 3, &[]).unwrap();
    assert_eq!(reached.received, 0);
}
