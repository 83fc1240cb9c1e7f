//! The hash of a frame's flow, for the outer source port.

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};
use overlay_ebpf::{
    abi::Outcome,
    wire::{ETH_LEN, IPV6_LEN, ethernet::Ethernet, flow_hash, inner::Kind},
};

use super::{
    Step,
    packet::{self, Packet},
};

/// The hash of the flow of a frame of this kind.
#[inline(always)]
pub fn hash(packet: &impl Packet, kind: Kind) -> Step<u32> {
    let ports = |offset| packet::at::<[u8; 4]>(packet, offset).copied();
    Ok(match kind {
        Kind::Ipv4 => {
            let ip = packet::at::<Ipv4Hdr>(packet, ETH_LEN).ok_or(Outcome::InnerMalformed)?;
            flow_hash::of_ipv4(ip, ports(ETH_LEN + usize::from(ip.vihl & 0xf) * 4))
        }
        Kind::Ipv6 => {
            let ip = packet::at::<Ipv6Hdr>(packet, ETH_LEN).ok_or(Outcome::InnerMalformed)?;
            flow_hash::of_ipv6(ip, ports(ETH_LEN + IPV6_LEN))
        }
        Kind::Tagged | Kind::Arp | Kind::Other => {
            flow_hash::of_ethernet(packet::at::<Ethernet>(packet, 0).ok_or(Outcome::Truncated)?)
        }
    })
}
