//! The prefixes that this host has routes to: an overlay's subnet that overlaps one would hide it.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use futures::TryStreamExt as _;
use ipnet::IpNet;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::netlink::{self, Events, into_io};

/// Routes that change at once make one announcement: each is news to every node.
const BURST: Duration = Duration::from_secs(1);

/// Announcements get lost when there are too many.
const LOOK: Duration = Duration::from_mins(5);

/// Most prefixes that are told. Of more, as a router has them, the widest.
const MOST: usize = 256;

/// Follows the prefixes in the calling process's network namespace until `cancel`.
///
/// # Errors
/// If the kernel does not tell its routes.
pub async fn follow_prefixes(cancel: CancellationToken) -> io::Result<watch::Receiver<Vec<IpNet>>> {
    let mut events = subscribe()?;
    let (current, seen) = watch::channel(prefixes().await?);
    let follow = async move {
        loop {
            match timeout(LOOK, events.next()).await {
                Ok(Some(_)) => sleep(BURST).await,
                Ok(None) => match subscribe() {
                    Ok(anew) => events = anew,
                    Err(error) => {
                        tracing::warn!(%error, "cannot open a routing socket for events");
                        sleep(LOOK).await;
                    }
                },
                Err(_) => {}
            }
            events.skip();
            match prefixes().await {
                Ok(now) => drop(current.send_if_modified(|old| std::mem::replace(old, now.clone()) != now)),
                Err(error) => tracing::warn!(%error, "cannot read the host's routes"),
            }
        }
    };
    tokio::spawn(async move { cancel.run_until_cancelled(follow).await });
    Ok(seen)
}

fn subscribe() -> io::Result<Events> {
    Events::subscribe(&[MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route])
}

async fn prefixes() -> io::Result<Vec<IpNet>> {
    let kernel = netlink::connect()?;
    let mut routes = dump(&kernel, RouteMessageBuilder::<Ipv4Addr>::new().build()).await?;
    routes.extend(dump(&kernel, RouteMessageBuilder::<Ipv6Addr>::new().build()).await?);
    let all: BTreeSet<_> = routes.iter().filter_map(prefix).collect();
    Ok(widest(all))
}

async fn dump(kernel: &Handle, query: RouteMessage) -> io::Result<Vec<RouteMessage>> {
    kernel.route().get(query).execute().try_collect().await.map_err(into_io)
}

/// The prefix a route leads to, of whatever table but that of the host's own addresses. A default route
/// leads to what nobody else has, and link-local addresses mean something on one link only.
fn prefix(route: &RouteMessage) -> Option<IpNet> {
    let RouteHeader { table, kind, destination_prefix_length: length, .. } = route.header;
    if kind != RouteType::Unicast || table == libc::RT_TABLE_LOCAL || length == 0 {
        return None;
    }
    let destination: IpAddr = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(addr)) => Some((*addr).into()),
        RouteAttribute::Destination(RouteAddress::Inet6(addr)) => Some((*addr).into()),
        _ => None,
    })?;
    let of_one_link = match destination {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_multicast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_multicast(),
    };
    if of_one_link { None } else { IpNet::new(destination, length).ok().map(|net| net.trunc()) }
}

/// What is in another is left out.
fn widest(all: BTreeSet<IpNet>) -> Vec<IpNet> {
    let mut widest = IpNet::aggregate(&all.into_iter().collect());
    if widest.len() > MOST {
        tracing::debug!(prefixes = widest.len(), "this host has more routes than are told: {MOST}");
        widest.sort_by_key(|net| (net.prefix_len(), *net));
        widest.truncate(MOST);
    }
    widest.sort();
    widest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_widest_are_told() {
        let nets =
            |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<BTreeSet<IpNet>>();
        let told =
            widest(nets(&["10.0.0.0/8", "10.1.0.0/16", "192.0.2.0/25", "192.0.2.128/25", "fd00::/64"]));
        let texts: Vec<_> = told.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["10.0.0.0/8", "192.0.2.0/24", "fd00::/64"]);
        let many = (0..1000_u32).map(|n| IpNet::new(Ipv4Addr::from_bits(n << 9).into(), 24).unwrap());
        let told = widest(many.chain(nets(&["172.16.0.0/12"])).collect());
        assert_eq!(told.len(), MOST);
        assert!(told.contains(&"172.16.0.0/12".parse().unwrap()));
    }
}
