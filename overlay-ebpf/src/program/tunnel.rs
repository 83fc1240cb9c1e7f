//! A packet that arrives on the uplink, judged from its outer headers to its inner destination.
//! Shared by XDP and tc: nothing here changes the packet.

use network_types::{
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
    vxlan::VxlanHdr,
};
use overlay_ebpf::{
    abi::{
        Addr, Config, ENDPOINT_PORT, Endpoint, FdbEntry, MacAddr, MemberKey, NETWORK_TRUNK, OUTER_LEN_V6,
        Outcome, RESERVED_BITS_IGNORE, UDP6_ZERO_CHECKSUM,
    },
    wire::{
        ETH_LEN, IPV6_LEN, UDP_LEN, VXLAN_LEN, ecn,
        ethernet::Ethernet,
        inner,
        outer::{self, Extent, FragmentHeader},
    },
};

use super::{
    Step,
    claims::{self, Sender},
    fdb, flooding, maps, network,
    packet::{self, Packet},
};

/// Bytes the checks read directly behind outer headers of `N` bytes: up to the ports behind an inner
/// IPv4 header with all options, or to the end of a neighbour advertisement with one.
pub const fn read<const N: usize>() -> u32 {
    (N + ETH_LEN + 72) as u32
}

/// A packet from another node that may be delivered.
#[derive(Clone, Copy)]
pub struct Arrival {
    /// The network.
    pub vni: u32,
    /// Row in `vteps` of the node it came from.
    pub vtep: u32,
    /// The kind of the inner frame.
    pub kind: inner::Kind,
    /// ECN bits to write into the inner header, if they change.
    pub ecn: Option<u8>,
    /// The outer UDP header has a checksum, which a card may have verified.
    pub summed: bool,
    /// Bytes behind the end of the outer IP packet, as of Ethernet padding: no part of the frame.
    pub trailer: u32,
    /// Where it goes.
    pub target: Target,
}

/// Where an arrival goes: to an endpoint on this node, or, if none, to every endpoint of the network here.
pub type Target = Option<&'static Endpoint>;

/// What the outer IP header says of a packet with UDP to this node.
struct Outer {
    tos: u8,
    extent: Extent,
}

/// Judges a packet of `bytes` whose outer headers, if it is ours, have `N` bytes: those of the underlay's family.
///
/// # Errors
/// [`Outcome::PassedUp`] and [`Outcome::PassedUnknownVni`] for what is not ours; else why it is dropped.
#[inline(always)]
pub fn inspect<const N: usize>(packet: &impl Packet, config: &Config, bytes: u32) -> Step<Arrival> {
    let over_ipv6 = N == OUTER_LEN_V6;
    let vxlan_at = N - VXLAN_LEN;
    let eth = packet::at::<Ethernet>(packet, 0).ok_or(Outcome::PassedUp)?;
    let Outer { tos: outer_tos, extent } =
        if over_ipv6 { outer_v6(packet, eth, config)? } else { outer_v4(packet, eth, config)? };
    let udp = packet::at::<UdpHdr>(packet, vxlan_at - UDP_LEN).ok_or(Outcome::PassedUp)?;
    if u16::from_be_bytes(udp.dst) != config.port {
        return Err(Outcome::PassedUp);
    }
    let vxlan = packet::at::<VxlanHdr>(packet, vxlan_at).ok_or(Outcome::Truncated)?;
    let vni = outer::vni(vxlan).ok_or(Outcome::NoVniFlag)?;
    let frame = packet::at::<Ethernet>(packet, N).ok_or_else(|| if_ours(vni, Outcome::Truncated))?;
    let (source, destination) = (frame.source, frame.destination);
    fdb::touch(config, vni, source);
    let ignore = config.flags & RESERVED_BITS_IGNORE != 0;
    outer::validate(extent, udp, vxlan, bytes, ignore).map_err(|flaw| if_ours(vni, flaw))?;
    let summed = udp.check != [0; 2];
    let unsummed = over_ipv6 && !summed && config.flags & UDP6_ZERO_CHECKSUM == 0;
    let to = fdb::find(config, vni, destination);
    let found = fdb::find(config, vni, source);
    let (sender, vtep) = match found.and_then(|entry| Some((entry, entry.vtep()?))) {
        Some((entry, vtep)) if !unsummed && is_from::<N>(packet, vtep) => (entry, vtep),
        _ => return Err(refusal::<N>(packet, vni, unsummed)),
    };
    let kind = kind::<N>(packet, frame, vni)?;
    let trailer = extent.trailer(bytes);
    let length = (bytes - trailer).saturating_sub((N + ETH_LEN) as u32);
    let sender = Sender::of_entry(vni, source, sender);
    let honest = claims::check(packet, config, kind, N + ETH_LEN, length, &sender).map_err(from_another)?;
    let ecn = match kind {
        inner::Kind::Ipv4 | inner::Kind::Ipv6 => ecn::merged(honest.class, outer_tos)?,
        inner::Kind::Arp | inner::Kind::Tagged | inner::Kind::Other => None,
    };
    let target = target(to, vni, destination)?;
    Ok(Arrival { vni, vtep, kind, ecn, summed, trailer, target })
}

