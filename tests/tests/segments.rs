//! Super-packets and jumbo frames: whole where they may be, cut right where they must be, and never a byte
//! changed.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use etherparse::{NetHeaders, PacketHeaders, TransportHeader};
use overlay_tests::{
    capture::PacketSocket,
    cluster::{Cluster, Network},
    container::{Container, IFNAME},
    netns::Netns,
    node::{
        Datapath::{self, Kernel, Tc, Xdp},
        Node,
    },
    probe::{ping, ping_all, transfer, transfer_by},
    wire::{Card, UPLINK},
};

const BLUE: Network<'_> = Network { name: "blue", vni: 4242, subnet: "10.1.0.0/24" };

/// What is moved by TCP.
const BYTES: u64 = 4_000_000;

/// The longest frame of a container on a wire of 1500 bytes, Ethernet header included.
const FRAME: usize = 1450 + 14;

/// A sender's node and a receiver's, with a container each.
struct Pair {
    cluster: Cluster,
    sender: Container,
    receiver: Container,
}

impl Pair {
    fn new(sender: Datapath, receiver: Datapath) -> Self {
        let cluster = Cluster::start(&[sender, receiver]).unwrap();
        cluster.create_network(BLUE).unwrap();
        let [sender, receiver] = [("sender", 0), ("receiver", 1)]
            .map(|(name, node)| Container::attach(&cluster.nodes[node], BLUE.name, name, &[]).unwrap());
        ping_all(&sender, &receiver).unwrap();
        Self { cluster, sender, receiver }
    }

    /// Has the wire carry one MTU at a time, checksums filled in, and merge what arrives: as cards do.
    fn be_cards(&self) {
        let card = |name: &str| format!("ethtool -K {name} tx off tso off gso off gro on");
        for node in &self.cluster.nodes {
            node.netns().exec(&card(UPLINK)).unwrap();
            self.cluster.wire.netns().exec(&card(&node.port().name)).unwrap();
        }
    }
}

/// All frames that passed so far.
fn seen(socket: &PacketSocket) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| socket.receive(Duration::from_millis(100)).unwrap()).collect()
}

#[test]
fn super_packets_leave_whole_and_streams_are_merged_before_delivery() {
    for datapath in [Xdp, Tc, Kernel] {
        let pair = Pair::new(datapath, Tc);
        // The wire's end of the sender's uplink.
        let wire = pair.cluster.wire.netns();
        let port = PacketSocket::open(wire, &pair.cluster.nodes[0].port().name).unwrap();
        transfer(&pair.sender.netns, &pair.receiver.netns, pair.receiver.addr, BYTES).unwrap();
        let longest = seen(&port).iter().map(Vec::len).max().unwrap();
        // With XDP on it, a veth takes its other end's segmentation offload away, not its own.
        assert!(longest > 4 * FRAME, "{datapath}: {longest} bytes is the longest packet on the uplink");

        let pair = Pair::new(Tc, datapath);
        pair.be_cards();
        let inside = PacketSocket::open(&pair.receiver.netns, IFNAME).unwrap();
        transfer(&pair.sender.netns, &pair.receiver.netns, pair.receiver.addr, BYTES).unwrap();
        let longest = seen(&inside).iter().map(Vec::len).max().unwrap();
        assert!(longest > 2 * FRAME, "{datapath}: {longest} bytes is the longest packet in the container");
    }
}

#[test]
fn what_a_container_forwards_on_is_cut_up_right() {
    for datapath in [Xdp, Tc, Kernel] {
        for cards in [false, true] {
            let pair = Pair::new(Tc, datapath);
            if cards {
                pair.be_cards();
            }
            let world = world_behind(&pair.receiver);
            let outside = PacketSocket::open(&world, "world").unwrap();
            let inside = PacketSocket::open(&pair.receiver.netns, IFNAME).unwrap();
            transfer_by(&pair.sender.netns, &world, [172, 16, 0, 2], pair.receiver.addr, BYTES)
                .with_context(|| format!("{datapath}, wire of cards: {cards}"))
                .unwrap();
            let merged = seen(&inside).iter().filter(|frame| frame.len() > FRAME).count();
            // With XDP on its uplink, a veth's other end sends no super-packets, and alone merges none.
            assert!(merged > 0 || (datapath == Xdp && !cards), "{datapath}: nothing merged was forwarded");
            let frames = seen(&outside);
            assert!(frames.len() > usize::try_from(BYTES).unwrap() / FRAME);
            for frame in &frames {
                checked(frame).with_context(|| format!("{datapath}, wire of cards: {cards}")).unwrap();
            }
        }
    }
}

