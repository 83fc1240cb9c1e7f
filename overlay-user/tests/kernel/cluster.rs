//! A cluster in small for data paths: nodes on a wire, containers on the nodes, and their plans.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, UdpSocket},
    sync::Arc,
};

use overlay_user::{
    MacAddr, Vni,
    datapath::{Applied, Counters, Datapath, Underlay, kernel::KernelDatapath},
    device::{self, EndpointDevice},
    plan::{Network, Plan, Vtep},
    state::{Delivery, Endpoint, EndpointId, NodeName, Policy, Words},
    underlay::{Selector, UnderlayFollower},
};
use tokio_util::sync::CancellationToken;

use crate::netns::Netns;

/// VNI of the cluster's network.
pub const VNI: u32 = 0x1f4;

/// Nodes on a wire. Node `n` has the tunnel address 192.0.2.`n + 1` on `eth0`.
pub struct Cluster {
    _wire: Netns,
    pub nodes: Vec<Node>,
    /// The endpoints of the network: each is on a node, and has the number of its address and MAC.
    pub endpoints: Vec<(usize, u8)>,
}

pub struct Node {
    pub netns: Netns,
    pub datapath: KernelDatapath,
}

impl Cluster {
    pub fn new(nodes: u8) -> Self {
        let wire = Netns::new("wire");
        wire.ip("link add br0 type bridge");
        wire.ip("link set br0 up");
        let node = |n: u8| {
            let netns = Netns::new(&format!("n{n}"));
            netns.ip(&format!("link add eth0 type veth peer name p{n} netns {}", wire.name()));
            netns.ip(&format!("addr add 192.0.2.{}/24 dev eth0", n + 1));
            netns.ip("link set eth0 up");
            wire.ip(&format!("link set p{n} master br0 up"));
            Node { netns, datapath: KernelDatapath::new() }
        };
        let nodes = (0..nodes).map(node).collect();
        Self { _wire: wire, nodes, endpoints: Vec::new() }
    }

    /// Makes a container with endpoint `number` on `node`: 10.0.9.`number`.
    pub fn attach(&mut self, node: usize, number: u8) -> Netns {
        let container = Netns::new(&format!("c{number}"));
        // Its multicast listener reports would be counted.
        container.exec("sysctl -q net.ipv6.conf.default.disable_ipv6=1");
        let device = EndpointDevice {
            host: id(number).host_device(),
            netns: Some(device::Netns::Path(container.path())),
            ifname: "eth0".into(),
            mac: mac(number),
            mtu: 1450,
            addresses: vec![format!("10.0.9.{number}/24").parse().unwrap()],
            takes_redirects: false,
        };
        self.nodes[node].netns.run(async || device::create(&device).await.unwrap());
        self.endpoints.push((node, number));
        container
    }

    pub fn plan(&self, node: usize) -> Plan {
        let name = |n: usize| -> NodeName { format!("node{n}").parse().unwrap() };
        let others = self.endpoints.iter().map(|(n, _)| *n).filter(|n| *n != node);
        let members: BTreeSet<_> = others.collect();
        let mut network = Network::new("net".parse().unwrap(), name(node), None, Policy::default());
        for (n, number) in &self.endpoints {
            network.insert(endpoint(*number, &name(*n)));
        }
        let local = self.endpoints.iter().any(|(n, _)| *n == node);
        Plan {
            vteps: members.iter().map(|n| (name(*n), Vtep { addr: vtep(*n).into() })).collect(),
            networks: local.then(|| (Vni::new(VNI).unwrap(), network)).into_iter().collect(),
            protected: (0..self.nodes.len()).map(|n| IpAddr::from(vtep(n))).collect(),
        }
    }

    /// Applies the plan on every node; nothing may be a problem.
    pub fn apply_all(&mut self) -> usize {
        let applied: Vec<_> = (0..self.nodes.len()).map(|node| self.apply(node, &self.plan(node))).collect();
        for one in &applied {
            assert_eq!(one.problems, Vec::<String>::new());
        }
        applied.iter().map(|one| one.changed).sum()
    }