/// What is wrong with a packet if its network is one of ours. Other VXLAN devices on the same port have
/// rules of their own: other flags, no Ethernet header inside.
#[inline(always)]
fn if_ours(vni: u32, flaw: Outcome) -> Outcome {
    // SAFETY: only asked for.
    if unsafe { maps::networks.get(vni).is_some() } { flaw } else { Outcome::PassedUnknownVni }
}

/// The inner frame's kind.
#[inline(always)]
fn kind<const N: usize>(packet: &impl Packet, frame: &Ethernet, vni: u32) -> Step<inner::Kind> {
    match inner::kind(frame) {
        Err(refused) if network(vni)?.flags & NETWORK_TRUNK != 0 => {
            let tci = *packet::at::<[u8; 2]>(packet, N + ETH_LEN).ok_or(refused)?;
            if inner::names_vlan(u16::from_be_bytes(tci)) { Ok(inner::Kind::Tagged) } else { Err(refused) }
        }
        other => other,
    }
}

#[inline(always)]
fn outer_v4(packet: &impl Packet, eth: &Ethernet, config: &Config) -> Step<Outer> {
    let ip = packet::at::<Ipv4Hdr>(packet, ETH_LEN).ok_or(Outcome::PassedUp)?;
    match outer::kind(eth, ip, config.mac, config.addr4) {
        outer::Kind::Foreign => Err(Outcome::PassedUp),
        outer::Kind::Udp => Ok(Outer { tos: ip.tos, extent: Extent::of_ipv4(ip) }),
        outer::Kind::Flawed(reason) => {
            let port = inner::udp_port_offset(ip).ok_or(Outcome::PassedUp)?;
            Err(if_to_port(packet, ETH_LEN + port, config.port, reason))
        }
    }
}

#[inline(always)]
fn outer_v6(packet: &impl Packet, eth: &Ethernet, config: &Config) -> Step<Outer> {
    let ip = packet::at::<Ipv6Hdr>(packet, ETH_LEN).ok_or(Outcome::PassedUp)?;
    match outer::kind_v6(eth, ip, config.mac, config.addr) {
        outer::Kind::Foreign => Err(Outcome::PassedUp),
        outer::Kind::Udp => {
            let tos = (ip.vcf[0] << 4) | (ip.vcf[1] >> 4);
            Ok(Outer { tos, extent: Extent::of_ipv6(ip) })
        }
        outer::Kind::Flawed(reason) => {
            let fragment = packet::at::<FragmentHeader>(packet, ETH_LEN + IPV6_LEN)
                .filter(|fragment| outer::fragment_begins_udp(fragment))
                .ok_or(Outcome::PassedUp)?;
            let port = ETH_LEN + IPV6_LEN + size_of_val(fragment) + 2;
            Err(if_to_port(packet, port, config.port, reason))
        }
    }
}

