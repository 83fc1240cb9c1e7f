//! What an inner packet says of its sender, checked against what the sender has. The same for what
//! comes from a container and from the wire.

use core::net::Ipv4Addr;

use network_types::{
    arp::ArpHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};
use overlay_ebpf::{
    abi::{
        Addr, Config, ENDPOINT_LEARNED, Endpoint, EndpointKey, FdbEntry, MacAddr, Neighbour, NeighbourKey,
        Outcome, Port,
    },
    wire::{
        IPV6_LEN, PROTO_ICMPV6, PROTO_UDP, arp, inner,
        ipv6::{self, Upper},
        nd,
    },
};

use super::{
    Step, maps,
    packet::{self, Packet},
};

/// An endpoint and its addresses: who a packet must be from.
#[derive(Clone, Copy)]
pub struct Sender {
    /// The network.
    pub vni: u32,
    /// Its MAC address.
    pub mac: MacAddr,
    addr4: [u8; 4],
    addr6: [u8; 16],
    /// It is behind a gateway port, where nobody has told its addresses: it may have any that is nobody
    /// else's.
    learned: bool,
}

/// A packet whose claims hold up.
///
/// It and what the functions here return have no field that is not always set: what one variant of an enum has
/// not, is undefined in the other, and the compiler may read that from the stack and not use it. The verifier
/// refuses such reads before Linux 6.3.
pub struct Honest {
    /// The traffic class of IP; else 0.
    pub class: u8,
    /// What it asks for that is answered here.
    pub asks: Asks,
}

/// What a packet asks for that is answered in place of who is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Asks {
    /// Nothing.
    Nothing,
    /// Who has an IPv4 address?
    Arp,
    /// Who has an IPv6 address?
    Nd,
}

/// Checks a packet of `kind` whose network header is at `offset` and `length` bytes from the end.
///
/// # Errors
/// [`Outcome::SpoofedAddress`], [`Outcome::SpoofedArp`], [`Outcome::SpoofedNd`],
/// [`Outcome::RouterAdvert`], [`Outcome::EncapProhibited`], [`Outcome::InnerMalformed`].
#[inline(always)]
pub fn check(
    packet: &impl Packet,
    config: &Config,
    kind: inner::Kind,
    offset: usize,
    length: u32,
    sender: &Sender,
) -> Step<Honest> {
    let (class, asks) = match kind {
        inner::Kind::Ipv4 => {
            let ip = packet::at::<Ipv4Hdr>(packet, offset).ok_or(Outcome::InnerMalformed)?;
            inner::check_ipv4(ip)?;
            if !sender.owns4(ip.src_addr) {
                return Err(Outcome::SpoofedAddress);
            }
            (check_ipv4(packet, config, offset)?, Asks::Nothing)
        }
        inner::Kind::Ipv6 => {
            let class = unpacked(check_ipv6(packet, offset, length, sender))?;
            let asks = class & DISCOVERY != 0 && unpacked(check_discovery(packet, offset, sender))? != 0;
            (class as u8, if asks { Asks::Nd } else { Asks::Nothing })
        }
        inner::Kind::Arp => {
            let arp = packet::at::<ArpHdr>(packet, offset).ok_or(Outcome::InnerMalformed)?;
            match arp::question(arp, sender.mac, |address| sender.owns4(address))? {
                arp::Question::WhoHas(_) => (0, Asks::Arp),
                arp::Question::Announcement => (0, Asks::Nothing),
            }
        }
        // What is behind a tag is another segment: only the MAC address is bound.
        inner::Kind::Tagged | inner::Kind::Other => (0, Asks::Nothing),
    };
    Ok(Honest { class, asks })
}

/// In the result of [`check_ipv6`]: neighbour discovery right behind the IPv6 header, which was not
/// looked into.
const DISCOVERY: u16 = 1 << 8;

/// In a result in one register: it is an [`Outcome`].
const FAILED: u64 = 1 << 32;

#[inline(always)]
fn packed(step: Step<u16>) -> u64 {
    match step {
        Ok(value) => value.into(),
        Err(reason) => FAILED | reason as u64,
    }
}

#[inline(always)]
fn unpacked(packed: u64) -> Step<u16> {
    if packed & FAILED == 0 {
        return Ok(packed as u16);
    }
    // SAFETY: `packed` made it of an `Outcome`, which is an u32.
    Err(unsafe { core::mem::transmute::<u32, Outcome>(packed as u32) })
}

