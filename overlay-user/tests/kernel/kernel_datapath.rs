//! The kernel data path: forwarding, reconciliation and its guard.

use std::time::Duration;

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use overlay_user::{
    datapath::{Datapath as _, kernel::KernelDatapath},
    plan::{Plan, Vtep},
};

use crate::{
    cluster::{Cluster, Inner, Node, VNI, endpoint, id, mac, outcomes, pings, send, vtep, vxlan},
    netns::Netns,
};

#[test]
fn containers_of_two_nodes_reach_each_other() {
    let mut cluster = Cluster::new(2);
    let (one, two, _three) = (cluster.attach(0, 1), cluster.attach(1, 2), cluster.attach(1, 3));
    assert!(cluster.apply_all() > 0);
    assert!(pings(&one, 2) && pings(&two, 1) && pings(&one, 3));
    assert!(pings(&two, 3), "on one node");

    // ARP was answered where it was asked: nothing was flooded.
    let counters = cluster.counters(0);
    let shown = outcomes(&counters);
    assert!(shown["endpoint arp_answered"] >= 2, "{shown:?}");
    assert_eq!(cluster.count(1, "uplink", "flooded"), 0, "{shown:?}");
    assert!(shown["endpoint encapsulated"] >= 4 && shown["uplink delivered"] >= 4, "{shown:?}");
    for hook in ["endpoint", "uplink"] {
        let (received, ends): (Vec<_>, Vec<_>) =
            counters.outcomes[hook].iter().partition(|(outcome, _)| *outcome == "received");
        let sum = |counts: Vec<(&String, &_)>| -> u64 {
            counts.iter().map(|(_, count): &(_, &overlay_user::datapath::Count)| count.packets).sum()
        };
        assert_eq!(sum(received), sum(ends), "every packet has one end: {shown:?}");
    }
    let endpoint = &counters.endpoints[&id(1)];
    assert!(endpoint.tx.packets >= 4 && endpoint.rx.packets >= 4 && endpoint.tx.bytes > 300);
    let peer = &counters.peers[&"node1".parse().unwrap()];
    assert!(peer.tx.packets >= 4 && peer.rx.packets >= 4, "{peer:?}");

    assert!(one.succeeds("ping -q -c 1 -W 1 -M do -s 1422 10.0.9.2"), "a packet of the full MTU");
    assert_eq!(cluster.apply_all(), 0, "nothing to do");
    for node in &mut cluster.nodes {
        node.datapath = KernelDatapath::new();
    }
    assert_eq!(cluster.apply_all(), 0, "a new daemon adopts what it finds");
    assert!(cluster.count(0, "uplink", "delivered") >= 4, "the counters too");
}

#[test]
fn a_plain_vxlan_device_is_a_peer() {
    let mut cluster = Cluster::new(2);
    let one = cluster.attach(0, 1);
    cluster.endpoints.push((1, 9));
    let third = &cluster.nodes[1].netns;
    third.ip(&format!("link add vx type vxlan id {VNI} dstport 4789 local 192.0.2.2 remote 192.0.2.1"));
    third.ip(&format!("link set vx address {} mtu 1450 up", mac(9)));
    third.ip("addr add 10.0.9.9/24 dev vx");
    let plan = cluster.plan(0);
    assert_eq!(cluster.apply(0, &plan).problems, Vec::<String>::new());
    assert!(pings(&one, 9));
    // The third party asks by broadcast: it is delivered, and answered by the container.
    cluster.nodes[1].netns.ip("neigh flush dev vx");
    assert!(pings(&cluster.nodes[1].netns, 1));
    assert!(cluster.count(0, "uplink", "flooded") > 0);
}

