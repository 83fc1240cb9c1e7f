//! The way to another node: its route, and the MAC address of the next hop.

use std::{io, net::IpAddr};

use futures::{StreamExt as _, TryStreamExt as _};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
        NeighbourState,
    },
    route::{RouteAddress, RouteAttribute, RouteMetric, RouteType},
};
use rtnetlink::{Handle, RouteMessageBuilder};

use crate::{
    MacAddr,
    netlink::{self, into_io},
};

/// Where the kernel would send a packet to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub hop: NextHop,
    /// MTU of the route, if it has one of its own: set, or learnt from ICMP.
    pub mtu: Option<u32>,
}

/// A neighbour on the way to peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NextHop {
    pub ifindex: u32,
    pub addr: IpAddr,
}

/// What the neighbour table has for a next hop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Neighbour {
    /// Its MAC address, while that is valid.
    pub mac: Option<MacAddr>,
    /// Whether the kernel keeps the entry valid, by us or by the operator's hand.
    pub kept: bool,
}

/// Looks the route to `peer` up; `None` if there is none, or if `peer` is this node.
pub(super) async fn way(kernel: &Handle, from: IpAddr, peer: IpAddr) -> io::Result<Option<Way>> {
    let bits = if peer.is_ipv6() { 128 } else { 32 };
    let query = RouteMessageBuilder::<IpAddr>::new().destination_prefix(peer, bits);
    let Ok(query) = query.and_then(|query| query.source_prefix(from, bits)) else {
        // Of two families: there is no way.
        return Ok(None);
    };
    let query = query.build();
    let mut answer = Box::pin(kernel.route().get(query).execute());
    let route = match answer.try_next().await.map_err(into_io) {
        Ok(Some(route)) if route.header.kind == RouteType::Unicast => route,
        Ok(_) => return Ok(None),
        // No route; or our own address is gone, which the uplink's part reports.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL)
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let (mut ifindex, mut addr, mut mtu) = (None, peer, None);
    for attribute in route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => ifindex = Some(index),
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => addr = gateway.into(),
            RouteAttribute::Gateway(RouteAddress::Inet6(gateway)) => addr = gateway.into(),
            // A gateway of another family (RFC 8950): nobody on that link answers for the peer itself.
            RouteAttribute::Via(_) => return Ok(None),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) if *mtu != 0 => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Ok(ifindex.map(|ifindex| Way { hop: NextHop { ifindex, addr }, mtu }))
}

/// Reads the neighbour table's entry of `hop`.
pub(super) async fn neighbour(kernel: &Handle, hop: NextHop) -> io::Result<Neighbour> {
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetNeighbour(message(hop)));
    request.header.flags = NLM_F_REQUEST;
    let mut answers = kernel.clone().request(request).map_err(into_io)?;
    match answers.next().await.map(|answer| answer.payload) {
        Some(NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(entry))) => Ok(read(&entry)),
        Some(NetlinkPayload::Error(error)) => match error.to_io() {
            error if error.kind() == io::ErrorKind::NotFound => Ok(Neighbour::default()),
            error => Err(error),
        },
        _ => Ok(Neighbour::default()),
    }
}

/// Asks the kernel to resolve `hop` and to keep it resolved (`NTF_EXT_MANAGED`, Linux 5.16): the BPF
/// programs do not use the neighbour table, so nothing else would. Older kernels do not know the flag
/// and resolve once.
pub(super) async fn keep_resolved(kernel: &Handle, hop: NextHop) -> io::Result<()> {
    let mut entry = message(hop);
    entry.header.flags = NeighbourFlags::Use;
    entry.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
    netlink::acknowledged(kernel, RouteNetlinkMessage::NewNeighbour(entry), NLM_F_CREATE).await
}

/// Leaves `hop` to the kernel's usual care.
pub(super) async fn let_go(kernel: &Handle, hop: NextHop) -> io::Result<()> {
    let mut entry = message(hop);
    entry.header.flags = NeighbourFlags::Use;
    netlink::acknowledged(kernel, RouteNetlinkMessage::NewNeighbour(entry), 0).await
}

/// The next hop an entry of the neighbour table is about.
pub(super) fn hop_of(entry: &NeighbourMessage) -> Option<NextHop> {
    let addr = entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(addr)) => Some(IpAddr::V4(*addr)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(addr)) => Some(IpAddr::V6(*addr)),
        _ => None,
    })?;
    Some(NextHop { ifindex: entry.header.ifindex, addr })
}

fn message(hop: NextHop) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = if hop.addr.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.ifindex = hop.ifindex;
    message.attributes = vec![NeighbourAttribute::Destination(hop.addr.into())];
    message
}

fn read(entry: &NeighbourMessage) -> Neighbour {
    let mut mac = None;
    let by_hand = matches!(entry.header.state, NeighbourState::Permanent | NeighbourState::Noarp);
    let mut kept = by_hand;
    for attribute in &entry.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = bytes.as_slice().try_into().ok().map(MacAddr);
            }
            NeighbourAttribute::ExtFlags(flags) => kept |= flags.contains(NeighbourExtFlags::Managed),
            _ => {}
        }
    }
    let valid = by_hand
        || matches!(
            entry.header.state,
            NeighbourState::Reachable | NeighbourState::Stale | NeighbourState::Delay | NeighbourState::Probe
        );
    Neighbour { mac: mac.filter(|mac| valid && mac.is_unicast()), kept }
}