/// A namespace behind the container, which translates what comes for itself to it. The interface between
/// them has no offloads, so that everything is cut up and summed in software.
fn world_behind(router: &Container) -> Netns {
    let world = Netns::new("world").unwrap();
    let router_addr = router.addr;
    for line in [
        format!("ip link add out mtu 1450 type veth peer name world netns {}", world.name()),
        "ip address add 172.16.0.1/24 dev out".to_owned(),
        "ip link set out up".to_owned(),
        "ethtool -K out tx off tso off gso off".to_owned(),
        "sysctl -qw net.ipv4.ip_forward=1".to_owned(),
        "nft add table ip nat".to_owned(),
        "nft add chain ip nat in { type nat hook prerouting priority -100 ; }".to_owned(),
        format!("nft add rule ip nat in ip daddr {router_addr} tcp dport 1-65535 dnat to 172.16.0.2"),
    ] {
        router.netns.exec(&line).unwrap();
    }
    for line in [
        "ip address add 172.16.0.2/24 dev world",
        "ip link set world up",
        "ip route add default via 172.16.0.1",
    ] {
        world.exec(line).unwrap();
    }
    world
}

/// Checks length and checksums of a TCP segment; other packets pass.
fn checked(frame: &[u8]) -> Result<()> {
    ensure!(frame.len() <= FRAME, "a frame of {} bytes", frame.len());
    let headers = PacketHeaders::from_ethernet_slice(frame)?;
    let (Some(NetHeaders::Ipv4(ip, _)), Some(TransportHeader::Tcp(tcp))) = (headers.net, headers.transport)
    else {
        return Ok(());
    };
    let right = ip.calc_header_checksum();
    ensure!(same_sum(ip.header_checksum, right), "IPv4 checksum {:04x}, not {right:04x}", ip.header_checksum);
    let Ok(right) = tcp.calc_checksum_ipv4(&ip, headers.payload.slice()) else { bail!("too long a segment") };
    ensure!(same_sum(tcp.checksum, right), "TCP checksum {:04x}, not {right:04x}", tcp.checksum);
    Ok(())
}

/// Whether a receiver takes one checksum as well as the other: zero may be written as all ones (RFC 1071).
/// Where Linux fills one in late, it does that whatever the protocol (net/core/dev.c, `skb_checksum_help`),
/// which is one segment in 65536.
const fn same_sum(one: u16, other: u16) -> bool {
    one % u16::MAX == other % u16::MAX
}

#[test]
fn a_checksum_of_zero_may_be_all_ones() {
    let segment = |payload: [u8; 2]| {
        let ethernet = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]);
        let builder = ethernet.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(1, 2, 3, 4);
        let mut frame = Vec::new();
        builder.write(&mut frame, &payload).unwrap();
        frame
    };
    // Where the payload is the checksum of all the rest, the whole comes to zero.
    let rest = segment([0, 0]);
    let mut frame = segment([rest[50], rest[51]]);
    assert_eq!(frame[50..52], [0, 0]);
    checked(&frame).unwrap();
    frame[50..52].fill(0xff);
    checked(&frame).unwrap();
    frame[51] = 0xfe;
    checked(&frame).unwrap_err();
}

#[test]
fn jumbo_frames_pass_both_ways_unchanged() {
    let mut cluster = Cluster::empty().unwrap();
    cluster.wire.netns().exec("ip link set wire mtu 9000").unwrap();
    for (name, datapath) in [("n1", Xdp), ("n2", Tc), ("n3", Kernel), ("n4", Xdp)] {
        let mut node = Node::plug(&cluster.wire, name, Card::Veth, datapath, &[]).unwrap();
        cluster.wire.netns().exec(&format!("ip link set {} mtu 9000", node.port().name)).unwrap();
        node.netns().exec(&format!("ip link set {UPLINK} mtu 9000")).unwrap();
        node.launch().unwrap();
        cluster.nodes.push(node);
    }
    cluster.wait_ready().unwrap();
    cluster.create_network(BLUE).unwrap();
    let containers = cluster.attach_each(BLUE).unwrap();
    for from in &containers {
        assert_eq!(from.mtu, 8950, "{}", from.name);
        for to in containers.iter().filter(|to| to.addr != from.addr) {
            ping_all(from, to).unwrap();
            // The largest packet: IPv4 and ICMP headers are 28 bytes.
            let loss = ping(&from.netns, to.addr, 5, &["-M", "do", "-s", "8922"]).unwrap();
            assert_eq!(loss.lost(), 0, "from {} to {}", from.name, to.name);
            transfer(&from.netns, &to.netns, to.addr, BYTES)
                .with_context(|| format!("TCP from {} to {}", from.name, to.name))
                .unwrap();
        }
    }
    for node in &cluster.nodes {
        let status = node.status().unwrap();
        for slow in ["slow_encapsulated", "slow_too_long", "too_big", "truncated"] {
            assert_eq!(node.counter("uplink", slow).unwrap(), 0, "{}: {status}", node.name());
        }
    }
}
