//! Rules for VXLAN from the wire.
//!
//! Its headers are matched as bits behind the start of the UDP header (`@th,offset,length`), since
//! nftables before 1.0.7 does not know VXLAN: flags at 64, VNI at 96, the inner Ethernet header at
//! 128, an inner IP header at 240.

use std::net::IpAddr;

use overlay_ebpf::abi::{Hook, Outcome};

use super::{
    names::{self, Peer},
    ruleset::{Base, Family, Policy, Ruleset, bits6, set, v4, v6},
    sets::{self, Element, Set},
};
use crate::{
    MacAddr, Vni,
    datapath::Underlay,
    plan::{Network, Plan},
    state::{Flooding, Vlan},
};

/// UDP and VXLAN headers, in bytes.
const VXLAN_END: u8 = 8 + 8;
/// The same and an inner Ethernet header.
const SHORTEST_UDP: u8 = VXLAN_END + 14;
/// The same with an IPv4 header without options.
const SHORTEST_IP: u8 = 20 + SHORTEST_UDP;

/// How nftables names the outer IP header.
const fn ip(underlay: &Underlay) -> &'static str {
    if underlay.addr.is_ipv6() { "ip6" } else { "ip" }
}

/// What comes in by the uplink for our tunnel address.
pub(super) fn uplink(ruleset: &mut Ruleset, plan: &Plan, underlay: &Underlay) {
    let Some(vnis) = set(plan.networks.keys()) else { return };
    let base =
        Base::Ingress { device: underlay.name.clone(), ifindex: underlay.ifindex, policy: Policy::Accept };
    let mut chain = ruleset.chain(Hook::Uplink, Family::Netdev, "uplink".into(), Some(base));
    chain.rule(format_args!(
        "{} daddr {} udp dport {} goto tunnels",
        ip(underlay),
        underlay.addr,
        underlay.port
    ));
    chain.end();

    let mut chain = ruleset.chain(Hook::Uplink, Family::Netdev, "tunnels".into(), None);
    chain.count(Outcome::Received);
    // Only the first fragment shows its port; without it the others are never reassembled.
    if underlay.addr.is_ipv6() {
        chain.drop("exthdr frag exists", Outcome::Fragment);
        chain.drop("ip6 nexthdr != udp", Outcome::OuterOptions);
    } else {
        chain.drop("ip hdrlength != 5", Outcome::OuterOptions);
        chain.drop("ip frag-off & 0x3fff != 0", Outcome::Fragment);
    }
    chain.drop(format_args!("udp length < {VXLAN_END}"), Outcome::Truncated);
    chain.drop("@th,64,8 & 0x08 == 0", Outcome::NoVniFlag);
    // Other VXLAN devices of this host may have those, with other flags and without Ethernet inside.
    chain.accept(format_args!("@th,96,24 != {vnis}"), Outcome::PassedUnknownVni);
    if underlay.addr.is_ipv6() {
        chain.drop(format_args!("ip6 length < {SHORTEST_UDP}"), Outcome::Truncated);
    } else {
        chain.drop(format_args!("ip length < {SHORTEST_IP}"), Outcome::Truncated);
    }
    chain.drop(format_args!("udp length < {SHORTEST_UDP}"), Outcome::Truncated);
    for reserved in ["@th,64,8 != 0x08", "@th,72,24 != 0", "@th,120,8 != 0"] {
        chain.drop(reserved, Outcome::ReservedBits);
    }
    if underlay.addr.is_ipv6() && !underlay.udp6_zero_checksum {
        chain.drop("udp checksum 0", Outcome::ZeroChecksum);
    }
    let verdicts = plan.networks.keys().map(|vni| format!("{vni} : goto vni_{vni}"));
    chain.rule(format_args!("@th,96,24 vmap {}", set(verdicts).unwrap_or_default()));
    // A packet that is under way while rules are replaced does not find itself in an anonymous map any more. A named
    // one of such keys nftables 0.9.8 does not have.
    for vni in plan.networks.keys() {
        chain.rule(format_args!("@th,96,24 {vni} goto vni_{vni}"));
    }
    chain.end();
    inner(ruleset, plan, underlay.port);
}

/// What nobody may send inside, whoever it is. Who comes through returns.
fn inner(ruleset: &mut Ruleset, plan: &Plan, port: u16) {
    let mut chain = ruleset.chain(Hook::Uplink, Family::Netdev, "inner_ip".into(), None);
    let protected = v4(&plan.protected).into_iter().map(|addr| format!("{:#x}", u32::from(addr)));
    if let Some(protected) = set(protected) {
        chain.rule("@th,312,8 != 17 return");
        chain.rule(format_args!("@th,368,32 != {protected} return"));
        chain.drop(format_args!("@th,240,8 0x45 @th,416,16 {port}"), Outcome::Nested);
        // With options the port is elsewhere, and no honest packet is like that.
        chain.drop("@th,240,8 != 0x45", Outcome::Nested);
    }
    chain.end();
    let mut chain = ruleset.chain(Hook::Uplink, Family::Netdev, "inner_ip6".into(), None);
    chain.drop("@th,288,8 58 @th,560,8 { 134, 137 }", Outcome::RouterAdvert);
    if let Some(protected) = set(v6(&plan.protected).into_iter().map(bits6)) {
        chain.drop(format_args!("@th,288,8 17 @th,432,128 {protected} @th,576,16 {port}"), Outcome::Nested);
    }
    chain.end();
}