/// Checks all of an IPv4 packet but its source. Returns its traffic class.
#[inline(always)]
pub fn check_ipv4(packet: &impl Packet, config: &Config, offset: usize) -> Step<u8> {
    let ip = packet::at::<Ipv4Hdr>(packet, offset).ok_or(Outcome::InnerMalformed)?;
    inner::check_ipv4(ip)?;
    if let Some(port) = inner::udp_port_offset(ip) {
        refuse_vxlan(packet, config, offset + port, || Addr::from_v4(ip.dst_addr))?;
    }
    Ok(ip.tos)
}

/// Checks all of an IPv6 packet but neighbour discovery. Both are functions of their own, so that what
/// they keep is not on the one stack of 512 bytes all at once.
#[inline(never)]
fn check_ipv6(packet: &impl Packet, offset: usize, length: u32, sender: &Sender) -> u64 {
    packed(class_of_ipv6(packet, offset, length, sender))
}

#[inline(always)]
fn class_of_ipv6(packet: &impl Packet, offset: usize, length: u32, sender: &Sender) -> Step<u16> {
    let ip = packet::at::<Ipv6Hdr>(packet, offset).ok_or(Outcome::InnerMalformed)?;
    ipv6::check(ip, length)?;
    let class = u16::from(ipv6::traffic_class(ip));
    let upper = ipv6::upper(ip, |at| packet::at_computed::<[u8; 4]>(packet, offset + at).copied())?;
    if let Some(Upper { protocol: PROTO_ICMPV6, offset: at }) = upper {
        let [kind, ..] =
            *packet::at_computed::<[u8; 4]>(packet, offset + at).ok_or(Outcome::InnerMalformed)?;
        if nd::is_discovery(kind) {
            if at != IPV6_LEN {
                // Behind extension headers no host sends these (RFC 6980), and one that watches for
                // claims does not see them (RFC 7113).
                return Err(if nd::is_routers(kind) { Outcome::RouterAdvert } else { Outcome::SpoofedNd });
            }
            return Ok(class | DISCOVERY);
        }
        if nd::is_listener(kind) && ip.src_addr == [0; 16] {
            return Ok(class);
        }
    }
    if !sender.owns6(ip.src_addr) {
        return Err(Outcome::SpoofedAddress);
    }
    if let Some(Upper { protocol: PROTO_UDP, offset: at }) = upper {
        let config = super::config().ok_or(Outcome::Unbound)?;
        refuse_vxlan(packet, config, offset + at + 2, || Addr(ip.dst_addr))?;
    }
    Ok(class)
}

/// Checks neighbour discovery; 1 if it asks who has an address.
#[inline(never)]
fn check_discovery(packet: &impl Packet, offset: usize, sender: &Sender) -> u64 {
    packed(asks_for_neighbour(packet, offset, sender).map(u16::from))
}

#[inline(always)]
fn asks_for_neighbour(packet: &impl Packet, offset: usize, sender: &Sender) -> Step<bool> {
    let ip = packet::at::<Ipv6Hdr>(packet, offset).ok_or(Outcome::InnerMalformed)?;
    let read = |at| packet::at_computed::<[u8; 8]>(packet, offset + IPV6_LEN + at).copied();
    let question = nd::question(ip, sender.mac, |address| sender.owns6(address), read)?;
    Ok(matches!(question, nd::Question::WhoHas(_)))
}

/// Refuses VXLAN to the tunnel address of a node of ours.
///
/// # Errors
/// [`Outcome::InnerMalformed`] if the UDP port cannot be read: nothing tells that it is not.
#[inline(always)]
fn refuse_vxlan(
    packet: &impl Packet,
    config: &Config,
    port: usize,
    destination: impl Fn() -> Addr,
) -> Step<()> {
    let port = packet::at_computed::<[u8; 2]>(packet, port).ok_or(Outcome::InnerMalformed)?;
    if u16::from_be_bytes(*port) != config.port {
        return Ok(());
    }
    // Every node is in there, this one included. SAFETY: only asked whether it is there.
    if unsafe { maps::vtep_addrs.get(destination()).is_some() } {
        return Err(Outcome::EncapProhibited);
    }
    Ok(())
}

// === impl Sender ===

impl Sender {
    /// The endpoint behind a local interface.
    #[inline(always)]
    pub fn of_port(port: &Port) -> Self {
        Self { vni: port.vni, mac: port.mac, addr4: port.addr4, addr6: port.addr6, learned: false }
    }

