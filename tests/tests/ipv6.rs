//! IPv6 in the overlay: dual-stack networks on every data path.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use etherparse::{Icmpv6Header, Icmpv6Type, IpNumber, PacketBuilder};
use overlay_ebpf::abi::MacAddr;
use overlay_tests::{
    capture::PacketSocket,
    cluster::Cluster,
    container::{Container, IFNAME},
    exec::eventually,
    node::{
        Datapath::{self, Kernel, Tc, Xdp},
        Node,
    },
    probe::{ping, transfer},
    third_party::ThirdParty,
};

const BLUE: &str = "blue";
const VNI: u32 = 4242;

const SOON: Duration = Duration::from_secs(3);
const CONVERGENCE: Duration = Duration::from_secs(10);

/// What is moved by TCP from each to each.
const BYTES: u64 = 1_000_000;

/// In what must not arrive.
const MARKER: &[u8] = b"from somebody else";

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// Makes a network with subnets of both families.
fn create_dual_stack(node: &Node) -> Result<()> {
    let subnets = ["--subnet", "10.1.0.0/24", "--subnet", "fd00:1::/64"];
    node.ctl(&[&["network", "create", BLUE, "--vni", &VNI.to_string()][..], &subnets].concat())?;
    Ok(())
}

fn six(container: &Container) -> Ipv6Addr {
    container.addr6.unwrap()
}

/// Waits until one container reaches an address of another, and then wants every answer.
fn ping_all(from: &Container, to: IpAddr) -> Result<()> {
    eventually(CONVERGENCE, || {
        let loss = ping(&from.netns, to, 1, &[])?;
        ensure!(loss.received == 1, "{} does not reach {to}", from.name);
        Ok(())
    })?;
    let loss = ping(&from.netns, to, 5, &[])?;
    ensure!(loss.lost() == 0, "from {} to {to}: {loss}", from.name);
    Ok(())
}

fn talk(from: &Container, to: &Container) -> Result<()> {
    ping_all(from, to.addr.into())?;
    ping_all(from, six(to).into())?;
    // The largest packet, unfragmented: IPv6 and ICMP headers are 48 bytes.
    let size = (from.mtu - 48).to_string();
    let loss = ping(&from.netns, six(to), 3, &["-M", "do", "-s", &size])?;
    ensure!(loss.lost() == 0, "packets of {} bytes from {} to {}: {loss}", from.mtu, from.name, to.name);
    transfer(&from.netns, &to.netns, six(to), BYTES)
        .with_context(|| format!("TCP from {} to {}", from.name, to.name))?;
    Ok(())
}

#[test]
fn every_pair_of_data_paths_and_a_third_party_talk_over_both_families() {
    let cluster = Cluster::start(&[Xdp, Tc, Kernel]).unwrap();
    let node = &cluster.nodes[0];
    create_dual_stack(node).unwrap();
    let names = ["xdp", "tc", "kernel"].into_iter().zip(&cluster.nodes);
    let mut containers: Vec<_> =
        names.map(|(name, node)| Container::attach(node, BLUE, name, &[]).unwrap()).collect();

    let vtep = ThirdParty::plug(&cluster.wire, "other").unwrap();
    vtep.join(VNI).unwrap();
    for (container, node) in containers.iter().zip(&cluster.nodes) {
        vtep.flood_to(VNI, node.addr()).unwrap();
        vtep.learn(VNI, container.mac, node.addr()).unwrap();
    }
    let (addr, addr6) = (Ipv4Addr::new(10, 1, 0, 200), "fd00:1::c8".parse::<Ipv6Addr>().unwrap());
    let mac = MacAddr([2, 0, 0, 0, 0, 0xc8]);
    let mut other = vtep.container(VNI, "other1", addr, mac).unwrap();
    other.netns.exec(&format!("ip -6 address add {addr6}/64 dev {IFNAME} nodad")).unwrap();
    other.addr6 = Some(addr6);
    node.ctl(&["node", "add-static", "other", "--vtep", &vtep.addr().to_string()]).unwrap();
    let (ip, ip6, text) = (addr.to_string(), addr6.to_string(), mac.to_string());
    let place = ["endpoint", "add-static", BLUE, "--node", "other", "--mac", &text];
    node.ctl(&[&place[..], &["--ip", &ip, "--ip", &ip6]].concat()).unwrap();
    containers.push(other);

    let pairs = containers.iter().flat_map(|from| containers.iter().map(move |to| (from, to)));
    let failures: Vec<_> = pairs
        .filter(|(from, to)| from.addr != to.addr)
        .filter_map(|(from, to)| talk(from, to).err())
        .map(|error| format!("{error:#}\n"))
        .collect();
    assert!(failures.is_empty(), "{}", failures.concat());

    let shown = node.json(&["network", "inspect", BLUE]).unwrap();
    assert_eq!((&shown["subnet"], &shown["dual"]["subnet"]), (&"10.1.0.0/24".into(), &"fd00:1::/64".into()));
    assert_eq!(shown["dual"]["gateway"], "fd00:1::1");
    let shown = node.json(&["endpoint", "inspect", &containers[1].id]).unwrap();
    let addresses = [containers[1].addr.to_string(), six(&containers[1]).to_string()];
    assert_eq!(shown["addresses"], serde_json::json!(addresses));
}

