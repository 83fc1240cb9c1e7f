//! Rows that depend on no other: this node's in `config`, a node's in `vteps`, an endpoint's in `endpoints`.

use std::net::IpAddr;

use overlay_ebpf::{
    abi::{
        Config, DECAP_CLEARS_TUNNEL, ENDPOINT_LEARNED, ENDPOINT_PORT, ENDPOINT_REDIRECT, Endpoint, OVERHEAD,
        OVERHEAD_V6, RESERVED_BITS_IGNORE, SELF_VTEP, UDP6_ZERO_CHECKSUM, UNDERLAY_V6, VTEP_CHECKSUM,
        VTEP_RESOLVED, VTEP_V6, Vtep, XDP_ATTACHED,
    },
    wire::encap,
};

use super::rows::Local;
use crate::{
    MacAddr,
    datapath::{Mode, Route, Underlay},
    plan::{self, Location},
};

/// `config`.
pub fn config(underlay: &Underlay, local: &Local) -> Config {
    let mut flags = 0;
    if local.ignore_reserved_bits {
        flags |= RESERVED_BITS_IGNORE;
    }
    if local.decap_clears_tunnel {
        flags |= DECAP_CLEARS_TUNNEL;
    }
    if local.mode == Mode::Xdp {
        flags |= XDP_ATTACHED;
    }
    let addr4 = match underlay.addr {
        IpAddr::V4(addr) => addr.octets(),
        IpAddr::V6(_) => {
            flags |= UNDERLAY_V6;
            [0; 4]
        }
    };
    if underlay.udp6_zero_checksum {
        flags |= UDP6_ZERO_CHECKSUM;
    }
    Config {
        addr: underlay.addr.into(),
        addr4,
        uplink: underlay.ifindex,
        port: underlay.port,
        mtu: underlay.mtu,
        flags,
        fdb_mask: local.fdb_mask,
        mac: underlay.mac,
        ..Config::default()
    }
}

/// Without an interface, as here where there is no route, the programs drop with the reason `no_route`.
pub fn vtep(addr: IpAddr, underlay: &Underlay) -> Vtep {
    let row = Vtep { addr: addr.into(), ..Vtep::default() };
    let Some(Route { ifindex, source_mac, next_hop, neighbour, mtu }) = underlay.routes.get(&addr) else {
        return row;
    };
    let macs = (*source_mac, neighbour.unwrap_or_default());
    let mut flags = if neighbour.is_some() { VTEP_RESOLVED } else { 0 };
    let header = match (underlay.addr, addr) {
        (IpAddr::V4(from), IpAddr::V4(to)) => encap::in_row(encap::template(macs, (from, to), underlay.port)),
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            flags |= VTEP_V6;
            if !underlay.udp6_zero_checksum {
                flags |= VTEP_CHECKSUM;
            }
            encap::template_v6(macs, (from, to), underlay.port)
        }
        _ => return row,
    };
    let overhead = if addr.is_ipv6() { OVERHEAD_V6 } else { OVERHEAD };
    let mtu = u32::from(mtu.saturating_sub(overhead));
    Vtep { next_hop: (*next_hop).into(), ifindex: *ifindex, flags, header, mtu, ..row }
}

/// The addresses of an endpoint that `neighbours` has a row for: all but its first IPv4 address if its MAC address
/// is made of that. The programs find such a one in `endpoints`, and it is what nearly all have.
pub fn addresses_with_row(mac: MacAddr, addresses: &[IpAddr]) -> impl Iterator<Item = IpAddr> {
    let first = addresses.iter().copied().find(IpAddr::is_ipv4);
    let told = first.filter(|first| matches!(first, IpAddr::V4(v4) if MacAddr::of_ipv4(*v4) == mac));
    addresses.iter().copied().filter(move |address| Some(*address) != told)
}

/// `None` for a local endpoint without a device, and for one behind a node without a row.
pub fn endpoint(endpoint: &plan::Endpoint<'_>, local: &Local) -> Option<Endpoint> {
    let (mut addr4, mut addr6) = ([0; 4], [0; 16]);
    // The first of each family: the last that is written.
    for address in endpoint.addresses.iter().rev() {
        match address {
            IpAddr::V4(v4) => addr4 = v4.octets(),
            IpAddr::V6(v6) => addr6 = v6.octets(),
        }
    }
    match endpoint.location {
        Location::Local => {
            let ifindex = *local.devices.get(endpoint.id)?;
            Some(Endpoint {
                vtep: SELF_VTEP,
                ifindex,
                slot: u16::try_from(local.slots.get(endpoint.id)?).ok()?,
                flags: if local.redirected.contains(&ifindex) { ENDPOINT_REDIRECT } else { 0 },
                addr4,
                addr6,
            })
        }
        Location::Port(id) => {
            let port = local.ports.get(id)?;
            let redirect = if port.takes_redirects { ENDPOINT_REDIRECT } else { 0 };
            Some(Endpoint {
                vtep: SELF_VTEP,
                ifindex: port.ifindex,
                slot: u16::try_from(local.slots.get(id)?).ok()?,
                flags: ENDPOINT_LEARNED | ENDPOINT_PORT | redirect,
                addr4,
                addr6,
            })
        }
        Location::Remote(node) => {
            let flags = if endpoint.learned { ENDPOINT_LEARNED } else { 0 };
            Some(Endpoint { vtep: local.vteps.get(node)?, addr4, addr6, flags, ..Endpoint::default() })
        }
    }
}
