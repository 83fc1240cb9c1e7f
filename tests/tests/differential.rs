//! The same inner frame through our encapsulation and through a kernel VXLAN device: the outer
//! packets are the same bytes, but for what the RFCs leave to the sender.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use etherparse::{
    IpHeaders, IpNumber, Ipv4HeaderSlice, Ipv6Extensions, Ipv6Header, Ipv6RawExtHeader, PacketBuilder,
};
use overlay_ebpf::wire::checksum;
use overlay_tests::{capture::PacketSocket, cleanup, netns::Netns};
use overlay_user::{
    MacAddr, Vni,
    datapath::{
        Datapath as _, Mode, Route, Underlay,
        ebpf::{EbpfDatapath, Features, Options, SCHEMA},
    },
    device::{self, EndpointDevice},
    plan::{Network, Plan, Vtep},
    state::{Delivery, Dscp, Endpoint, EndpointId, NodeName, Policy, Words},
};

const LIMIT: Duration = Duration::from_secs(3);
/// Tunnel addresses of here and there.
type Tunnel = (IpAddr, IpAddr);
const OVER_IPV4: Tunnel = (IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)));
const OVER_IPV6: Tunnel = (
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)),
);
const HERE_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const THERE_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const A: (MacAddr, Ipv4Addr) = (MacAddr([2, 0x42, 10, 0, 9, 2]), Ipv4Addr::new(10, 0, 9, 2));
const B: (MacAddr, Ipv4Addr) = (MacAddr([2, 0x42, 10, 0, 9, 3]), Ipv4Addr::new(10, 0, 9, 3));
const A6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 9, 2);
const B6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 9, 3);
const VNI: u32 = 42;

/// A node's namespace with an uplink `w0`, whose other end `w1` in another namespace is the wire.
struct Side {
    node: Netns,
    wire: Netns,
}

impl Side {
    fn new(role: &str, (here, there): Tunnel) -> Result<Self> {
        let side = Self { node: Netns::new(role)?, wire: Netns::new(&format!("{role}w"))? };
        side.node.exec(&format!(
            "ip link add w0 address {HERE_MAC} type veth peer name w1 netns {}",
            side.wire.name()
        ))?;
        side.wire.exec("ip link set w1 up")?;
        for line in [
            // What the kernel's device leaves to a card would else not be on the wire yet.
            "ethtool -K w0 tx off".to_owned(),
            "ip link set w0 up".to_owned(),
            // An IPv6 address counts at once, without a search for others that have it.
            format!("ip addr add {here}/24 dev w0{}", if here.is_ipv6() { " nodad" } else { "" }),
            format!("ip neigh add {there} lladdr {THERE_MAC} dev w0 nud permanent"),
        ] {
            side.node.exec(&line)?;
        }
        Ok(side)
    }

    /// The VXLAN packet on the wire after a frame was sent.
    fn outer(&self, sender: &PacketSocket, frame: &[u8]) -> Result<Vec<u8>> {
        let wire = PacketSocket::open(&self.wire, "w1")?;
        sender.send(frame)?;
        let vxlan = |packet: &[u8]| {
            let port = if is_ipv6(packet) { 56 } else { 36 };
            // With this frame in it: containers also send by themselves.
            packet.len() > 70 && packet[port..port + 2] == 4789_u16.to_be_bytes() && packet.ends_with(frame)
        };
        wire.find(LIMIT, vxlan)?.context("nothing came out on the wire")
    }
}

fn is_ipv6(packet: &[u8]) -> bool {
    packet[12..14] == [0x86, 0xdd]
}

#[test]
fn outer_packets_are_those_of_the_kernels_device() -> Result<()> {
    compare(OVER_IPV4, Dscp::Inherit, "inherit")?;
    compare(OVER_IPV4, Dscp::Fixed(0), "0")?;
    compare(OVER_IPV4, Dscp::Fixed(46), "0xb8")
}

#[test]
fn outer_packets_over_ipv6_are_those_of_the_kernels_device_with_their_checksums() -> Result<()> {
    compare(OVER_IPV6, Dscp::Inherit, "inherit")?;
    compare(OVER_IPV6, Dscp::Fixed(46), "0xb8")
}

