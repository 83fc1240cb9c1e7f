//! The lab itself, without any program of ours in the path: what fails here is the machine's fault.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{net::Ipv4Addr, time::Duration};

use overlay_ebpf::abi::MacAddr;
use overlay_tests::{
    capture::PacketSocket,
    container::{Container, IFNAME},
    etcd::Etcd,
    probe::{Flood, ping, ping_all, transfer},
    third_party::ThirdParty,
    wire::Wire,
};

const VNI: u32 = 77;

/// Two VTEPs set up by hand that know each other, with a container each.
fn pair(wire: &Wire) -> ([ThirdParty; 2], [Container; 2]) {
    let vteps = ["a", "b"].map(|name| ThirdParty::plug(wire, name).unwrap());
    let containers = [0, 1].map(|i: u8| {
        let vtep = &vteps[usize::from(i)];
        vtep.join(VNI).unwrap();
        let mac = MacAddr([2, 0, 0, 0, 0, i + 1]);
        vtep.container(VNI, "c", Ipv4Addr::new(10, 1, 0, i + 1), mac).unwrap()
    });
    for i in [0, 1] {
        vteps[i].flood_to(VNI, vteps[1 - i].addr()).unwrap();
        vteps[i].learn(VNI, containers[1 - i].mac, vteps[1 - i].addr()).unwrap();
    }
    (vteps, containers)
}

#[test]
fn two_vteps_set_up_by_hand_forward_for_each_other() {
    let wire = Wire::new().unwrap();
    let (_vteps, [a, b]) = pair(&wire);
    ping_all(&a, &b).unwrap();
    let transfer = transfer(&a.netns, &b.netns, b.addr, 1_000_000).unwrap();
    assert_eq!(transfer.bytes, 1_000_000);
}

#[test]
fn a_flood_counts_what_is_lost_and_nothing_else() {
    let wire = Wire::new().unwrap();
    let (vteps, [a, b]) = pair(&wire);
    ping_all(&a, &b).unwrap();

    let flood = Flood::start(&a.netns, &b.netns, b.addr, Duration::from_millis(1)).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let loss = flood.stop().unwrap();
    assert_eq!(loss.lost(), 0, "{loss}");
    assert!(loss.sent > 100, "{loss}");

    let flood = Flood::start(&a.netns, &b.netns, b.addr, Duration::from_millis(1)).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    vteps[0].netns().exec(&format!("ip link set vx{VNI} down")).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let loss = flood.stop().unwrap();
    assert!(loss.lost() > 50 && loss.received > 50, "{loss}");
    assert_eq!(ping(&a.netns, b.addr, 2, &[]).unwrap().received, 0);
}

#[test]
fn a_frame_put_on_one_interface_is_captured_on_another() {
    let wire = Wire::new().unwrap();
    let (_vteps, [a, b]) = pair(&wire);
    let [sender, receiver] = [&a, &b].map(|c| PacketSocket::open(&c.netns, IFNAME).unwrap());
    let mut frame = vec![0xff; 6];
    frame.extend(a.mac.0);
    frame.extend([0x88, 0xb5]);
    frame.extend([0x5a; 64]);
    sender.send(&frame).unwrap();
    let found = receiver.find(Duration::from_secs(2), |f| f == frame.as_slice()).unwrap();
    assert!(found.is_some());
    let none = receiver.find(Duration::from_millis(100), |f| f == frame.as_slice()).unwrap();
    assert!(none.is_none());
}

#[test]
fn etcd_keeps_its_data_when_it_is_killed() {
    let wire = Wire::new().unwrap();
    let mut etcd = Etcd::start(&wire).unwrap();
    Etcd::put(&wire, "/k", vec![b'x'; 3_000_000]).unwrap();
    etcd.kill();
    assert!(Etcd::ctl(&wire, &["get", "/k"]).is_err());
    etcd.restart(&wire).unwrap();
    assert_eq!(Etcd::ctl(&wire, &["get", "/k", "--print-value-only"]).unwrap().trim().len(), 3_000_000);
    etcd.freeze().unwrap();
    assert!(Etcd::ctl(&wire, &["--command-timeout", "1s", "get", "/k"]).is_err());
    etcd.thaw().unwrap();
    assert!(Etcd::ctl(&wire, &["get", "/k"]).is_ok());
}
