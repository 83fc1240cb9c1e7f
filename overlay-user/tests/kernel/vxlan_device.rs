//! The kernel's VXLAN devices as both data paths use them.

use std::collections::{BTreeMap, BTreeSet};

use overlay_user::{
    MacAddr, Vni,
    datapath::{
        Underlay,
        vxlan_device::{self, Fdb, Row, Wanted},
    },
    netlink,
    state::Dscp,
};

use crate::netns::Netns;

fn underlay(port: u16) -> Underlay {
    Underlay {
        ifindex: 0,
        name: "up0".into(),
        driver: "dummy".into(),
        addr: [192, 0, 2, 1].into(),
        mac: MacAddr::default(),
        mtu: 1500,
        port,
        udp6_zero_checksum: false,
        peers: BTreeSet::new(),
        routes: BTreeMap::new(),
    }
}

fn device_of(vni: Vni, mtu: u16) -> Wanted {
    Wanted { vni, dscp: Dscp::Inherit, mtu }
}

fn node() -> Netns {
    let node = Netns::new("node");
    node.ip("link add up0 type veth peer name up1");
    node.ip("addr add 192.0.2.1/24 dev up0");
    node.ip("link set up0 up");
    node
}

fn row(last: u8, vtep: u8) -> Row {
    Row { mac: MacAddr([2, 0, 0, 0, 0, last]), vtep: [192, 0, 2, vtep].into() }
}

fn flood(vtep: u8) -> Row {
    Row { mac: MacAddr::default(), vtep: [192, 0, 2, vtep].into() }
}

#[test]
fn a_device_is_made_once_and_mended_in_place() {
    let node = node();
    let vni = Vni::new(0xabc).unwrap();
    let ensure = |mut underlay: Underlay, addr: [u8; 4], mtu| {
        underlay.addr = addr.into();
        node.run(async || {
            let handle = netlink::connect().unwrap();
            let ensured = vxlan_device::ensure(&handle, &underlay, device_of(vni, mtu)).await.unwrap();
            (ensured, vxlan_device::set_up(&handle, &underlay, vni, ensured).await.unwrap())
        })
    };
    let (made, up) = ensure(underlay(4789), [192, 0, 2, 1], 1450);
    assert!(made.changed > 0 && !made.up && up == 1, "down until it is guarded");
    let shown = node.ip("-d link show ovvabc");
    for part in ["mtu 1450", "vxlan id 2748", "local 192.0.2.1", "srcport 49152 65535", "dstport 4789"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    for part in ["nolearning", "tos inherit", "ttl 64", "df set", "noudpcsum", ",UP"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert_eq!(node.exec("cat /proc/sys/net/ipv6/conf/ovvabc/disable_ipv6").trim(), "1");

    let (again, up) = ensure(underlay(4789), [192, 0, 2, 1], 1450);
    assert_eq!((again.ifindex, again.changed, up), (made.ifindex, 0, 0));

    // What the kernel can change is changed in place; a new port takes a new device.
    let (moved, _) = ensure(underlay(4789), [192, 0, 2, 7], 1400);
    assert_eq!(moved.ifindex, made.ifindex);
    let shown = node.ip("-d link show ovvabc");
    assert!(shown.contains("local 192.0.2.7") && shown.contains("mtu 1400"), "{shown}");
    let (other_port, _) = ensure(underlay(4790), [192, 0, 2, 7], 1400);
    assert_ne!(other_port.ifindex, made.ifindex);

    node.run(async || {
        let handle = netlink::connect().unwrap();
        let ours = vxlan_device::list_ours(&handle).await.unwrap();
        assert_eq!(ours, BTreeMap::from([(vni, other_port.ifindex)]));
        assert!(vxlan_device::remove(&handle, vni).await.unwrap());
        assert!(!vxlan_device::remove(&handle, vni).await.unwrap());
        assert!(vxlan_device::list_ours(&handle).await.unwrap().is_empty());
    });
}

#[test]
fn a_vni_or_port_that_is_taken_is_explained() {
    let node = node();
    let ensure = |port| {
        node.run(async || {
            let handle = netlink::connect().unwrap();
            let vni = Vni::new(5).unwrap();
            let underlay = underlay(port);
            match vxlan_device::ensure(&handle, &underlay, device_of(vni, 1450)).await {
                Ok(ensured) => vxlan_device::set_up(&handle, &underlay, vni, ensured).await.map(drop),
                Err(error) => Err(error),
            }
            .unwrap_err()
            .to_string()
        })
    };
    node.ip("link add theirs type vxlan id 5 dstport 4789 local 192.0.2.1");
    let error = ensure(4789);
    assert!(error.contains("theirs has VNI 5 on UDP port 4789"), "{error}");
    node.ip("link del theirs");

    node.ip("link add ovv5 type bridge");
    let error = ensure(4789);
    assert!(error.contains("the interface ovv5 is in the way"), "{error}");
    node.ip("link del ovv5");

    node.ip("link add theirs type vxlan id 6 dstport 4789 local 192.0.2.1 gbp");
    node.ip("link set theirs up");
    let error = ensure(4789);
    assert!(error.contains("UDP port 4789 is used by another program"), "{error}");
}

#[test]
fn the_forwarding_database_is_held_equal_to_the_plan() {
    let node = node();
    let vni = Vni::new(5).unwrap();
    let reconcile = |wanted: &BTreeSet<Row>| {
        let done = node.run(async || {
            let handle = netlink::connect().unwrap();
            let device = vxlan_device::ensure(&handle, &underlay(4789), device_of(vni, 1450)).await.unwrap();
            let fdb = Fdb::read(&handle).await.unwrap();
            fdb.reconcile(&handle, device.ifindex, wanted).await
        });
        assert_eq!(done.problems, Vec::<String>::new());
        done.changed
    };
    let shown = || node.exec("bridge fdb show dev ovv5");

    let wanted = BTreeSet::from([row(1, 11), row(2, 12), flood(11), flood(12)]);
    assert_eq!(reconcile(&wanted), 4);
    assert_eq!(reconcile(&wanted), 0);
    assert_eq!(shown().lines().count(), 4, "{}", shown());

    // Behind our back: a row lost, one to the wrong node, two foreign ones, one of them to a port.
    node.exec("bridge fdb del 02:00:00:00:00:01 dev ovv5 dst 192.0.2.11");
    node.exec("bridge fdb replace 02:00:00:00:00:02 dev ovv5 dst 192.0.2.99");
    node.exec("bridge fdb add 02:00:00:00:00:03 dev ovv5 dst 192.0.2.11");
    node.exec("bridge fdb append 00:00:00:00:00:00 dev ovv5 dst 192.0.2.11 port 5000 vni 9");
    assert_eq!(reconcile(&wanted), 4);
    assert_eq!(reconcile(&wanted), 0);
    let rows = shown();
    assert_eq!(rows.lines().count(), 4, "{rows}");
    assert!(!rows.contains("192.0.2.99") && !rows.contains("port"), "{rows}");

    // An endpoint moves, a node leaves.
    let wanted = BTreeSet::from([row(1, 12), row(2, 12), flood(12)]);
    assert_eq!(reconcile(&wanted), 2);
    assert_eq!(reconcile(&wanted), 0);
    assert_eq!(shown().lines().count(), 3, "{}", shown());
    assert!(reconcile(&BTreeSet::new()) > 0);
    assert_eq!(shown(), "");
}
