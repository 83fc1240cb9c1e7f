//! Frames for the fixtures, built by an independent packet library.

use etherparse::{
    ArpEthIpv4Packet, ArpOperation, EtherType, Icmpv6Header, Icmpv6Type, IpNumber, Ipv4Extensions,
    Ipv4Header, Ipv6Extensions, Ipv6Header, PacketBuilder,
};
use overlay_ebpf::wire::checksum;

/// The network of the fixtures.
pub const VNI: u32 = 42;
/// A network this node has nothing to do with.
pub const OTHER_VNI: u32 = 43;

/// An endpoint of the fixtures.
#[derive(Clone, Copy)]
pub struct Host {
    pub mac: [u8; 6],
    pub ip: [u8; 4],
}

impl Host {
    /// Its IPv6 address.
    pub const fn ip6(self) -> [u8; 16] {
        ipv6(self.ip)
    }

    /// The same with its second IPv6 address in place of the first.
    pub const fn second(self) -> Self {
        let [_, b, c, d] = self.ip;
        Self { ip: [200, b, c, d], ..self }
    }
}

/// The endpoint behind the interface under test.
pub const A: Host = Host { mac: [2, 0x42, 10, 0, 9, 2], ip: [10, 0, 9, 2] };
/// Another endpoint on this node.
pub const B: Host = Host { mac: [2, 0x42, 10, 0, 9, 3], ip: [10, 0, 9, 3] };
/// An endpoint on the other node.
pub const C: Host = Host { mac: [2, 0x42, 10, 0, 9, 4], ip: [10, 0, 9, 4] };
/// An endpoint on a node the underlay has no route to.
pub const D: Host = Host { mac: [2, 0x42, 10, 0, 9, 5], ip: [10, 0, 9, 5] };
/// A host behind the gateway port under test, and another.
pub const H: Host = Host { mac: [2, 0, 0, 0, 0, 0x50], ip: [10, 0, 9, 80] };
pub const I: Host = Host { mac: [2, 0, 0, 0, 0, 0x51], ip: [10, 0, 9, 81] };
/// A host behind a gateway port of the other node.
pub const J: Host = Host { mac: [2, 0, 0, 0, 0, 0x52], ip: [10, 0, 9, 82] };
/// Nobody.
pub const NOBODY: Host = Host { mac: [2, 0x42, 10, 0, 9, 99], ip: [10, 0, 9, 99] };
/// Everybody.
pub const ALL: Host = Host { mac: [0xff; 6], ip: [255; 4] };

/// Tunnel address and MAC of this node.
pub const HERE: Host = Host { mac: [2, 0, 0, 0, 0, 1], ip: [192, 0, 2, 1] };
/// Tunnel address and MAC of the other node.
pub const THERE: Host = Host { mac: [2, 0, 0, 0, 0, 2], ip: [192, 0, 2, 2] };
/// A host of the underlay that is no node.
pub const STRANGER: Host = Host { mac: [2, 0, 0, 0, 0, 9], ip: [192, 0, 2, 9] };

/// A UDP datagram.
pub fn udp(from: Host, to: Host, dst_port: u16, payload: &[u8]) -> Vec<u8> {
    udp_tos(from, to, dst_port, payload, 0)
}

