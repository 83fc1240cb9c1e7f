//! Which interface and address the node tunnels from.

use std::{
    fmt::Write as _,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use futures::TryStreamExt as _;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope},
    route::{RouteAttribute, RouteHeader, RouteMessage, RouteType},
};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::{Selector, UnderlayError};
use crate::{
    MacAddr,
    netlink::{self, Link, ethtool, into_io},
};

/// The uplink as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Uplink {
    pub ifindex: u32,
    pub name: String,
    pub driver: String,
    pub addr: IpAddr,
    pub mac: MacAddr,
    pub mtu: u16,
}

/// An address of an interface that other hosts can know.
struct Address {
    ifindex: u32,
    addr: IpAddr,
    flags: AddressHeaderFlags,
}

/// Finds the uplink. `known` is the interface index and the address it had before, if it was found
/// before: both are kept while they are there, so that neither a rename nor a further address moves
/// the tunnel. The family is kept in any case: other nodes' are of the same.
pub(super) async fn find(
    kernel: &Handle,
    selector: &Selector,
    known: Option<(u32, IpAddr)>,
) -> Result<Uplink, UnderlayError> {
    let links = netlink::links(kernel).await.map_err(failed("list interfaces"))?;
    let mut addresses = addresses(kernel).await.map_err(failed("list addresses"))?;
    if let Some((_, known)) = known {
        addresses.retain(|address| address.addr.is_ipv6() == known.is_ipv6());
    }
    addresses.sort_by_key(Address::rank);
    let known_link = known.and_then(|(ifindex, _)| links.iter().find(|link| link.ifindex == ifindex));

    let link = match selector {
        Selector::Interface(name) => known_link
            .or_else(|| links.iter().find(|link| link.name == *name))
            .ok_or_else(|| UnderlayError(format!("no interface {name}; there are {}", names(&links))))?,
        Selector::Address(wanted) => addresses
            .iter()
            .find(|address| address.addr == *wanted)
            .and_then(|address| links.iter().find(|link| link.ifindex == address.ifindex))
            .ok_or_else(|| {
                let there = listed(&links, &addresses);
                UnderlayError(format!("no interface has the address {wanted}; there are {there}"))
            })?,
        Selector::DefaultRoute => {
            let ifindex = match default_route(kernel, AddressFamily::Inet).await {
                Ok(None) => default_route(kernel, AddressFamily::Inet6).await,
                found => found,
            };
            let ifindex = ifindex.map_err(failed("list routes"))?;
            ifindex.and_then(|ifindex| links.iter().find(|link| link.ifindex == ifindex)).ok_or_else(|| {
                UnderlayError(format!(
                    "no default route tells the underlay's interface: name it with --underlay; there are {}",
                    listed(&links, &addresses)
                ))
            })?
        }
    };

    let own: Vec<_> = addresses.iter().filter(|a| a.ifindex == link.ifindex).map(|a| a.addr).collect();
    let kept = match (selector, known) {
        (Selector::Address(wanted), _) => Some(*wanted),
        (_, Some((_, addr))) => own.contains(&addr).then_some(addr),
        (_, None) => None,
    };
    let addr = kept.or_else(|| own.first().copied()).ok_or_else(|| {
        UnderlayError(format!(
            "interface {} has no address of its own: give it one, or name another with --underlay; there are {}",
            link.name,
            listed(&links, &addresses)
        ))
    })?;
    let mac = link.mac.filter(|mac| mac.is_unicast()).ok_or_else(|| {
        UnderlayError(format!("interface {} is not an Ethernet one: name another with --underlay", link.name))
    })?;
    let mtu = u16::try_from(link.mtu).unwrap_or(u16::MAX);
    Ok(Uplink { ifindex: link.ifindex, name: link.name.clone(), driver: driver(link), addr, mac, mtu })
}

/// The kind of a virtual device; the name of the driver of a physical one.
fn driver(link: &Link) -> String {
    if let Some(kind) = &link.kind {
        return kind.to_string();
    }
    ethtool::driver(&link.name).unwrap_or_else(|_| "unknown".to_owned())
}

impl Address {
    /// Lower is better: IPv4, then what is settled, in use and lasting.
    fn rank(&self) -> (bool, [bool; 3]) {
        use AddressHeaderFlags as Flags;
        // Where IPv4 has secondary addresses, IPv6 has temporary ones (RFC 8981): it is the same bit.
        let doubts = [Flags::Tentative, Flags::Deprecated, Flags::Secondary];
        (self.addr.is_ipv6(), doubts.map(|doubt| self.flags.contains(doubt)))
    }
}

async fn addresses(kernel: &Handle) -> io::Result<Vec<Address>> {
    let messages: Vec<_> = kernel.address().get().execute().try_collect().await.map_err(into_io)?;
    Ok(messages.iter().filter_map(global_address).collect())
}

fn global_address(message: &AddressMessage) -> Option<Address> {
    let flags = message.header.flags;
    if message.header.scope != AddressScope::Universe || flags.contains(AddressHeaderFlags::Dadfailed) {
        return None;
    }
    let find = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(wanted);
    // Where both are given, the other one is the far end's.
    let local = find(|attribute| match attribute {
        AddressAttribute::Local(addr) => Some(*addr),
        _ => None,
    });
    let addr = local.or_else(|| {
        find(|attribute| match attribute {
            AddressAttribute::Address(addr) => Some(*addr),
            _ => None,
        })
    })?;
    Some(Address { ifindex: message.header.index, addr, flags })
}

/// Interface of the default route of the main table that has the lowest metric.
async fn default_route(kernel: &Handle, family: AddressFamily) -> io::Result<Option<u32>> {
    let query = match family {
        AddressFamily::Inet6 => RouteMessageBuilder::<Ipv6Addr>::new().build(),
        _ => RouteMessageBuilder::<Ipv4Addr>::new().build(),
    };
    let routes: Vec<_> = kernel.route().get(query).execute().try_collect().await.map_err(into_io)?;
    let metric = |route: &&RouteMessage| {
        route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Priority(metric) => Some(*metric),
            _ => None,
        })
    };
    let best = routes.iter().filter(|route| is_default(route, family)).min_by_key(metric);
    Ok(best.and_then(|route| {
        route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(ifindex) => Some(*ifindex),
            RouteAttribute::MultiPath(hops) => hops.first().map(|hop| hop.interface_index),
            _ => None,
        })
    }))
}

fn is_default(route: &RouteMessage, family: AddressFamily) -> bool {
    let header = &route.header;
    header.address_family == family
        && header.destination_prefix_length == 0
        && header.table == RouteHeader::RT_TABLE_MAIN
        && header.kind == RouteType::Unicast
}

fn names(links: &[Link]) -> String {
    let names: Vec<_> = links.iter().map(|link| link.name.as_str()).collect();
    names.join(", ")
}

/// Interfaces with their addresses, for those who have to choose one.
fn listed(links: &[Link], addresses: &[Address]) -> String {
    let mut text = String::new();
    for address in addresses {
        let Some(link) = links.iter().find(|link| link.ifindex == address.ifindex) else { continue };
        let comma = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{comma}{} ({})", link.name, address.addr);
    }
    if text.is_empty() { "none with an address".into() } else { text }
}

fn failed(what: &str) -> impl FnOnce(io::Error) -> UnderlayError {
    move |error| UnderlayError(format!("{what}: {error}"))
}
