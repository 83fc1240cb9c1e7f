//! The loop that keeps the underlay current: any event that may matter has everything computed
//! again, and what differs is published.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    io,
    net::IpAddr,
    time::Duration,
};

use futures::{StreamExt as _, TryStreamExt as _};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::{Handle, MulticastGroup};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, sleep},
};
use tracing::{debug, info, warn};

use super::{
    Selector, UnderlayError,
    peer::{self, NextHop, Way},
    uplink,
};
use crate::{
    datapath::{Route, Underlay},
    netlink::{self, Events},
};

/// Events come in bursts; one computation for each burst.
const DEBOUNCE: Duration = Duration::from_millis(15);
/// How many questions to the kernel are under way at once.
const AT_ONCE: usize = 64;
/// For what has no event (a path MTU learnt from ICMP), and for events that got lost unnoticed.
const SAFETY: Duration = Duration::from_secs(30);
/// Pause before the kernel is asked for events again after it closed the socket.
const RESUBSCRIBE: Duration = Duration::from_secs(1);

pub(super) struct Follower {
    selector: Selector,
    port: u16,
    peers: watch::Receiver<BTreeSet<IpAddr>>,
    current: watch::Sender<Underlay>,
    events: Events,
    /// Next hops that the kernel was asked to keep resolved.
    kept: BTreeSet<NextHop>,
    /// The uplink is away: the last underlay stands.
    lost: bool,
}

/// The announcements that can matter.
const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv6Route,
];

impl Follower {
    pub(super) async fn begin(
        selector: Selector,
        port: u16,
        peers: watch::Receiver<BTreeSet<IpAddr>>,
    ) -> Result<(Self, watch::Receiver<Underlay>), UnderlayError> {
        let socket = |error| UnderlayError(format!("open a routing socket: {error}"));
        // Listen before looking: what changes in between is then seen, at worst twice.
        let events = Events::subscribe(&GROUPS).map_err(socket)?;
        let kernel = netlink::connect().map_err(socket)?;
        let uplink = uplink::find(&kernel, &selector, None).await?;
        let selector = match selector {
            Selector::DefaultRoute => Selector::Interface(uplink.name.clone()),
            chosen => chosen,
        };
        let (current, receiver) = watch::channel(with_routes(uplink, port, BTreeSet::new(), BTreeMap::new()));
        Ok((Self { selector, port, peers, current, events, kept: BTreeSet::new(), lost: false }, receiver))
    }