#[test]
fn what_changes_behind_its_back_is_mended() {
    let mut cluster = Cluster::new(2);
    let (one, two) = (cluster.attach(0, 1), cluster.attach(1, 2));
    cluster.apply_all();
    let netns = |cluster: &Cluster, command: &str| cluster.nodes[0].netns.exec(command);
    let bridge = format!("ovb{VNI:x}");
    let vxlan = format!("ovv{VNI:x}");
    let port = id(1).host_device();
    let link_local = std::net::Ipv6Addr::from(mac(2).link_local());
    for (damage, changes) in [
        (format!("bridge fdb del {} dev {vxlan} dst 192.0.2.2", mac(2)), 1),
        (format!("bridge fdb del {} dev {vxlan} master", mac(2)), 1),
        (format!("bridge fdb del {} dev {port} master", mac(1)), 1),
        (format!("bridge fdb add 02:00:00:00:00:99 dev {vxlan} master static"), 1),
        (format!("ip neigh del 10.0.9.2 dev {bridge}"), 1),
        (format!("ip neigh replace 10.0.9.2 lladdr 02:00:00:00:00:99 dev {bridge}"), 1),
        (format!("ip neigh add 10.0.9.77 lladdr 02:00:00:00:00:99 dev {bridge}"), 1),
        (format!("bridge link set dev {port} learning on locked off"), 1),
        (format!("ip link set {bridge} type bridge stp_state 1"), 1),
        // The kernel drops the neighbour entries of an interface that goes down.
        (format!("ip neigh del {link_local} dev {bridge}"), 1),
        (format!("ip link set {bridge} down"), 5),
        (format!("ip link set {vxlan} mtu 1400"), 1),
        ("nft delete table netdev overlay_guard".into(), 1),
        ("nft flush chain netdev overlay_guard tunnels".into(), 1),
        (format!("nft flush set netdev overlay_guard vni_{VNI}_sources_192_0_2_2"), 1),
        (format!("nft add element netdev overlay_guard vni_{VNI}_addresses '{{ 10.0.9.77 }}'"), 1),
        (format!("nft delete element netdev overlay_guard vni_{VNI}_stations '{{ {} }}'", mac(2)), 1),
        // What has the name of a set and is of another kind cannot be changed to it.
        (
            format!(
                "nft delete table netdev overlay_guard; nft add table netdev overlay_guard; \
                 nft add set netdev overlay_guard vni_{VNI}_local '{{ type ipv4_addr; }}'"
            ),
            1,
        ),
        // Its forwarding database and its port go with it.
        (format!("ip link set {port} nomaster"), 3),
        (format!("ip link del {vxlan}"), 8),
        (format!("ip link del {bridge}"), 13),
    ] {
        netns(&cluster, &damage);
        let plan = cluster.plan(0);
        let applied = cluster.apply(0, &plan);
        assert_eq!(applied.problems, Vec::<String>::new(), "{damage}");
        assert_eq!(applied.changed, changes, "{damage}");
        assert_eq!(cluster.apply(0, &plan).changed, 0, "{damage}");
        assert!(pings(&one, 2) && pings(&two, 1), "{damage}");
    }
    // It keeps neighbour entries of IPv6, and has no address to send anything from.
    let addresses = cluster.nodes[0].netns.ip(&format!("-6 address show dev {bridge}"));
    assert!(!addresses.contains("inet6"), "{addresses}");
}