    pub fn apply(&mut self, node: usize, plan: &Plan) -> Applied {
        let underlay = self.underlay(node);
        let Node { netns, datapath } = &mut self.nodes[node];
        netns.run(async || datapath.apply(plan, &underlay).await.unwrap())
    }

    /// What a node's kernel has otherwise than by a plan, and where.
    pub fn audit(&mut self, node: usize, plan: &Plan) -> Vec<(String, String)> {
        let underlay = self.underlay(node);
        let Node { netns, datapath } = &mut self.nodes[node];
        let found = netns.run(async || datapath.audit(plan, &underlay).await.unwrap());
        found.named.into_iter().map(|difference| (difference.place, difference.what)).collect()
    }

    pub fn underlay(&self, node: usize) -> Underlay {
        self.nodes[node].netns.run(async || {
            let cancel = CancellationToken::new();
            let selector = Selector::Address(vtep(node).into());
            let follower = UnderlayFollower::start(selector, 4789, cancel).await.unwrap();
            follower.current().borrow().clone()
        })
    }

    pub fn counters(&mut self, node: usize) -> Counters {
        let Node { netns, datapath } = &mut self.nodes[node];
        netns.run(async || datapath.counters().await.unwrap())
    }

    /// Packets with an outcome at a hook of a node.
    pub fn count(&mut self, node: usize, hook: &str, outcome: &str) -> u64 {
        let counters = self.counters(node);
        counters.outcomes.get(hook).and_then(|hook| hook.get(outcome)).map_or(0, |count| count.packets)
    }
}

pub fn vtep(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, u8::try_from(node + 1).unwrap())
}

pub fn id(number: u8) -> EndpointId {
    format!("{number:012x}").parse().unwrap()
}

pub fn mac(number: u8) -> MacAddr {
    MacAddr([2, 0x42, 10, 0, 9, number])
}

pub fn addr(number: u8) -> IpAddr {
    [10, 0, 9, number].into()
}

/// Whether `count` pings from a container to endpoint `number` are all answered.
pub fn pings(container: &Netns, number: u8) -> bool {
    container.succeeds(&format!("ping -q -c 2 -i 0.05 -W 1 10.0.9.{number}"))
}

/// Sends one UDP packet from a namespace.
pub fn send(netns: &Netns, from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) {
    netns.run(async || {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket.send_to(payload, (to, 4789)).unwrap();
    });
}

/// A VXLAN header and an inner UDP packet.
pub fn vxlan(flags: u8, vni: u32, inner: &Inner) -> Vec<u8> {
    let mut bytes = vec![flags, 0, 0, 0];
    bytes.extend((vni << 8).to_be_bytes());
    bytes.extend(inner.to.0);
    bytes.extend(inner.from.0);
    bytes.extend([8, 0]);
    let mut ip = vec![0x45, 0, 0, 48, 0, 0, 0, 0, 64, 17, 0, 0];
    ip.extend([10, 0, 9, 99]);
    ip.extend(inner.dst.octets());
    let sum: u32 = ip.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes.extend(ip);
    bytes.extend(7777u16.to_be_bytes());
    bytes.extend(inner.port.to_be_bytes());
    bytes.extend([0, 28, 0, 0]);
    bytes.extend([0x55; 20]);
    bytes
}

pub struct Inner {
    pub from: MacAddr,
    pub to: MacAddr,
    pub dst: Ipv4Addr,
    pub port: u16,
}

/// Counts that are not zero, by name, for messages.
pub fn outcomes(counters: &Counters) -> BTreeMap<String, u64> {
    let flat = counters.outcomes.iter().flat_map(|(hook, outcomes)| {
        outcomes.iter().map(move |(outcome, count)| (format!("{hook} {outcome}"), count.packets))
    });
    flat.collect()
}

/// Endpoint `number` as it is on the node `at`: 10.0.9.`number`.
pub fn endpoint(number: u8, at: &NodeName) -> Arc<Endpoint> {
    Arc::new(Endpoint {
        id: id(number),
        node: at.clone(),
        mac: mac(number),
        addresses: vec![addr(number)].into(),
        delivery: Delivery::Tc,
        words: Words::default(),
    })
}