#[test]
fn a_network_of_ipv6_alone_works() {
    let cluster = Cluster::start(&[Xdp, Tc, Kernel]).unwrap();
    cluster.nodes[0].ctl(&["network", "create", BLUE, "--subnet", "fd00:2::/64"]).unwrap();
    let wanted = Container::attach(&cluster.nodes[0], BLUE, "wanted", &["--ip", "fd00:2::5"]).unwrap();
    assert_eq!((wanted.addr, six(&wanted).to_string()), (Ipv4Addr::UNSPECIFIED, "fd00:2::5".to_owned()));
    let free = cluster.nodes[1..].iter().map(|node| Container::attach(node, BLUE, node.name(), &[]).unwrap());
    for other in free.collect::<Vec<_>>() {
        ping_all(&other, six(&wanted).into()).unwrap();
        transfer(&wanted.netns, &other.netns, six(&other), BYTES).unwrap();
    }
}

/// Whether a frame is a neighbour solicitation for an address.
fn solicits(frame: &[u8], target: Ipv6Addr) -> bool {
    frame.len() >= 78
        && frame[12..14] == [0x86, 0xdd]
        && (frame[20], frame[54]) == (58, 135)
        && frame[62..78] == target.octets()
}

fn asks_without_flooding(datapath: Datapath) {
    let cluster = Cluster::start(&[datapath, Tc]).unwrap();
    create_dual_stack(&cluster.nodes[0]).unwrap();
    let near = Container::attach(&cluster.nodes[0], BLUE, "near", &[]).unwrap();
    let bystander = Container::attach(&cluster.nodes[1], BLUE, "bystander", &[]).unwrap();
    let far = Container::attach(&cluster.nodes[1], BLUE, "far", &[]).unwrap();
    ping_all(&near, six(&far).into()).unwrap();

    let before = cluster.nodes[0].counter("endpoint", "nd_answered").unwrap();
    let spies = [&bystander, &far].map(|at| PacketSocket::open(&at.netns, IFNAME).unwrap());
    // By its address, and by the one that its kernel made of its MAC address.
    let link_local = Ipv6Addr::from(far.mac.link_local());
    for (target, on) in [(six(&far), &[][..]), (link_local, &["-I", IFNAME])] {
        near.netns.exec("ip -6 neigh flush all").unwrap();
        let loss = ping(&near.netns, target, 3, on).unwrap();
        assert_eq!(loss.lost(), 0, "{target}: {loss}");
        for spy in &spies {
            // The echo requests came behind what was asked before them.
            let seen = spy.find(Duration::from_millis(100), |frame| solicits(frame, target)).unwrap();
            assert!(seen.is_none(), "{datapath:?}: a question for {target} was flooded");
        }
    }
    let after = cluster.nodes[0].counter("endpoint", "nd_answered").unwrap();
    assert!(after >= before + 2, "{datapath:?}: {before} then {after} answered");
}

#[test]
fn who_asks_for_a_neighbour_is_answered_and_nobody_else_hears_it() {
    for datapath in [Xdp, Kernel] {
        asks_without_flooding(datapath);
    }
}

#[test]
fn a_question_for_an_address_nobody_has_ends_at_its_node() {
    let cluster = Cluster::start(&[Tc, Xdp]).unwrap();
    create_dual_stack(&cluster.nodes[0]).unwrap();
    let containers: Vec<_> =
        cluster.nodes.iter().map(|node| Container::attach(node, BLUE, node.name(), &[]).unwrap()).collect();
    let spy = PacketSocket::open(&containers[1].netns, IFNAME).unwrap();
    let nobody: Ipv6Addr = "fd00:1::dead".parse().unwrap();
    assert_eq!(ping(&containers[0].netns, nobody, 1, &[]).unwrap().received, 0);
    assert!(cluster.nodes[0].counter("endpoint", "nd_unknown").unwrap() >= 1);
    assert!(spy.find(Duration::from_millis(100), |frame| solicits(frame, nobody)).unwrap().is_none());
}