/// Endpoints come, move and go on two other nodes, which have one each that stays.
#[test]
fn who_is_on_other_nodes_is_changed_without_looking_at_the_rest() {
    let mut cluster = Cluster::new(3);
    let one = cluster.attach(0, 1);
    cluster.endpoints.extend([(1, 20), (2, 21)]);
    cluster.nodes[0].datapath = KernelDatapath::new().verifying_every(Duration::from_mins(10));
    let plan = cluster.plan(0);
    assert!(cluster.apply(0, &plan).changed > 0);
    // What nobody looks at stays as it is.
    let damage = format!("ip neigh del 10.0.9.21 dev ovb{VNI:x}");
    cluster.nodes[0].netns.exec(&damage);
    for round in 0..40_u8 {
        let (number, node) = (2 + round % 9, usize::from(round) * 7 % 4);
        cluster.endpoints.retain(|(_, other)| *other != number);
        if [1, 2].contains(&node) {
            cluster.endpoints.push((node, number));
        }
        let plan = cluster.plan(0);
        let applied = cluster.apply(0, &plan);
        assert_eq!(applied.problems, Vec::<String>::new());
        let found = cluster.audit(0, &plan);
        assert_eq!(
            found,
            [("neighbours of ovb1f4".into(), "10.0.9.21 (02:42:0a:00:09:15)".into())],
            "{round}"
        );
    }
    let _two = cluster.attach(1, 30);
    for node in [0, 1] {
        // Of what is on the second nobody has made interfaces but that one.
        let plan = cluster.plan(node);
        cluster.apply(node, &plan);
    }
    assert!(pings(&one, 30));

    // Nor for another way to a node, which is Linux's to find.
    let plan = cluster.plan(0);
    let mut underlay = cluster.underlay(0);
    underlay.peers.insert(vtep(1).into());
    let Node { netns, datapath } = &mut cluster.nodes[0];
    assert_eq!(netns.run(async || datapath.apply(&plan, &underlay).await.unwrap()).changed, 0);
    assert_eq!(cluster.audit(0, &plan).len(), 1);

    cluster.nodes[0].datapath.distrust();
    assert_eq!(cluster.apply(0, &plan).changed, 1, "the damage");
    assert_eq!(cluster.apply(0, &plan).changed, 0);

    // A step that cannot be made.
    cluster.nodes[0].netns.exec(&format!("nft flush map netdev overlay_guard vni_{VNI}_stations"));
    cluster.endpoints.retain(|(_, number)| *number != 30);
    let plan = cluster.plan(0);
    let applied = cluster.apply(0, &plan);
    assert_eq!(applied.problems, Vec::<String>::new());
    assert_eq!(cluster.audit(0, &plan), []);
    cluster.nodes[0].netns.exec(&format!("bridge fdb add 02:00:00:00:00:99 dev ovv{VNI:x} master static"));
    assert_eq!(cluster.apply(0, &plan).changed, 0, "it is not time to look");
    assert_eq!(cluster.audit(0, &plan).len(), 1);
}

#[test]
fn a_plan_that_shrinks_and_ends_leaves_nothing() {
    let mut cluster = Cluster::new(2);
    let before = cluster.nodes[0].netns.ip("link");
    let (one, _two, three) = (cluster.attach(0, 1), cluster.attach(1, 2), cluster.attach(0, 3));
    cluster.apply_all();
    assert!(pings(&three, 1));

    cluster.endpoints.retain(|(_, number)| *number != 3);
    cluster.apply_all();
    let ports = cluster.nodes[0].netns.ip(&format!("link show master ovb{VNI:x}"));
    assert!(ports.contains(&id(1).host_device()) && !ports.contains(&id(3).host_device()), "{ports}");
    assert!(!pings(&three, 1));
    assert!(pings(&one, 2));
    let is_up = |cluster: &Cluster, number| {
        cluster.nodes[0].netns.ip(&format!("link show {}", id(number).host_device())).contains(",UP")
    };
    assert!(is_up(&cluster, 1) && !is_up(&cluster, 3), "out of the bridge it leads to the host's stack");

    let empty = Plan { protected: cluster.plan(0).protected, ..Plan::default() };
    assert!(cluster.apply(0, &empty).changed > 0);
    let links = cluster.nodes[0].netns.ip("link");
    assert!(!links.contains("ovb") && !links.contains("ovv"), "{links}");
    assert!(!is_up(&cluster, 1));

    cluster.apply_all();
    let node = &mut cluster.nodes[0];
    node.netns.run(async || node.datapath.remove().await.unwrap());
    node.netns.run(async || node.datapath.remove().await.unwrap());
    drop((one, three));
    node.netns.run(async || {
        for number in [1, 3] {
            overlay_user::device::remove(&id(number).host_device()).await.unwrap();
        }
    });
    assert_eq!(node.netns.ip("link"), before);
    assert_eq!(node.netns.exec("nft list ruleset"), "");
}

