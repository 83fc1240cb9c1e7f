//! The neighbour entries of a network's bridge, from which it answers ARP and neighbour solicitations for
//! endpoints on other nodes (`neigh_suppress` on the VXLAN port). They are the bridge's, not the VXLAN
//! device's: `br_do_proxy_suppress_arp` and `br_do_suppress_nd` in the kernel look there.
//!
//! Entries for endpoints of this node keep requests for them off the tunnel. Where the kernel has no
//! IPv6 there are no such entries, and solicitations are flooded.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv6Addr},
};

use futures::TryStreamExt as _;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
};
use rtnetlink::Handle;

use super::super::{
    DatapathError, DifferenceKind, Differences,
    vxlan_device::{Reconciled, mac_of},
};
use crate::{
    MacAddr,
    netlink::{self, into_io},
    plan::{Endpoint, Network},
};

/// Reads the neighbour entries of every interface.
pub(super) async fn read(kernel: &Handle) -> Result<Vec<NeighbourMessage>, DatapathError> {
    let failed = |error| DatapathError::Io { what: "read neighbour entries".into(), cause: into_io(error) };
    let mut all = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let entries = kernel.neighbours().get().set_address_family(family).execute();
        all.extend(entries.try_collect::<Vec<_>>().await.map_err(failed)?);
    }
    Ok(all)
}

/// The entries a network needs on a bridge that has IPv6 or not. An endpoint has the link-local address
/// of its MAC address too.
pub(super) fn wanted(network: &Network, ipv6: bool) -> BTreeMap<IpAddr, MacAddr> {
    network.endpoints().flat_map(|(mac, endpoint)| of_endpoint(mac, endpoint, ipv6)).collect()
}

/// The entries of one endpoint.
pub(super) fn of_endpoint(
    mac: MacAddr,
    endpoint: Endpoint<'_>,
    ipv6: bool,
) -> impl Iterator<Item = (IpAddr, MacAddr)> {
    let link_local = IpAddr::V6(Ipv6Addr::from(mac.link_local()));
    let all = endpoint.addresses.iter().copied().chain([link_local]);
    all.filter(move |address| ipv6 || address.is_ipv4()).map(move |address| (address, mac))
}

/// Brings the entries of `bridge` from `present` to `wanted`. Only permanent ones count: the others
/// are the kernel's.
pub(super) async fn reconcile(
    kernel: &Handle,
    present: &[NeighbourMessage],
    bridge: u32,
    wanted: &BTreeMap<IpAddr, MacAddr>,
) -> Reconciled {
    let mut done = Reconciled::default();
    let (missing, extra) = compare(present, bridge, wanted);
    for entry in missing {
        add(kernel, bridge, entry, &mut done).await;
    }
    for addr in extra {
        remove(kernel, bridge, addr, &mut done).await;
    }
    done
}

/// Has `bridge` answer for an address, whatever it answered before.
pub(super) async fn add(kernel: &Handle, bridge: u32, (addr, mac): (IpAddr, MacAddr), done: &mut Reconciled) {
    let mut message = message(bridge, addr);
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    let message = RouteNetlinkMessage::NewNeighbour(message);
    let result = netlink::acknowledged(kernel, message, NLM_F_CREATE | NLM_F_REPLACE).await;
    done.note(result, || format!("add the neighbour entry of {addr}"));
}

/// Has `bridge` no longer answer for an address; one that is gone is no error.
pub(super) async fn remove(kernel: &Handle, bridge: u32, addr: IpAddr, done: &mut Reconciled) {
    let message = RouteNetlinkMessage::DelNeighbour(message(bridge, addr));
    match netlink::acknowledged(kernel, message, 0).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => done.note(other, || format!("remove the neighbour entry of {addr}")),
    }
}

/// Compares the entries of `bridge` with `wanted`.
pub(super) fn audit(
    present: &[NeighbourMessage],
    (bridge, name): (u32, &str),
    wanted: &BTreeMap<IpAddr, MacAddr>,
    found: &mut Differences,
) {
    let place = format!("neighbours of {name}");
    let (missing, extra) = compare(present, bridge, wanted);
    for (addr, mac) in missing {
        found.note(DifferenceKind::Missing, &place, || format!("{addr} ({mac})"));
    }
    for addr in extra {
        found.note(DifferenceKind::Extra, &place, || addr.to_string());
    }
}

/// The entries of `wanted` that `bridge` has not, and the addresses of those it has beside them.
fn compare(
    present: &[NeighbourMessage],
    bridge: u32,
    wanted: &BTreeMap<IpAddr, MacAddr>,
) -> (Vec<(IpAddr, MacAddr)>, Vec<IpAddr>) {
    let permanent =
        |m: &&NeighbourMessage| m.header.ifindex == bridge && m.header.state == NeighbourState::Permanent;
    let present: BTreeMap<_, _> =
        present.iter().filter(permanent).filter_map(|m| Some((addr_of(m)?, mac_of(m)?))).collect();
    let missing = wanted.iter().map(|(addr, mac)| (*addr, *mac));
    let missing = missing.filter(|(addr, mac)| present.get(addr) != Some(mac)).collect();
    (missing, present.keys().filter(|addr| !wanted.contains_key(addr)).copied().collect())
}

fn addr_of(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(addr)) => Some((*addr).into()),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(addr)) => Some((*addr).into()),
        _ => None,
    })
}

fn message(bridge: u32, addr: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = if addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.ifindex = bridge;
    message.attributes = vec![NeighbourAttribute::Destination(addr.into())];
    message
}
