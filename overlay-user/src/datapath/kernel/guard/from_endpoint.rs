//! Rules for frames from this node's endpoints.

use std::{collections::BTreeMap, net::Ipv4Addr};

use overlay_ebpf::abi::{Hook, Outcome};

use super::{
    names::{self, Peer},
    ruleset::{Base, Family, Policy, Ruleset, set, v4, v6},
};
use crate::{
    MacAddr, Vni,
    plan::{Endpoint, Location, Network, Plan},
    state::{Flooding, Vlan},
};

/// The first six bytes of ARP for IPv4 over Ethernet (RFC 826): hardware type, protocol, lengths.
const ARP_OF_IPV4: &str = "0x000108000604";

/// What comes from the endpoints of one network: a chain on each interface, and one for where it
/// goes.
pub(super) fn network(
    ruleset: &mut Ruleset,
    plan: &Plan,
    port: u16,
    vni: Vni,
    network: &Network,
    indices: &BTreeMap<&str, u32>,
) {
    for (mac, endpoint) in &network.endpoints {
        if endpoint.location != Location::Local {
            continue;
        }
        let device = endpoint.id.host_device();
        if let Some(ifindex) = indices.get(device.as_str()) {
            let base = Base::Ingress { device, ifindex: *ifindex, policy: Policy::Accept };
            sources(ruleset, plan, port, (vni, network.policy.vlan), (*mac, endpoint), base);
        }
    }
    destinations(ruleset, plan, vni, network);
}

/// An endpoint speaks for itself only, and no VXLAN to a node.
fn sources(
    ruleset: &mut Ruleset,
    plan: &Plan,
    port: u16,
    (vni, vlan): (Vni, Vlan),
    (mac, endpoint): (MacAddr, &Endpoint),
    base: Base,
) {
    let name = format!("endpoint_{}", endpoint.id);
    let mut chain = ruleset.chain(Hook::Endpoint, Family::Netdev, name, Some(base));
    chain.count(Outcome::Received);
    chain.drop(format_args!("ether saddr != {mac}"), Outcome::SpoofedMac);
    let tagged = "@ll,96,16 { 0x8100, 0x88a8 }";
    match vlan {
        Vlan::Drop => chain.drop(tagged, Outcome::InnerVlan),
        // What is behind a tag is another segment: only the MAC address is bound.
        Vlan::Trunk => chain.rule(format_args!("{tagged} goto {}", destination_chain(vni))),
    }

    let own = v4(&endpoint.addresses);
    chain.drop(format_args!("ether type arp @nh,0,48 != {ARP_OF_IPV4}"), Outcome::SpoofedArp);
    chain.drop(format_args!("ether type arp arp saddr ether != {mac}"), Outcome::SpoofedArp);
    // A probe for an address in use has no sender address yet (RFC 5227, section 1.1).
    let senders = set(own.iter().chain([&Ipv4Addr::UNSPECIFIED])).unwrap_or_default();
    chain.drop(format_args!("ether type arp arp saddr ip != {senders}"), Outcome::SpoofedArp);
    match set(&own) {
        Some(own) => chain.drop(format_args!("ip saddr != {own}"), Outcome::SpoofedAddress),
        None => chain.drop("ether type ip", Outcome::SpoofedAddress),
    }
    if let Some(protected) = set(v4(&plan.protected)) {
        chain.drop(format_args!("ip daddr {protected} udp dport {port}"), Outcome::EncapProhibited);
    }
    if let Some(protected) = set(v6(&plan.protected)) {
        chain.drop(format_args!("ip6 daddr {protected} udp dport {port}"), Outcome::EncapProhibited);
    }
    chain.rule(format_args!("goto {}", destination_chain(vni)));
    chain.end();
}

fn destinations(ruleset: &mut Ruleset, plan: &Plan, vni: Vni, network: &Network) {
    let mut local = Vec::new();
    let mut remote = Vec::new();
    let mut remote_addresses = Vec::new();
    for (mac, endpoint) in &network.endpoints {
        match &endpoint.location {
            Location::Local => local.push(*mac),
            Location::Port(_) => {}
            Location::Remote(node) => {
                let Some(vtep) = plan.vteps.get(node).map(|vtep| vtep.addr) else { continue };
                remote.push((*mac, vtep));
                remote_addresses.extend(v4(&endpoint.addresses));
            }
        }
    }

    let mut chain = ruleset.chain(Hook::Endpoint, Family::Netdev, destination_chain(vni), None);
    if let Some(addresses) = set(remote_addresses) {
        // The requests that the bridge answers from its neighbour entries.
        let request = "ether daddr ff:ff:ff:ff:ff:ff arp operation request arp saddr ip != 0.0.0.0";
        chain.accept(format_args!("{request} arp daddr ip {addresses}"), Outcome::ArpAnswered);
    }
    let counters: Vec<_> = remote
        .iter()
        .map(|(mac, vtep)| {
            let counter = chain.named_counter(names::of_peer(Peer::To, *vtep));
            format!("{mac} : \"{counter}\"")
        })
        .collect();
    if let Some(counters) = set(counters) {
        chain.rule(format_args!("counter name ether daddr map {counters}"));
    }
    if let Some(local) = set(local) {
        chain.accept(format_args!("ether daddr {local}"), Outcome::Delivered);
    }
    if let Some(remote) = set(remote.iter().map(|(mac, _)| mac)) {
        chain.accept(format_args!("ether daddr {remote}"), Outcome::Encapsulated);
    }
    let flooding = network.flooding();
    if flooding.broadcast == Flooding::Drop {
        chain.drop("ether daddr ff:ff:ff:ff:ff:ff", Outcome::BumPolicy);
    }
    if flooding.multicast == Flooding::Drop {
        chain.drop("@ll,0,8 & 1 == 1 ether daddr != ff:ff:ff:ff:ff:ff", Outcome::BumPolicy);
    }
    if flooding.unknown_unicast == Flooding::Drop {
        chain.drop("@ll,0,8 & 1 == 0", Outcome::UnknownDestination);
    }
    let rate = network.policy.bum_rate;
    chain.drop(format_args!("limit rate over {rate}/second burst {rate} packets"), Outcome::BumRate);
    chain.accept("", Outcome::Flooded);
    chain.end();
}

fn destination_chain(vni: Vni) -> String {
    format!("vni_{vni}_out")
}