#[test]
fn an_endpoint_without_its_interface_holds_nobody_up() {
    let mut cluster = Cluster::new(2);
    let (one, _two) = (cluster.attach(0, 1), cluster.attach(1, 2));
    cluster.endpoints.push((0, 5));
    let plan = cluster.plan(0);
    let applied = cluster.apply(0, &plan);
    assert_eq!(applied.problems.len(), 1, "{:?}", applied.problems);
    assert!(applied.problems[0].contains("endpoint 000000000005 of network net"), "{:?}", applied.problems);
    cluster.endpoints.pop();
    let plan = cluster.plan(1);
    cluster.apply(1, &plan);
    assert!(pings(&one, 2));
}

#[test]
fn a_vni_in_use_is_a_problem_of_that_network_alone() {
    let mut cluster = Cluster::new(2);
    let (one, _two) = (cluster.attach(0, 1), cluster.attach(1, 2));
    let other = overlay_user::Vni::new(77).unwrap();
    cluster.nodes[0].netns.ip("link add theirs type vxlan id 77 dstport 4789 local 192.0.2.1");
    let mut plan = cluster.plan(0);
    let mut network = plan.networks.values().next().unwrap().clone();
    (network.stations, network.local) = Default::default();
    network.insert(endpoint(8, &"node1".parse().unwrap()));
    plan.networks.insert(other, network);
    let applied = cluster.apply(0, &plan);
    assert_eq!(applied.problems.len(), 1, "{:?}", applied.problems);
    assert!(applied.problems[0].contains("theirs has VNI 77"), "{:?}", applied.problems);
    let plan = cluster.plan(1);
    cluster.apply(1, &plan);
    assert!(pings(&one, 2));
}

#[test]
fn hostile_vxlan_is_dropped_by_name() {
    let mut cluster = Cluster::new(3);
    let (one, two) = (cluster.attach(0, 1), cluster.attach(1, 2));
    cluster.apply_all();
    assert!(pings(&one, 2));
    let honest = || Inner { from: mac(2), to: mac(1), dst: [10, 0, 9, 1].into(), port: 9 };
    let mut reserved = vxlan(0x08, VNI, &honest());
    reserved[7] = 1;
    let nested = Inner { dst: vtep(0), port: 4789, ..honest() };
    let mut tagged = vxlan(0x08, VNI, &honest());
    tagged[20..22].copy_from_slice(&[0x81, 0]);
    let long = [vxlan(0x08, VNI, &honest()), vec![0; 1600]].concat();
    let cases = [
        ("unknown_vtep", 2, vxlan(0x08, VNI, &honest())),
        ("no_vni_flag", 1, vxlan(0, VNI, &honest())),
        ("reserved_bits", 1, reserved),
        ("reserved_bits", 1, vxlan(0x88, VNI, &honest())),
        ("passed_unknown_vni", 2, vxlan(0x08, VNI + 1, &honest())),
        ("inner_source", 1, vxlan(0x08, VNI, &Inner { from: mac(1), ..honest() })),
        ("inner_source", 1, vxlan(0x08, VNI, &Inner { from: mac(7), ..honest() })),
        ("nested", 1, vxlan(0x08, VNI, &nested)),
        ("inner_vlan", 1, tagged),
        ("truncated", 1, vxlan(0x08, VNI, &honest())[..12].to_vec()),
        ("truncated", 1, vec![]),
        ("fragment", 1, long),
        ("not_local", 1, vxlan(0x08, VNI, &Inner { to: mac(2), ..honest() })),
        ("unknown_destination", 1, vxlan(0x08, VNI, &Inner { to: mac(8), ..honest() })),
    ];
    let received = |container: &Netns| container.exec("cat /sys/class/net/eth0/statistics/rx_packets");
    for (outcome, from, packet) in cases {
        let before = (cluster.count(0, "uplink", outcome), received(&one));
        send(&cluster.nodes[from].netns, vtep(from), vtep(0), &packet);
        let after = (cluster.count(0, "uplink", outcome), received(&one));
        assert_eq!(after, (before.0 + 1, before.1), "{outcome}: {:?}", outcomes(&cluster.counters(0)));
    }
    // The same packet made honestly gets there, and a new endpoint resets no counter.
    let before = received(&one);
    send(&cluster.nodes[1].netns, vtep(1), vtep(0), &vxlan(0x08, VNI, &honest()));
    assert_ne!(received(&one), before);
    let _three = cluster.attach(0, 3);
    cluster.apply_all();
    assert_eq!(cluster.count(0, "uplink", "reserved_bits"), 2);
    assert!(pings(&two, 3));
}