/// A UDP datagram with a traffic class.
pub fn udp_tos(from: Host, to: Host, dst_port: u16, payload: &[u8], tos: u8) -> Vec<u8> {
    let mut ip = Ipv4Header::new(0, 64, IpNumber::UDP, from.ip, to.ip).unwrap();
    ip.dscp = (tos >> 2).try_into().unwrap();
    ip.ecn = (tos & 3).try_into().unwrap();
    let builder = PacketBuilder::ethernet2(from.mac, to.mac)
        .ip(etherparse::IpHeaders::Ipv4(ip, Ipv4Extensions::default()))
        .udp(5000, dst_port);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

/// The IPv6 address of whoever has this IPv4 address.
pub const fn ipv6(ip: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = ip;
    [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]
}

/// A segment of a TCP stream.
pub fn tcp(from: Host, to: Host, payload: &[u8]) -> Vec<u8> {
    let builder =
        PacketBuilder::ethernet2(from.mac, to.mac).ipv4(from.ip, to.ip, 64).tcp(5000, 6000, 1, 1000);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

/// A UDP datagram over IPv6.
pub fn udp6(from: Host, to: Host, payload: &[u8]) -> Vec<u8> {
    udp6_from(from, from.ip6(), to, 6000, payload)
}

/// A UDP datagram over IPv6 from any address.
pub fn udp6_from(from: Host, address: [u8; 16], to: Host, dst_port: u16, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(from.mac, to.mac).ipv6(address, to.ip6(), 64).udp(5000, dst_port);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

/// An IPv6 packet with any payload, behind the extension headers in it if there are some.
pub fn ip6(macs: Macs, addresses: Addresses, next_header: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let header = etherparse::Ipv6Header {
        payload_length: payload.len().try_into().unwrap(),
        next_header: IpNumber(next_header),
        hop_limit,
        source: addresses.0,
        destination: addresses.1,
        ..etherparse::Ipv6Header::default()
    };
    let mut frame = [macs.1, macs.0].concat();
    frame.extend(EtherType::IPV6.0.to_be_bytes());
    frame.extend(header.to_bytes());
    frame.extend(payload);
    frame
}

/// From one MAC address to another.
pub type Macs = ([u8; 6], [u8; 6]);
/// From one address to another.
pub type Addresses = ([u8; 16], [u8; 16]);

/// An `ICMPv6` message by itself, its checksum right.
pub fn icmp6(addresses: Addresses, kind: u8, body: &[u8]) -> Vec<u8> {
    let body_start: [u8; 4] = *body.first_chunk().unwrap();
    let kind = Icmpv6Type::Unknown { type_u8: kind, code_u8: 0, bytes5to8: body_start };
    let header = Icmpv6Header::with_checksum(kind, addresses.0, addresses.1, &body[4..]).unwrap();
    [&header.to_bytes()[..], &body[4..]].concat()
}

/// Neighbour discovery as hosts send it: flags, target, options.
pub fn nd(
    macs: Macs,
    addresses: Addresses,
    kind: u8,
    flags: u8,
    target: [u8; 16],
    options: &[u8],
) -> Vec<u8> {
    let body = [&[flags, 0, 0, 0][..], &target, options].concat();
    ip6(macs, addresses, 58, 255, &icmp6(addresses, kind, &body))
}

/// A link-layer address option: of the source (1) or the target (2).
pub fn link_layer(kind: u8, mac: [u8; 6]) -> Vec<u8> {
    [&[kind, 1][..], &mac].concat()
}

/// The multicast address that whoever has `address` listens to (RFC 4291, section 2.7.1), and its MAC
/// address.
pub fn solicited(address: [u8; 16]) -> ([u8; 6], [u8; 16]) {
    let [.., b, c, d] = address;
    ([0x33, 0x33, 0xff, b, c, d], [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, b, c, d])
}

/// A frame with any payload.
pub fn raw(from: Host, to: Host, ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [to.mac, from.mac].concat();
    frame.extend(ether_type.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An ARP packet.
pub fn arp(operation: ArpOperation, from: Host, to: Host, wanted: Host) -> Vec<u8> {
    let target = if operation == ArpOperation::REPLY { wanted.mac } else { [0; 6] };
    let arp = ArpEthIpv4Packet {
        operation,
        sender_mac: from.mac,
        sender_ipv4: from.ip,
        target_mac: target,
        target_ipv4: wanted.ip,
    };
    raw(from, to, EtherType::ARP.0, &arp.to_bytes())
}

/// VXLAN from one underlay host to another around an inner frame, as a sender by the book makes it.
pub fn vxlan(from: Host, to: Host, vni: u32, inner: &[u8]) -> Vec<u8> {
    vxlan_tos(from, to, vni, inner, 0)
}

/// [`vxlan`] with an outer traffic class.
pub fn vxlan_tos(from: Host, to: Host, vni: u32, inner: &[u8], tos: u8) -> Vec<u8> {
    let [_, a, b, c] = vni.to_be_bytes();
    let mut payload = vec![8, 0, 0, 0, a, b, c, 0];
    payload.extend(inner);
    let mut frame = udp_tos(from, to, 4789, &payload, tos);
    frame[40..42].fill(0); // UDP checksum: RFC 7348 section 5 wants zero
    frame
}

/// The same VXLAN packet on an IPv6 underlay: the checksum right, as if computed by the book.
pub fn over_ipv6(packet: &[u8]) -> Vec<u8> {
    let at = |offset: usize| <[u8; 4]>::try_from(&packet[offset..offset + 4]).unwrap();
    let mac = |offset: usize| <[u8; 6]>::try_from(&packet[offset..offset + 6]).unwrap();
    let ip = Ipv6Header {
        traffic_class: packet[15],
        flow_label: 0.try_into().unwrap(),
        payload_length: 0,
        next_header: IpNumber::UDP,
        hop_limit: packet[22],
        source: ipv6(at(26)),
        destination: ipv6(at(30)),
    };
    let port = |offset: usize| u16::from_be_bytes([packet[offset], packet[offset + 1]]);
    let builder = PacketBuilder::ethernet2(mac(6), mac(0))
        .ip(etherparse::IpHeaders::Ipv6(ip, Ipv6Extensions::default()))
        .udp(port(34), port(36));
    let mut frame = Vec::new();
    builder.write(&mut frame, &packet[42..]).unwrap();
    frame
}

/// The same frame with bytes replaced at an offset, and the outer IPv4 checksum made right.
pub fn patched(mut frame: Vec<u8>, offset: usize, bytes: &[u8]) -> Vec<u8> {
    frame[offset..offset + bytes.len()].copy_from_slice(bytes);
    fix_ipv4(&mut frame);
    frame
}

/// Makes the checksum of the IPv4 header behind the Ethernet header right, options or not.
pub fn fix_ipv4(frame: &mut [u8]) {
    let len = usize::from(frame[14] & 0xf) * 4;
    frame[24..26].fill(0);
    let words = frame[14..14 + len].chunks(2);
    let sum = words.map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    frame[24..26].copy_from_slice(&(!checksum::fold(sum)).to_be_bytes());
}