/// VXLAN of our networks by another interface, loopback included, or to another address of this
/// host: the kernel's socket takes it from anywhere.
pub(super) fn other_ways(ruleset: &mut Ruleset, plan: &Plan, underlay: &Underlay) {
    let Some(vnis) = set(plan.networks.keys()) else { return };
    let family = if underlay.addr.is_ipv6() { Family::Ip6 } else { Family::Ip };
    let mut chain = ruleset.chain(Hook::Slowpath, family, "other_ways".into(), Some(Base::LocalIn));
    let another = format!("{} daddr != {}", ip(underlay), underlay.addr);
    for other in [format!("iif != {}", underlay.ifindex), another] {
        let what = format!("udp dport {} @th,96,24 {vnis} {other}", underlay.port);
        chain.drop_entering(what, Outcome::Unchecked);
    }
    chain.end();
}

/// What comes in for one network: who may send, from which sources, and to whom.
pub(super) fn network(ruleset: &mut Ruleset, plan: &Plan, underlay: &Underlay, vni: Vni, network: &Network) {
    let mut sources = sets::vteps(plan, network);
    sources.retain(|addr| addr.is_ipv6() == underlay.addr.is_ipv6());

    let mut chain = ruleset.chain(Hook::Uplink, Family::Netdev, format!("vni_{vni}"), None);
    let members = if underlay.addr.is_ipv6() { Set::Members6(vni) } else { Set::Members(vni) };
    let members_named = chain.set(members);
    chain.rule(format_args!("{} saddr vmap {members_named}", ip(underlay)));
    chain.drop("", Outcome::UnknownVtep);
    chain.end();

    ruleset.fill(sources.iter().map(|addr| (members, Element::Member(*addr))));
    for addr in sources {
        member(ruleset, (vni, network), addr);
    }
    destinations(ruleset, vni, network);
}

fn member(ruleset: &mut Ruleset, (vni, network): (Vni, &Network), addr: IpAddr) {
    let mut chain = ruleset.chain(Hook::Uplink, Family::Netdev, names::member_chain(vni, addr), None);
    let tagged = "@th,224,16 { 0x8100, 0x88a8 }";
    match network.policy.vlan {
        Vlan::Drop => chain.drop(tagged, Outcome::InnerVlan),
        Vlan::Trunk => chain.drop(format_args!("{tagged} @th,240,16 & 0x0fff == 0"), Outcome::InnerVlan),
    }
    let macs = chain.set(Set::Sources(vni, addr));
    chain.drop(format_args!("@th,176,48 != {macs}"), Outcome::InnerSource);
    chain.rule("@th,224,16 0x0800 jump inner_ip");
    chain.rule("@th,224,16 0x86dd jump inner_ip6");
    let counter = chain.named_counter(names::of_peer(Peer::From, addr));
    chain.rule(format_args!("counter name {counter} goto {}", destination_chain(vni)));
    chain.end();
}

fn destinations(ruleset: &mut Ruleset, vni: Vni, network: &Network) {
    let mut chain = ruleset.chain(Hook::Uplink, Family::Netdev, destination_chain(vni), None);
    let here = chain.set(Set::Here(vni));
    chain.accept(format_args!("@th,128,48 {here}"), Outcome::Delivered);
    let flooding = network.flooding();
    if flooding.broadcast == Flooding::Drop {
        chain.drop("@th,128,48 { 0xffffffffffff }", Outcome::BumPolicy);
    }
    if flooding.multicast == Flooding::Drop {
        chain.drop("@th,128,8 & 1 == 1 @th,128,48 != { 0xffffffffffff }", Outcome::BumPolicy);
    }
    chain.accept("@th,128,8 & 1 == 1", Outcome::Flooded);
    let elsewhere = chain.set(Set::Elsewhere(vni));
    chain.drop(format_args!("@th,128,48 {elsewhere}"), Outcome::NotLocal);
    if flooding.unknown_unicast == Flooding::Flood {
        chain.accept("", Outcome::Flooded);
    } else {
        chain.drop("", Outcome::UnknownDestination);
    }
    chain.end();
}

fn destination_chain(vni: Vni) -> String {
    format!("vni_{vni}_to")
}

/// A MAC address as the number that raw bits are compared with.
pub(super) fn bits(mac: MacAddr) -> String {
    mac.0.iter().fold("0x".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}
