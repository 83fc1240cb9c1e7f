//! Rules for frames from this node's endpoints.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
};

use overlay_ebpf::abi::{Hook, Outcome};

use super::{
    names::{self, Peer},
    ruleset::{Base, Family, Policy, Ruleset, Writer, bits6, set, v4},
    sets::{self, Set, own6},
};
use crate::{
    MacAddr, Vni,
    plan::{Endpoint, Network, Plan},
    state::{Flooding, Vlan},
};

/// The first six bytes of ARP for IPv4 over Ethernet (RFC 826): hardware type, protocol, lengths.
const ARP_OF_IPV4: &str = "0x000108000604";

/// `ICMPv6` types: multicast listener discovery (RFC 3810).
const LISTENERS: &str = "130, 131, 132, 143";
/// Solicitations of routers and of neighbours (RFC 4861).
const SOLICITATIONS: &str = "133, 135";
/// A solicitation of a neighbour, with the address asked for at this place behind the `ICMPv6` header.
const WHO_HAS: &str = "icmpv6 type 135 @th,64,128";

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
    for (mac, endpoint) in &network.local {
        let device = endpoint.id.host_device();
        if let Some(ifindex) = indices.get(device.as_str()) {
            let base = Base::Ingress { device, ifindex: *ifindex, policy: Policy::Accept };
            sources(ruleset, port, (vni, network.policy.vlan), (*mac, network.station(endpoint)), base);
        }
    }
    destinations(ruleset, plan, vni, network);
}

