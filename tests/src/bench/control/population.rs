//! Whose records there are: nodes that nobody runs, with endpoints spread over networks as a scheduler would
//! spread them, and further endpoints that come and go.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use overlay_ebpf::abi::MacAddr;
use overlay_user::state::{AddressRecord, AddressState, AliveRecord, EndpointRecord, NodeRecord};
use serde::Serialize;

/// What all keys begin with.
pub const PREFIX: &str = "/overlay/v1/default/";

/// How many nodes there are, the two that run overlayd not counted.
pub const NODES: u32 = 5_000;

/// How many networks the endpoints are in. Each node has endpoints in [`NETWORKS_OF_A_NODE`] of them.
pub const NETWORKS: u32 = 16;

/// Tenants that have containers on one node.
const NETWORKS_OF_A_NODE: u32 = NETWORKS / 4;

/// Host part of the first endpoint's address in each network.
const FIRST: u32 = 2;

/// Host part, in each network, from which those have their addresses who come and go: 10.x.245.1.
const FIRST_COMER: u32 = (245 << 8) + 1;

/// Identities of those who come and go begin here.
const COMERS: u32 = 1 << 24;

/// A key below [`PREFIX`] and its value.
pub type Record = (String, Vec<u8>);

/// One endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Simulated {
    /// What its identity is made of.
    number: u32,
    node: u32,
    network: u32,
    /// Host part of its address.
    host: u32,
}

// === impl Simulated ===

impl Simulated {
    /// The endpoint with a number below a million and a bit.
    pub const fn settled(number: u32) -> Self {
        let (node, round) = (number % NODES, number / NODES);
        let (group, member) = (node % 4, node / 4);
        let network = group * NETWORKS_OF_A_NODE + (member + round) % NETWORKS_OF_A_NODE;
        let most = 1_000_000 / NODES / NETWORKS_OF_A_NODE;
        Self { number, node, network, host: FIRST + member * most + round / NETWORKS_OF_A_NODE }
    }

    /// One of those who come and go. Its node has settled endpoints in its network.
    pub const fn comer(number: u32) -> Self {
        let (network, round) = (number % NETWORKS, number / NETWORKS);
        let (group, first) = (network / NETWORKS_OF_A_NODE, network % NETWORKS_OF_A_NODE);
        // The first 10,000 settled ones are at home in the network that is `member`'s own.
        let member = round % (NODES / 4 / NETWORKS_OF_A_NODE) * NETWORKS_OF_A_NODE + first;
        let node = member * 4 + group;
        Self { number: COMERS + number, node, network, host: FIRST_COMER + round }
    }

    /// Its network's number.
    pub const fn network(self) -> u32 {
        self.network
    }

    /// Its address.
    pub const fn addr(self) -> Ipv4Addr {
        Ipv4Addr::from_bits((10 << 24) | (self.network << 16) | self.host)
    }

    /// Its MAC address: what attaching makes of the address.
    pub const fn mac(self) -> MacAddr {
        MacAddr::of_ipv4(self.addr())
    }

    /// Keys of all that attaching writes.
    pub fn keys(self) -> [String; 3] {
        let network = network_name(self.network);
        let mac = self.mac().to_string().replace(':', "");
        [
            format!("{PREFIX}addresses/{network}/{:08x}", self.addr().to_bits()),
            format!("{PREFIX}macs/{network}/{mac}"),
            format!("{PREFIX}endpoints/{network}/{}", self.id()),
        ]
    }

    /// All that attaching writes, as it writes it.
    pub fn records(self) -> Result<[Record; 3]> {
        let [address, mac, endpoint] = self.keys();
        let (node, id, name) = (node_name(self.node), self.id(), format!("web-{}", self.number));
        let bound = AddressRecord {
            state: AddressState::Bound,
            node: node.parse()?,
            endpoint: id.parse()?,
            name: Some(name.clone()),
        };
        let record = EndpointRecord {
            node: node.parse()?,
            mac: self.mac().to_string(),
            addresses: vec![IpAddr::V4(self.addr())],
            names: vec![name],
            container: format!("/run/docker/netns/{id}"),
            ifname: "eth0".to_owned(),
            incarnation: 0,
            delivery: String::new(),
        };
        Ok([(address, value(&bound)?), (mac, id.into_bytes()), (endpoint, value(&record)?)])
    }

    /// Its identity, which is as if drawn at random.
    fn id(self) -> String {
        // An odd factor: another number for each.
        format!("{:012x}", u64::from(self.number).wrapping_mul(0x9e37_79b9_7f4b) & 0xffff_ffff_ffff)
    }
}

/// The name of a network.
pub fn network_name(network: u32) -> String {
    format!("net{network:02}")
}

/// The records of a node.
pub fn node_records(node: u32) -> Result<[Record; 2]> {
    let record = NodeRecord {
        vtep: IpAddr::V4(vtep(node)),
        port: 4789,
        mtu: Some(1500),
        datapath: "xdp".to_owned(),
        reason: "virtio_net has native XDP".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        incarnation: 1,
        host: String::new(),
        moved: 0,
        drained: false,
        prefixes: Vec::new(),
        is_static: false,
    };
    let alive = AliveRecord { incarnation: 1, applied: 1_000_000 };
    let name = node_name(node);
    Ok([
        (format!("{PREFIX}nodes/{name}"), value(&record)?),
        (format!("{PREFIX}alive/{name}"), value(&alive)?),
    ])
}

fn node_name(node: u32) -> String {
    format!("sim{node:04}")
}

/// Its tunnel address, of RFC 2544's range for benchmarks.
const fn vtep(node: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() + 1 + node)
}

fn value(record: &impl Serialize) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(record)?)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn all_can_be_in_one_cluster() {
        let comers = (0..1 << 14).map(Simulated::comer);
        let all: Vec<_> = (0..1_000_000).map(Simulated::settled).chain(comers).collect();
        let mut addresses = HashSet::new();
        let mut ids = HashSet::new();
        for endpoint in &all {
            let [_, _, host, last] = endpoint.addr().octets();
            assert!(host < 255 && (host, last) > (0, 1), "{endpoint:?}");
            assert!(addresses.insert(endpoint.addr()) && ids.insert(endpoint.id()), "{endpoint:?}");
        }
        // From 10,000 on no one who comes is its node's first in its network.
        let homes: HashSet<_> = all[..10_000].iter().map(|e| (e.node, e.network)).collect();
        assert!(all[1_000_000..].iter().all(|e| homes.contains(&(e.node, e.network))));
    }
}