    /// The endpoint with this MAC address.
    #[inline(always)]
    pub fn of_endpoint(vni: u32, mac: MacAddr, endpoint: &Endpoint) -> Self {
        let learned = endpoint.flags & ENDPOINT_LEARNED != 0;
        Self { vni, mac, addr4: endpoint.addr4, addr6: endpoint.addr6, learned }
    }

    /// The endpoint of this entry. Its IPv6 addresses are asked for when they are needed.
    #[inline(always)]
    pub fn of_entry(vni: u32, mac: MacAddr, entry: FdbEntry) -> Self {
        Self { vni, mac, addr4: entry.addr4(), addr6: [0; 16], learned: entry.is_learned() }
    }

    /// A host with this MAC address behind a gateway port.
    #[inline(always)]
    pub fn behind_port(vni: u32, mac: MacAddr) -> Self {
        Self { vni, mac, addr4: [0; 4], addr6: [0; 16], learned: true }
    }

    /// Whether an IPv4 address is the endpoint's.
    #[inline(always)]
    pub fn owns4(&self, address: [u8; 4]) -> bool {
        address == self.addr4 && address != [0; 4] || has(self, &Addr::from_v4(address))
    }

    /// Whether an IPv6 address is the endpoint's: also the link-local one that its kernel makes of the MAC
    /// address.
    #[inline(always)]
    pub fn owns6(&self, address: [u8; 16]) -> bool {
        if address == [0; 16] {
            return false;
        }
        address == self.addr6 || address == self.mac.link_local() || {
            let address = Addr(address);
            !address.is_mapped() && has(self, &address)
        }
    }
}

/// Whether a host behind a gateway port may have an IPv4 address. A function of its own for the reason that
/// [`looked_up`] is one.
#[inline(never)]
pub fn may_have(vni: u32, mac: MacAddr, addr4: [u8; 4]) -> bool {
    Sender::behind_port(vni, mac).owns4(addr4)
}

/// Whether the directory has an address as the sender's, or as nobody's where that is enough. A function
/// of its own for the reason that [`looked_up`] is one.
#[inline(never)]
fn has(sender: &Sender, address: &Addr) -> bool {
    match neighbour(sender.vni, *address) {
        Some(owner) => owner.0 == sender.mac.0,
        // A link-local address made of another MAC address is that one's, or would be.
        None => sender.learned && MacAddr::of_link_local(address.0).is_none(),
    }
}

/// The MAC address of the endpoint that has an address.
#[inline(always)]
pub fn neighbour(vni: u32, addr: Addr) -> Option<MacAddr> {
    let [known, _, mac @ ..] = looked_up(vni, &addr).to_ne_bytes();
    (known != 0).then_some(MacAddr(mac))
}

/// 1 in the first byte and the MAC address in the last six, or 0. A function of its own: each of the
/// places that ask would otherwise have its key on the one stack of 512 bytes.
#[inline(never)]
fn looked_up(vni: u32, addr: &Addr) -> u64 {
    if addr.is_mapped() {
        let [.., a, b, c, d] = addr.0;
        let mac = MacAddr::of_ipv4(Ipv4Addr::new(a, b, c, d));
        // SAFETY: read at once.
        let told = unsafe { maps::endpoints.get(EndpointKey::new(vni, mac)) };
        if told.is_some_and(|row| row.addr4 == [a, b, c, d]) {
            let MacAddr([a, b, c, d, e, f]) = mac;
            return u64::from_ne_bytes([1, 0, a, b, c, d, e, f]);
        }
    }
    // SAFETY: the value is copied at once.
    let found = unsafe { maps::neighbours.get(NeighbourKey { vni, addr: *addr }).copied() };
    found.map_or(0, |Neighbour { mac: MacAddr([a, b, c, d, e, f]), .. }| {
        u64::from_ne_bytes([1, 0, a, b, c, d, e, f])
    })
}

/// [`neighbour`] of an address in an IPv6 packet, which may be link-local.
#[inline(always)]
pub fn neighbour6(vni: u32, address: [u8; 16]) -> Option<MacAddr> {
    if let Some(mac) = MacAddr::of_link_local(address) {
        // SAFETY: only asked whether it is there.
        return unsafe { maps::endpoints.get(EndpointKey::new(vni, mac)) }.map(|_| mac);
    }
    let addr = Addr(address);
    if addr.is_mapped() { None } else { neighbour(vni, addr) }
}