/// The reason to drop a packet if the destination port at `offset` is ours; else it goes up.
#[inline(always)]
fn if_to_port(packet: &impl Packet, offset: usize, port: u16, reason: Outcome) -> Outcome {
    match packet::at_computed::<[u8; 2]>(packet, offset) {
        Some(found) if u16::from_be_bytes(*found) == port => reason,
        _ => Outcome::PassedUp,
    }
}

/// Whether the outer source is the tunnel address of the node in row `vtep` of `vteps`.
#[inline(always)]
fn is_from<const N: usize>(packet: &impl Packet, vtep: u32) -> bool {
    let Some(row) = maps::vteps.get(vtep) else { return false };
    if N == OUTER_LEN_V6 {
        packet::at::<Ipv6Hdr>(packet, ETH_LEN).is_some_and(|ip| row.addr.0 == ip.src_addr)
    } else {
        packet::at::<Ipv4Hdr>(packet, ETH_LEN).is_some_and(|ip| row.addr.is_v4(ip.src_addr))
    }
}

/// The outer source.
#[inline(always)]
fn source<const N: usize>(packet: &impl Packet) -> Option<Addr> {
    if N == OUTER_LEN_V6 {
        packet::at::<Ipv6Hdr>(packet, ETH_LEN).map(|ip| Addr(ip.src_addr))
    } else {
        packet::at::<Ipv4Hdr>(packet, ETH_LEN).map(|ip| Addr::from_v4(ip.src_addr))
    }
}

/// Why a packet is not from an endpoint that is where it came from. A node with endpoints in a network has
/// a row in `members`: it is asked only here.
#[inline(always)]
fn refusal<const N: usize>(packet: &impl Packet, vni: u32, unsummed: bool) -> Outcome {
    let Some(addr) = source::<N>(packet) else { return Outcome::PassedUp };
    // SAFETY: only asked for.
    let member = unsafe { maps::members.get(MemberKey { vni, addr }).is_some() };
    match (member, unsummed) {
        (true, true) => Outcome::ZeroChecksum,
        (true, false) => Outcome::InnerSource,
        (false, _) => if_ours(vni, Outcome::UnknownVtep),
    }
}

/// What a broken claim is called where the sender's own node has let it pass.
#[inline(always)]
const fn from_another(reason: Outcome) -> Outcome {
    match reason {
        Outcome::SpoofedAddress | Outcome::SpoofedArp | Outcome::SpoofedNd => Outcome::InnerSource,
        Outcome::EncapProhibited => Outcome::Nested,
        other => other,
    }
}

/// Whether the endpoint that a packet goes to will forward it on: its inner destination is none of the
/// endpoint's addresses; or it leaves the node by a gateway port.
#[inline(always)]
pub fn goes_on<const N: usize>(packet: &impl Packet, arrival: &Arrival, endpoint: &Endpoint) -> bool {
    if endpoint.flags & ENDPOINT_PORT != 0 {
        return true;
    }
    let Some(frame) = packet::at::<Ethernet>(packet, N) else { return false };
    let endpoint = Sender::of_endpoint(arrival.vni, frame.destination, endpoint);
    match arrival.kind {
        inner::Kind::Ipv4 => {
            packet::at::<Ipv4Hdr>(packet, N + ETH_LEN).is_some_and(|ip| !endpoint.owns4(ip.dst_addr))
        }
        inner::Kind::Ipv6 => {
            packet::at::<Ipv6Hdr>(packet, N + ETH_LEN).is_some_and(|ip| !endpoint.owns6(ip.dst_addr))
        }
        inner::Kind::Tagged | inner::Kind::Arp | inner::Kind::Other => false,
    }
}

/// Where a frame to `destination`, which has this entry, goes on this node. What came from the overlay never
/// leaves again.
#[inline(always)]
pub fn target(entry: Option<FdbEntry>, vni: u32, destination: MacAddr) -> Step<Target> {
    let Some(entry) = entry else {
        flooding::allowed(&network(vni)?, destination)?;
        return Ok(None);
    };
    entry.slot().and_then(fdb::local).map(Some).ok_or(Outcome::NotLocal)
}