/// Sends the same frames through our programs and through the kernel's device, which is told the same
/// DSCP as `tos`.
fn compare(tunnel: Tunnel, dscp: Dscp, tos: &str) -> Result<()> {
    let (here, there) = tunnel;
    let ours = Side::new("ours", tunnel)?;
    let kernels = Side::new("kernels", tunnel)?;
    let container = Netns::new("box")?;
    let bpffs = PathBuf::from(format!("/sys/fs/bpf/{}", cleanup::unique("diff")));
    start_ours(&ours, &container, bpffs.clone(), tunnel, dscp)?;
    let ours_in = PacketSocket::open(&container, "eth0")?;

    kernels.node.exec(&format!(
        "ip link add vx type vxlan id {VNI} local {here} dstport 4789 ttl 64 tos {tos} df set \
         srcport 49152 65535 nolearning noudpcsum"
    ))?;
    kernels.node.exec("ip link set vx up")?;
    kernels.node.exec(&format!("bridge fdb add {} dev vx dst {there} self permanent", B.0))?;
    let kernels_in = PacketSocket::open(&kernels.node, "vx")?;

    for (what, frame) in frames(if here.is_ipv6() { 20 } else { 0 }) {
        let left = normal(ours.outer(&ours_in, &frame).with_context(|| format!("{what}, ours"))?)?;
        let right =
            normal(kernels.outer(&kernels_in, &frame).with_context(|| format!("{what}, the kernel's"))?)?;
        let right = from_port_of(&left, right);
        ensure!(left == right, "{what}:\n ours   {left:02x?}\n kernel {right:02x?}");
    }
    std::fs::remove_dir_all(&bpffs)?;
    Ok(())
}

/// The kernel's packet, had it come from the source port of ours. Frames without a hash get one of ours, not
/// the kernel's; which ports come of that is the unit tests' matter.
fn from_port_of(ours: &[u8], mut kernels: Vec<u8>) -> Vec<u8> {
    let udp = if is_ipv6(ours) { 54 } else { 34 };
    let word = |packet: &[u8], at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let (port, check) = (word(ours, udp), word(&kernels, udp + 6));
    if (49_152..65_535).contains(&port) {
        if check != 0 {
            let check = checksum::replaced(check, word(&kernels, udp), port);
            kernels[udp + 6..udp + 8].copy_from_slice(&check.to_be_bytes());
        }
        kernels[udp..udp + 2].copy_from_slice(&port.to_be_bytes());
    }
    kernels
}

/// Inner frames of many kinds. None is marked CE, for which Linux writes ECT(0) outside and RFC 6040's
/// normal mode, which we follow, CE. The largest is `less` bytes smaller than what fits over IPv4.
fn frames(less: usize) -> Vec<(String, Vec<u8>)> {
    let mut frames = Vec::new();
    for length in [0, 1, 64, 777, 1422 - 14 - less] {
        for tos in [0, 1, 2, 0xb8, 0xfe] {
            let mut frame = Vec::new();
            let mut ip =
                etherparse::Ipv4Header::new(0, 17, etherparse::IpNumber::UDP, A.1.octets(), B.1.octets())
                    .unwrap();
            ip.dscp = (tos >> 2_u8).try_into().unwrap();
            ip.ecn = (tos & 3_u8).try_into().unwrap();
            PacketBuilder::ethernet2(A.0.0, B.0.0)
                .ip(etherparse::IpHeaders::Ipv4(ip, etherparse::Ipv4Extensions::default()))
                .udp(4000 + u16::from(tos), 53)
                .write(&mut frame, &vec![0x5a; length])
                .unwrap();
            frames.push((format!("UDP of {length} bytes, traffic class {tos:#x}"), frame));
        }
    }
    for port in 1..20 {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(A.0.0, B.0.0)
            .ipv4(A.1.octets(), B.1.octets(), 64)
            .tcp(40_000 + port, 80, 7, 1000)
            .syn()
            .write(&mut frame, &[])
            .unwrap();
        frames.push((format!("TCP from port {}", 40_000 + port), frame));
    }
    let mut echo = Vec::new();
    PacketBuilder::ethernet2(A.0.0, B.0.0)
        .ipv4(A.1.octets(), B.1.octets(), 64)
        .icmpv4_echo_request(1, 1)
        .write(&mut echo, b"echo")
        .unwrap();
    frames.push(("ICMP".into(), echo));
    frames.extend(frames6(less));
    let mut other = [B.0.0, A.0.0].concat();
    other.extend(0x88b5_u16.to_be_bytes());
    other.extend([1; 60]);
    frames.push(("an EtherType of its own, by the slow path".into(), other));
    frames
}