/// A UDP datagram over IPv6 with the marker in it.
fn marked(from: (MacAddr, Ipv6Addr), to: &Container) -> Vec<u8> {
    let builder =
        PacketBuilder::ethernet2(from.0.0, to.mac.0).ipv6(from.1.octets(), six(to).octets(), 64).udp(1, 2);
    let mut frame = Vec::new();
    builder.write(&mut frame, MARKER).unwrap();
    frame
}

/// Neighbour discovery of a type from an address, to everybody.
fn discovery(from: (MacAddr, Ipv6Addr), kind: u8, body: &[u8]) -> Vec<u8> {
    let (source, destination) = (from.1.octets(), ALL_NODES.octets());
    let (start, rest) = body.split_first_chunk::<4>().unwrap();
    let kind = Icmpv6Type::Unknown { type_u8: kind, code_u8: 0, bytes5to8: *start };
    let header = Icmpv6Header::with_checksum(kind, source, destination, rest).unwrap();
    let message = [&header.to_bytes()[..], rest].concat();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(from.0.0, ALL_NODES_MAC)
        .ipv6(source, destination, 255)
        .write(&mut frame, IpNumber::IPV6_ICMP, &message)
        .unwrap();
    frame
}

/// An advertisement that `target` is at `mac`.
fn advertisement(from: (MacAddr, Ipv6Addr), target: Ipv6Addr, mac: MacAddr) -> Vec<u8> {
    discovery(from, 136, &[&[0x20, 0, 0, 0][..], &target.octets(), &[2, 1], &mac.0].concat())
}

fn cannot_send_as_somebody_else(datapath: Datapath) {
    let cluster = Cluster::start(&[datapath, Tc]).unwrap();
    let node = &cluster.nodes[0];
    create_dual_stack(node).unwrap();
    let [liar, neighbour] = ["liar", "neighbour"].map(|n| Container::attach(node, BLUE, n, &[]).unwrap());
    let far = Container::attach(&cluster.nodes[1], BLUE, "far", &[]).unwrap();
    ping_all(&liar, six(&far).into()).unwrap();

    let socket = PacketSocket::open(&liar.netns, IFNAME).unwrap();
    let (own, stolen) = (six(&liar), six(&neighbour));
    let link_local = |container: &Container| Ipv6Addr::from(container.mac.link_local());
    let cases = [
        ("another's address", marked((liar.mac, stolen), &far), "spoofed_address"),
        ("another's link-local address", marked((liar.mac, link_local(&neighbour)), &far), "spoofed_address"),
        ("no address", marked((liar.mac, Ipv6Addr::UNSPECIFIED), &far), "spoofed_address"),
        ("another's MAC", marked((neighbour.mac, own), &far), "spoofed_mac"),
        ("the word on another's address", advertisement((liar.mac, own), stolen, liar.mac), "spoofed_nd"),
        ("the word on another's MAC", advertisement((liar.mac, own), own, neighbour.mac), "spoofed_nd"),
        ("the word from another", advertisement((liar.mac, stolen), stolen, liar.mac), "spoofed_nd"),
        (
            "a router's word",
            discovery((liar.mac, link_local(&liar)), 134, &[64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]),
            "router_advert",
        ),
        ("a redirect", discovery((liar.mac, link_local(&liar)), 137, &[0; 36]), "router_advert"),
    ];
    for (what, frame, outcome) in cases {
        let spies = [&far, &neighbour].map(|at| PacketSocket::open(&at.netns, IFNAME).unwrap());
        let before = node.counter("endpoint", outcome).unwrap();
        socket.send(&frame).unwrap();
        eventually(SOON, || {
            let counted = node.counter("endpoint", outcome)? - before;
            ensure!(counted == 1, "{datapath:?}, {what}: counted {counted} times as {outcome}");
            Ok(())
        })
        .unwrap();
        for spy in &spies {
            let same = |seen: &[u8]| seen == frame.as_slice();
            let seen = spy.find(Duration::from_millis(50), same).unwrap();
            assert!(seen.is_none(), "{datapath:?}, {what}: delivered");
        }
    }
    // Honest all the same: by both its addresses, and with an advertisement of its own.
    let honest = [
        marked((liar.mac, own), &far),
        marked((liar.mac, link_local(&liar)), &far),
        advertisement((liar.mac, own), own, liar.mac),
    ];
    for frame in honest.iter().take(if datapath == Kernel { 2 } else { 3 }) {
        let spy = PacketSocket::open(&far.netns, IFNAME).unwrap();
        socket.send(frame).unwrap();
        assert!(spy.find(SOON, |seen| seen == frame.as_slice()).unwrap().is_some(), "{datapath:?}");
    }
    ping_all(&liar, six(&far).into()).unwrap();
}

#[test]
fn a_container_cannot_send_as_somebody_else_over_ipv6() {
    for datapath in [Xdp, Tc, Kernel] {
        cannot_send_as_somebody_else(datapath);
    }
}
