//! The neighbour entries of a network's bridge, from which it answers ARP for endpoints on other
//! nodes (`neigh_suppress` on the VXLAN port). They are the bridge's, not the VXLAN device's:
//! `br_do_proxy_suppress_arp` in the kernel looks there.
//!
//! Entries for endpoints of this node keep requests for them off the tunnel. IPv6 neighbour
//! discovery is not answered but flooded: the bridge has no IPv6.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr},
};

use futures::TryStreamExt as _;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
};
use rtnetlink::Handle;

use super::super::{
    DatapathError,
    vxlan_device::{Reconciled, mac_of},
};
use crate::{
    MacAddr,
    netlink::{self, into_io},
    plan::Network,
};

/// Reads the IPv4 neighbour entries of every interface.
pub(super) async fn read(kernel: &Handle) -> Result<Vec<NeighbourMessage>, DatapathError> {
    let entries = kernel.neighbours().get().set_address_family(AddressFamily::Inet).execute();
    let entries: Result<_, _> = entries.try_collect().await;
    entries
        .map_err(|error| DatapathError::Io { what: "read neighbour entries".into(), cause: into_io(error) })
}

/// The entries a network needs.
pub(super) fn wanted(network: &Network) -> BTreeMap<Ipv4Addr, MacAddr> {
    let of_endpoint = |(mac, endpoint): (&MacAddr, &crate::plan::Endpoint)| {
        let mac = *mac;
        let v4 = |addr: &IpAddr| match addr {
            IpAddr::V4(addr) => Some((*addr, mac)),
            IpAddr::V6(_) => None,
        };
        endpoint.addresses.iter().filter_map(v4).collect::<Vec<_>>()
    };
    network.endpoints.iter().flat_map(of_endpoint).collect()
}

/// Brings the entries of `bridge` from `present` to `wanted`. Only permanent ones count: the others
/// are the kernel's.
pub(super) async fn reconcile(
    kernel: &Handle,
    present: &[NeighbourMessage],
    bridge: u32,
    wanted: &BTreeMap<Ipv4Addr, MacAddr>,
) -> Reconciled {
    let mut done = Reconciled::default();
    let permanent =
        |m: &&NeighbourMessage| m.header.ifindex == bridge && m.header.state == NeighbourState::Permanent;
    let present: BTreeMap<_, _> =
        present.iter().filter(permanent).filter_map(|m| Some((addr_of(m)?, mac_of(m)?))).collect();
    for (addr, mac) in wanted {
        if present.get(addr) == Some(mac) {
            continue;
        }
        let mut message = message(bridge, *addr);
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        let message = RouteNetlinkMessage::NewNeighbour(message);
        let result = netlink::acknowledged(kernel, message, NLM_F_CREATE | NLM_F_REPLACE).await;
        done.note(result, || format!("add the neighbour entry of {addr}"));
    }
    for addr in present.keys().filter(|addr| !wanted.contains_key(addr)) {
        let message = RouteNetlinkMessage::DelNeighbour(message(bridge, *addr));
        match netlink::acknowledged(kernel, message, 0).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => done.note(other, || format!("remove the neighbour entry of {addr}")),
        }
    }
    done
}

fn addr_of(message: &NeighbourMessage) -> Option<Ipv4Addr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(addr)) => Some(*addr),
        _ => None,
    })
}

fn message(bridge: u32, addr: Ipv4Addr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = bridge;
    message.attributes = vec![NeighbourAttribute::Destination(addr.into())];
    message
}