/// The same with IPv6.
fn frames6(less: usize) -> Vec<(String, Vec<u8>)> {
    let mut frames = Vec::new();
    let header = |traffic_class, flow_label: u32| Ipv6Header {
        traffic_class,
        flow_label: flow_label.try_into().unwrap(),
        hop_limit: 64,
        source: A6.octets(),
        destination: B6.octets(),
        ..Ipv6Header::default()
    };
    let builder =
        |header, extensions| PacketBuilder::ethernet2(A.0.0, B.0.0).ip(IpHeaders::Ipv6(header, extensions));
    for length in [0, 1, 64, 777, 1402 - 14 - less] {
        for class in [0, 1, 2, 0xb8, 0xfe] {
            let mut frame = Vec::new();
            builder(header(class, 0), Ipv6Extensions::default())
                .udp(4000 + u16::from(class), 53)
                .write(&mut frame, &vec![0x5a; length])
                .unwrap();
            frames.push((format!("IPv6 UDP of {length} bytes, traffic class {class:#x}"), frame));
        }
    }
    for number in 1..20 {
        let mut frame = Vec::new();
        // Linux labels its own flows.
        let label = if number % 2 == 0 { 0x1_2345 + u32::from(number) } else { 0 };
        builder(header(0, label), Ipv6Extensions::default())
            .tcp(40_000 + number, 80, 7, 1000)
            .syn()
            .write(&mut frame, &[])
            .unwrap();
        frames.push((format!("IPv6 TCP from port {}, flow label {label:#x}", 40_000 + number), frame));
    }
    let mut echo = Vec::new();
    builder(header(0, 0), Ipv6Extensions::default())
        .icmpv6_echo_request(1, 1)
        .write(&mut echo, b"echo")
        .unwrap();
    frames.push(("ICMPv6".into(), echo));
    let options = Ipv6RawExtHeader::new_raw(IpNumber::UDP, &[1, 4, 0, 0, 0, 0]).unwrap();
    let extensions = Ipv6Extensions { hop_by_hop_options: Some(options), ..Ipv6Extensions::default() };
    let mut behind = Vec::new();
    builder(header(0, 0), extensions).udp(1, 2).write(&mut behind, b"behind options").unwrap();
    frames.push(("IPv6 UDP behind options".into(), behind));
    frames
}

/// An outer packet without what each sender chooses: the IPv4 identification, and with it the
/// header checksum, which is checked first. Over IPv6 there is nothing to choose.
fn normal(mut packet: Vec<u8>) -> Result<Vec<u8>> {
    if is_ipv6(&packet) {
        return Ok(packet);
    }
    let header = Ipv4HeaderSlice::from_slice(&packet[14..])?;
    ensure!(header.to_header().calc_header_checksum() == header.header_checksum(), "wrong outer checksum");
    packet[18..20].fill(0);
    packet[24..26].fill(0);
    Ok(packet)
}

fn start_ours(side: &Side, container: &Netns, bpffs: PathBuf, tunnel: Tunnel, dscp: Dscp) -> Result<()> {
    let netns = device::Netns::Path(container.path());
    side.node.run(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let id: EndpointId = "0000000000d1".parse()?;
            let endpoint = EndpointDevice {
                host: id.host_device(),
                netns: Some(netns),
                ifname: "eth0".into(),
                mac: A.0,
                mtu: 1450,
                addresses: vec![format!("{}/24", A.1).parse()?],
                takes_redirects: false,
            };
            device::create(&endpoint).await?;
            let underlay = underlay(tunnel)?;
            let options = Options {
                bpffs,
                max_endpoints: 64,
                verify_every: Duration::from_secs(30),
                ignore_reserved_bits: false,
                features: Features::probe(),
                schema: SCHEMA,
            };
            let mut datapath = EbpfDatapath::start(options, Mode::Tc, &underlay)?;
            let applied = datapath.apply(&plan(tunnel, id, dscp)?, &underlay).await?;
            ensure!(applied.problems.is_empty(), "{:?}", applied.problems);
            // Pinned: what was loaded goes on when this returns.
            Ok(())
        })
    })
}

fn underlay((here, there): Tunnel) -> Result<Underlay> {
    let ifindex = nix::net::if_::if_nametoindex("w0")?;
    let route =
        Route { ifindex, source_mac: HERE_MAC, next_hop: there, neighbour: Some(THERE_MAC), mtu: 1500 };
    Ok(Underlay {
        ifindex,
        name: "w0".into(),
        driver: "veth".into(),
        addr: here,
        mac: HERE_MAC,
        mtu: 1500,
        port: 4789,
        udp6_zero_checksum: false,
        peers: [there].into(),
        routes: [(there, route)].into(),
    })
}

fn plan((here, there): Tunnel, id: EndpointId, dscp: Dscp) -> Result<Plan> {
    let (own, node): (NodeName, NodeName) = ("here".parse()?, "there".parse()?);
    let endpoint = |id, (mac, v4): (MacAddr, Ipv4Addr), v6: Ipv6Addr, node: &NodeName| {
        Arc::new(Endpoint {
            id,
            node: node.clone(),
            mac,
            addresses: vec![v4.into(), v6.into()].into(),
            words: Words::default(),
            delivery: Delivery::Tc,
        })
    };
    let policy = Policy { dscp, ..Policy::default() };
    let mut network = Network::new("net".parse()?, own.clone(), None, policy);
    network.insert(endpoint(id, A, A6, &own));
    network.insert(endpoint("0000000000d2".parse()?, B, B6, &node));
    Ok(Plan {
        vteps: [(node, Vtep { addr: there })].into_iter().collect(),
        networks: [(Vni::new(VNI)?, network)].into(),
        protected: [here, there].into_iter().collect(),
    })
}