/// An endpoint speaks for itself only, and no VXLAN to a node.
fn sources(
    ruleset: &mut Ruleset,
    port: u16,
    (vni, vlan): (Vni, Vlan),
    (mac, endpoint): (MacAddr, Endpoint<'_>),
    base: Base,
) {
    let name = format!("endpoint_{}", endpoint.id);
    let mut chain = ruleset.chain(Hook::Endpoint, Family::Netdev, name.clone(), Some(base));
    chain.count(Outcome::Received);
    chain.drop(format_args!("ether saddr != {mac}"), Outcome::SpoofedMac);
    let tagged = "@ll,96,16 { 0x8100, 0x88a8 }";
    match vlan {
        Vlan::Drop => chain.drop(tagged, Outcome::InnerVlan),
        // What is behind a tag is another segment: only the MAC address is bound.
        Vlan::Trunk => {
            // VLAN 0 is none (IEEE 802.1Q, section 6.9).
            chain.drop(format_args!("{tagged} @ll,112,16 & 0x0fff == 0"), Outcome::InnerVlan);
            chain.rule(format_args!("{tagged} goto {}", destination_chain(vni)));
        }
    }

    // Each kind of packet passes its own rules only: they are most of what a packet costs here.
    let chains =
        [("ip", format!("{name}_ip")), ("arp", format!("{name}_arp")), ("ip6", format!("{name}_ip6"))];
    for (kind, name) in &chains {
        chain.rule(format_args!("ether type {kind} goto {name}"));
    }
    chain.rule(format_args!("goto {}", destination_chain(vni)));
    chain.end();
    let [(_, ip), (_, arp), (_, ip6)] = chains;

    let own = v4(endpoint.addresses);
    let mut chain = ruleset.chain(Hook::Endpoint, Family::Netdev, ip, None);
    match set(&own) {
        Some(own) => chain.drop(format_args!("ip saddr != {own}"), Outcome::SpoofedAddress),
        None => chain.drop("", Outcome::SpoofedAddress),
    }
    let protected = chain.set(Set::Protected);
    chain.drop(format_args!("udp dport {port} ip daddr {protected}"), Outcome::EncapProhibited);
    chain.rule(format_args!("goto {}", station_chain(vni)));
    chain.end();

    let mut chain = ruleset.chain(Hook::Endpoint, Family::Netdev, arp, None);
    chain.drop(format_args!("@nh,0,48 != {ARP_OF_IPV4}"), Outcome::SpoofedArp);
    chain.drop(format_args!("arp saddr ether != {mac}"), Outcome::SpoofedArp);
    // A probe for an address in use has no sender address yet (RFC 5227, section 1.1).
    let senders = set(own.iter().chain([&Ipv4Addr::UNSPECIFIED])).unwrap_or_default();
    chain.drop(format_args!("arp saddr ip != {senders}"), Outcome::SpoofedArp);
    chain.rule(format_args!("goto {}", destination_chain(vni)));
    chain.end();

    let mut chain = ruleset.chain(Hook::Endpoint, Family::Netdev, ip6, None);
    let own = own6(mac, endpoint.addresses);
    discovery(&mut chain, mac, &own);
    // Who has no address yet asks whether it can have one, or who there is (RFC 3590, section 4).
    let nowhere = format!("ip6 saddr :: icmpv6 type {{ {SOLICITATIONS}, {LISTENERS} }}");
    chain.rule(format_args!("{nowhere} goto {}", destination_chain(vni)));
    let own = set(&own).unwrap_or_default();
    chain.drop(format_args!("ip6 saddr != {own}"), Outcome::SpoofedAddress);
    let protected = chain.set(Set::Protected6);
    chain.drop(format_args!("udp dport {port} ip6 daddr {protected}"), Outcome::EncapProhibited);
    chain.rule(format_args!("goto {}", destination_chain(vni)));
    chain.end();
}

/// What of neighbour discovery an endpoint must not send. Of the options, the first is looked at.
fn discovery(chain: &mut Writer<'_>, mac: MacAddr, own: &BTreeSet<Ipv6Addr>) {
    let claims = format!("icmpv6 type {{ {SOLICITATIONS}, 136 }}");
    chain.drop("icmpv6 type { 134, 137 }", Outcome::RouterAdvert);
    chain.drop(format_args!("{claims} ip6 nexthdr != 58"), Outcome::SpoofedNd);
    chain.drop(format_args!("{claims} ip6 hoplimit != 255"), Outcome::InnerMalformed);
    let bits = set(own.iter().map(|addr| bits6(*addr))).unwrap_or_default();
    chain.drop(format_args!("icmpv6 type 136 @th,64,128 != {bits}"), Outcome::SpoofedNd);
    let senders = set(own).unwrap_or_default();
    chain.drop(format_args!("icmpv6 type 136 ip6 saddr != {senders}"), Outcome::SpoofedNd);
    let senders = set(own.iter().chain([&Ipv6Addr::UNSPECIFIED])).unwrap_or_default();
    chain.drop(format_args!("{claims} ip6 saddr != {senders}"), Outcome::SpoofedNd);
    let mac = super::from_wire::bits(mac);
    chain.drop(format_args!("icmpv6 type 133 @th,64,8 {{ 1, 2 }} @th,80,48 != {mac}"), Outcome::SpoofedNd);
    let option = "icmpv6 type { 135, 136 } @th,192,8 { 1, 2 }";
    chain.drop(format_args!("{option} @th,208,48 != {mac}"), Outcome::SpoofedNd);
}

fn destinations(ruleset: &mut Ruleset, plan: &Plan, vni: Vni, network: &Network) {
    let mut chain = ruleset.chain(Hook::Endpoint, Family::Netdev, destination_chain(vni), None);
    // The requests that the bridge answers from its neighbour entries.
    let request = "ether daddr ff:ff:ff:ff:ff:ff arp operation request arp saddr ip != 0.0.0.0";
    let addresses = chain.set(Set::Addresses(vni));
    chain.accept(format_args!("{request} arp daddr ip {addresses}"), Outcome::ArpAnswered);
    let known = chain.set(Set::Known6(vni));
    chain.drop(format_args!("{WHO_HAS} != {known}"), Outcome::NdUnknown);
    // Those by unicast are answered and forwarded as well.
    let to_group = "@ll,0,16 0x3333 ip6 saddr != ::";
    let remote = chain.set(Set::Addresses6(vni));
    chain.accept(format_args!("{to_group} {WHO_HAS} {remote}"), Outcome::NdAnswered);
    chain.rule(format_args!("goto {}", station_chain(vni)));
    chain.end();

    // One look-up tells where a frame goes and what it is counted as.
    for vtep in sets::vteps(plan, network) {
        let name = names::node_chain(vni, vtep);
        let mut chain = ruleset.chain(Hook::Endpoint, Family::Netdev, name, None);
        let counter = chain.named_counter(names::of_peer(Peer::To, vtep));
        chain.accept(format_args!("counter name {counter}"), Outcome::Encapsulated);
        chain.end();
    }
    let mut chain = ruleset.chain(Hook::Endpoint, Family::Netdev, names::here_chain(vni), None);
    chain.accept("", Outcome::Delivered);
    chain.end();
    let mut chain = ruleset.chain(Hook::Endpoint, Family::Netdev, station_chain(vni), None);
    let stations = chain.set(Set::Stations(vni));
    chain.rule(format_args!("ether daddr vmap {stations}"));
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

/// The part of [`destination_chain`] that is for all packets, not ARP and neighbour discovery alone.
fn station_chain(vni: Vni) -> String {
    format!("vni_{vni}_station")
}