#[test]
fn vxlan_by_another_way_is_dropped() {
    let mut cluster = Cluster::new(2);
    let (one, _two) = (cluster.attach(0, 1), cluster.attach(1, 2));
    cluster.nodes[0].netns.ip("addr add 192.0.2.101/24 dev eth0");
    cluster.apply_all();
    let honest = Inner { from: mac(2), to: mac(1), dst: [10, 0, 9, 1].into(), port: 9 };
    let before = one.exec("cat /sys/class/net/eth0/statistics/rx_packets");
    // By loopback, and to an address of the host that is not the tunnel's.
    send(&cluster.nodes[0].netns, vtep(0), vtep(0), &vxlan(0x08, VNI, &honest));
    send(&cluster.nodes[1].netns, vtep(1), [192, 0, 2, 101].into(), &vxlan(0x08, VNI, &honest));
    assert_eq!(cluster.count(0, "slowpath", "unchecked"), 2);
    assert_eq!(one.exec("cat /sys/class/net/eth0/statistics/rx_packets"), before);
}

#[test]
fn an_endpoint_speaks_for_itself_only() {
    let mut cluster = Cluster::new(2);
    let (one, two) = (cluster.attach(0, 1), cluster.attach(1, 2));
    cluster.apply_all();
    assert!(pings(&one, 2));
    let count = |cluster: &mut Cluster, outcome| cluster.count(0, "endpoint", outcome);

    one.ip("addr add 10.0.9.50/24 dev eth0");
    assert!(!one.succeeds("ping -q -c 1 -W 0.3 -I 10.0.9.50 10.0.9.2"));
    assert_eq!(count(&mut cluster, "spoofed_address"), 1);
    one.ip("neigh flush all");
    assert!(!one.succeeds("ping -q -c 1 -W 0.3 -I 10.0.9.50 10.0.9.2"));
    assert!(count(&mut cluster, "spoofed_arp") >= 1);
    one.ip("addr del 10.0.9.50/24 dev eth0");
    one.ip("neigh flush all");
    assert!(pings(&one, 2));

    // VXLAN to a node, by way of a neighbour that would have to forward it.
    one.ip("route add 192.0.2.0/24 via 10.0.9.2");
    let honest = Inner { from: mac(2), to: mac(1), dst: [10, 0, 9, 1].into(), port: 9 };
    send(&one, [10, 0, 9, 1].into(), vtep(1), &vxlan(0x08, VNI, &honest));
    assert_eq!(count(&mut cluster, "encap_prohibited"), 1);

    // The host is no member: it answers neither ARP nor IP that reaches its bridge.
    one.ip("route replace 192.0.2.1/32 dev eth0");
    assert!(!one.succeeds("ping -q -c 1 -W 0.3 192.0.2.1"));
    let neighbour = one.ip("neigh show 192.0.2.1");
    assert!(!neighbour.contains("lladdr"), "{neighbour}");
    let bridge = cluster.nodes[0].netns.exec(&format!("cat /sys/class/net/ovb{VNI:x}/address"));
    one.ip(&format!("neigh replace 192.0.2.1 lladdr {} dev eth0", bridge.trim()));
    assert!(!one.succeeds("ping -q -c 1 -W 0.3 192.0.2.1"));
    assert!(count(&mut cluster, "unknown_destination") >= 1);

    assert!(pings(&one, 2) && pings(&two, 1));
    one.ip("link set eth0 address 02:00:00:00:00:66");
    assert!(!pings(&one, 2));
    assert!(count(&mut cluster, "spoofed_mac") >= 1);
}