    pub(super) async fn run(mut self) {
        let mut safety = interval(SAFETY);
        safety.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = self.events.next() => match event {
                    Some(message) if self.concerns(&message) => {
                        sleep(DEBOUNCE).await;
                        self.events.skip();
                    }
                    Some(_) => continue,
                    None => self.resubscribe().await,
                },
                changed = self.peers.changed() => if changed.is_err() { return },
                _ = safety.tick() => {}
            }
            if let Err(error) = self.update().await {
                warn!(%error, "cannot read the underlay from the kernel");
            }
        }
    }

    async fn resubscribe(&mut self) {
        sleep(RESUBSCRIBE).await;
        match Events::subscribe(&GROUPS) {
            Ok(events) => self.events = events,
            Err(error) => warn!(%error, "cannot open a routing socket for events"),
        }
    }

    /// Whether an event can change what is published.
    fn concerns(&self, message: &NetlinkMessage<RouteNetlinkMessage>) -> bool {
        use RouteNetlinkMessage as M;
        let inner = match &message.payload {
            NetlinkPayload::InnerMessage(inner) => inner,
            // The kernel had more events than the socket holds: some are lost.
            NetlinkPayload::Overrun(_) => return true,
            _ => return false,
        };
        match inner {
            M::NewLink(link) | M::DelLink(link) => {
                let current = self.current.borrow();
                self.lost
                    || link.header.index == current.ifindex
                    || current.routes.values().any(|route| route.ifindex == link.header.index)
            }
            M::NewNeighbour(entry) | M::DelNeighbour(entry) => {
                peer::hop_of(entry).is_some_and(|hop| self.kept.contains(&hop))
            }
            M::NewAddress(_) | M::DelAddress(_) | M::NewRoute(_) | M::DelRoute(_) => true,
            _ => false,
        }
    }

    async fn update(&mut self) -> io::Result<()> {
        let kernel = netlink::connect()?;
        let known = {
            let current = self.current.borrow();
            (current.ifindex, current.addr)
        };
        let uplink = match uplink::find(&kernel, &self.selector, Some(known)).await {
            Ok(uplink) => uplink,
            Err(error) => {
                if !self.lost {
                    warn!(%error, "the uplink is gone: the last underlay stands until it is back");
                }
                self.lost = true;
                return Ok(());
            }
        };
        if self.lost {
            info!(uplink = uplink.name, "the uplink is back");
        }
        self.lost = false;
        let peers = self.peers.borrow_and_update().clone();
        let routes = self.routes(&kernel, uplink.addr, &peers).await?;
        let underlay = with_routes(uplink, self.port, peers, routes);
        self.current.send_if_modified(|current| {
            let changed = *current != underlay;
            if changed {
                debug!(?underlay, "the underlay changed");
                *current = underlay;
            }
            changed
        });
        Ok(())
    }

    async fn routes(
        &mut self,
        kernel: &Handle,
        from: IpAddr,
        peers: &BTreeSet<IpAddr>,
    ) -> io::Result<BTreeMap<IpAddr, Route>> {
        let ways = ways(kernel, from, peers).await?;
        let hops: BTreeSet<_> = ways.values().map(|way| way.hop).collect();
        let mut neighbours = BTreeMap::new();
        for hop in &hops {
            let neighbour = peer::neighbour(kernel, *hop).await?;
            // Also where it is resolved already: the kernel would forget it unless it is used.
            if !neighbour.kept
                && let Err(error) = peer::keep_resolved(kernel, *hop).await
            {
                debug!(?hop, %error, "cannot have a next hop resolved");
            }
            neighbours.insert(*hop, neighbour);
        }
        for gone in self.kept.difference(&hops) {
            if let Err(error) = peer::let_go(kernel, *gone).await {
                debug!(?gone, %error, "a next hop was gone already");
            }
        }
        self.kept = hops;

        let mut links = BTreeMap::new();
        for way in ways.values() {
            if let Entry::Vacant(entry) = links.entry(way.hop.ifindex) {
                entry.insert(netlink::link_at(kernel, way.hop.ifindex).await?);
            }
        }
        let route = |way: &Way| {
            let link = links.get(&way.hop.ifindex)?.as_ref()?;
            let mtu = way.mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu));
            Some(Route {
                ifindex: way.hop.ifindex,
                // What is not Ethernet cannot carry our frames.
                source_mac: link.mac?,
                next_hop: way.hop.addr,
                neighbour: neighbours.get(&way.hop).and_then(|neighbour| neighbour.mac),
                mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
            })
        };
        Ok(ways.iter().filter_map(|(peer, way)| Some((*peer, route(way)?))).collect())
    }
}

/// The ways to all peers that there are some to. There may be thousands: a question to the kernel takes it less
/// time than waiting for each answer takes us.
async fn ways(kernel: &Handle, from: IpAddr, peers: &BTreeSet<IpAddr>) -> io::Result<BTreeMap<IpAddr, Way>> {
    let questions: Vec<_> = peers.iter().map(|peer| way(kernel.clone(), from, *peer)).collect();
    let answers: Vec<_> = futures::stream::iter(questions).buffer_unordered(AT_ONCE).try_collect().await?;
    Ok(answers.into_iter().flatten().collect())
}

async fn way(kernel: Handle, from: IpAddr, peer: IpAddr) -> io::Result<Option<(IpAddr, Way)>> {
    Ok(peer::way(&kernel, from, peer).await?.map(|way| (peer, way)))
}

fn with_routes(
    uplink: uplink::Uplink,
    port: u16,
    peers: BTreeSet<IpAddr>,
    routes: BTreeMap<IpAddr, Route>,
) -> Underlay {
    let uplink::Uplink { ifindex, name, driver, addr, mac, mtu } = uplink;
    Underlay { ifindex, name, driver, addr, mac, mtu, port, udp6_zero_checksum: false, peers, routes }
}