#[test]
fn updates_lose_no_packet() {
    let mut cluster = Cluster::new(2);
    let (one, _two) = (cluster.attach(0, 1), cluster.attach(1, 2));
    cluster.apply_all();
    assert!(pings(&one, 2));
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| one.exec("ping -q -c 1500 -i 0.001 -W 1 10.0.9.2"));
        let mut round = 0u8;
        while !flood.is_finished() {
            // An endpoint and a node come and go, and every other time the daemon is a new one.
            let mut plan = cluster.plan(0);
            if round.is_multiple_of(2) {
                let node: overlay_user::state::NodeName = "guest".parse().unwrap();
                plan.vteps.insert(node.clone(), Vtep { addr: vtep(9).into() });
                let network = plan.networks.values_mut().next().unwrap();
                network.insert(endpoint(90, &node));
                cluster.nodes[0].datapath = KernelDatapath::new();
            }
            assert_eq!(cluster.apply(0, &plan).problems, Vec::<String>::new());
            round = round.wrapping_add(1);
        }
        assert!(round > 3, "only {round} updates");
        let report = flood.join().unwrap();
        assert!(report.contains(" 0% packet loss"), "{report}");
    });
}

#[test]
fn an_unchanged_empty_plan_does_nothing() {
    let mut cluster = Cluster::new(1);
    let plan = Plan { vteps: imbl::OrdMap::new(), ..cluster.plan(0) };
    cluster.apply(0, &plan);
    assert_eq!(cluster.apply(0, &plan).changed, 0);
    let links = cluster.nodes[0].netns.ip("-br link");
    assert_eq!(links.lines().count(), 2, "{links}");
}

#[test]
fn forwarding_goes_on_without_nftables() {
    let mut cluster = Cluster::new(2);
    let (one, two) = (cluster.attach(0, 1), cluster.attach(1, 2));
    let (plan, underlay) = (cluster.plan(0), cluster.underlay(0));
    let Node { netns, datapath } = &mut cluster.nodes[0];
    let applied = netns.run(async || {
        // For this thread and what it starts, the directory of `nft` is empty.
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(none, "/usr/sbin", Some("tmpfs"), MsFlags::empty(), none).unwrap();
        datapath.apply(&plan, &underlay).await.unwrap()
    });
    assert_eq!(applied.problems.len(), 1, "{:?}", applied.problems);
    assert!(applied.problems[0].contains("not guarded"), "{:?}", applied.problems);
    assert!(applied.problems[0].contains("install nftables"), "{:?}", applied.problems);
    let plan = cluster.plan(1);
    cluster.apply(1, &plan);
    assert!(pings(&one, 2) && pings(&two, 1));
}

#[test]
fn a_host_firewall_in_the_way_is_named() {
    let mut cluster = Cluster::new(2);
    let (one, _two) = (cluster.attach(0, 1), cluster.attach(1, 2));
    cluster.apply_all();
    let host = |cluster: &Cluster, command: &str| cluster.nodes[0].netns.exec(command);
    host(&cluster, "sysctl -q net.bridge.bridge-nf-call-iptables=1");
    host(&cluster, "nft add table ip filter");
    host(&cluster, "nft 'add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'");
    assert!(!pings(&one, 2));
    let plan = cluster.plan(0);
    let problems = cluster.apply(0, &plan).problems;
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("chain FORWARD of table filter"), "{problems:?}");
    host(&cluster, "sysctl -q net.bridge.bridge-nf-call-iptables=0");
    assert_eq!(cluster.apply(0, &plan).problems, Vec::<String>::new());
    assert!(pings(&one, 2));
}
