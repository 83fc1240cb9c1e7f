//! Endpoints of this node that have lost their interface, and those that a killed daemon left half-made:
//! their own node, and nobody else, gives them up.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::Duration,
};

use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
};
use rtnetlink::{LinkUnspec, MulticastGroup};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{Journal, Known, Membership, Source};
use crate::{
    device,
    netlink::{self, Events, into_io},
    state::{EndpointId, NodeName, State},
    store::{Store, StoreError},
};

/// How often everything is looked at though the kernel has announced nothing.
const LOOK: Duration = Duration::from_secs(30);

/// When what could not be done is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// Announcements come in bursts: the end of a namespace is one.
const BURST: Duration = Duration::from_millis(20);

/// Gives up what this node has no more.
pub struct Orphans {
    pub node: NodeName,
    pub store: Store,
    pub journal: Journal,
    pub known: watch::Receiver<Known>,
    pub membership: watch::Receiver<Membership>,
}

/// What is remembered between two looks.
#[derive(Default)]
struct Memory {
    /// Interfaces of endpoints that were here, by the names they had.
    seen: BTreeMap<EndpointId, u32>,
    /// Endpoints whose interface may be on another machine.
    elsewhere: BTreeSet<EndpointId>,
}

impl Orphans {
    /// Looks for them until `cancel`.
    pub async fn run(self, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.look_on()).await;
    }

    async fn look_on(mut self) {
        let mut memory = Memory::default();
        loop {
            // Listen before looking: what goes in between is then seen.
            let mut events = match Events::subscribe(&[MulticastGroup::Link]) {
                Ok(events) => events,
                Err(error) => {
                    tracing::warn!(%error, "cannot open a routing socket for events");
                    sleep(RETRY).await;
                    continue;
                }
            };
            loop {
                let done = self.look(&mut memory).await;
                let next = Instant::now() + if done { LOOK } else { RETRY };
                if !self.wait(&mut memory, &mut events, next).await {
                    break;
                }
            }
        }
    }

    /// Waits for a reason to look again. Returns whether the events go on.
    async fn wait(&mut self, memory: &mut Memory, events: &mut Events, next: Instant) -> bool {
        loop {
            let message = tokio::select! {
                message = events.next() => message,
                Ok(()) = self.membership.changed() => return true,
                () = sleep_until(next) => return true,
            };
            let Some(message) = message else { return false };
            match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                    let known = memory.seen.iter().find(|(_, ifindex)| **ifindex == link.header.index);
                    let known = known.map(|(id, _)| id.clone());
                    let named = endpoint_of(&link);
                    if let Some(id) = &named {
                        memory.seen.insert(id.clone(), link.header.index);
                    }
                    if known.is_none() || known == named {
                        continue;
                    }
                }
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => {
                    if endpoint_of(&link).is_none() {
                        continue;
                    }
                }
                // The kernel had more to say than the socket holds.
                NetlinkPayload::Overrun(_) => {}
                _ => continue,
            }
            sleep(BURST).await;
            events.skip();
            return true;
        }
    }

    /// Looks at everything. Returns whether there is nothing left to do.
    async fn look(&mut self, memory: &mut Memory) -> bool {
        let Known { state, source } = self.known.borrow().clone();
        let Membership::Joined(incarnation) = *self.membership.borrow_and_update() else { return false };
        // What was kept from before says nothing about what is.
        if source != Source::Store {
            return false;
        }
        let done = self.finish_half_made(incarnation).await;
        match self.missing(memory, &state).await {
            Ok(missing) => self.release(memory, &state, incarnation, missing).await && done,
            Err(error) => {
                tracing::warn!(%error, "the interfaces of endpoints cannot be listed");
                false
            }
        }
    }

    /// This node's endpoints without an interface. One that was renamed gets its name back.
    async fn missing(&self, memory: &mut Memory, state: &State) -> io::Result<Vec<EndpointId>> {
        let own = state.endpoints.of_node(&self.node).map(|(_, endpoint)| &endpoint.id);
        let own: BTreeSet<_> = own.filter(|id| !self.journal.is_under_way(id)).collect();
        let kernel = netlink::connect()?;
        let links = netlink::links(&kernel).await?;
        let here: BTreeMap<_, _> = links
            .iter()
            .filter_map(|link| Some((EndpointId::of_host_device(&link.name)?, link.ifindex)))
            .collect();
        memory.seen.retain(|id, _| own.contains(id));
        let mut missing = Vec::new();
        for id in own {
            if let Some(ifindex) = here.get(id) {
                memory.seen.insert(id.clone(), *ifindex);
                continue;
            }
            let renamed =
                memory.seen.get(id).and_then(|seen| links.iter().find(|link| link.ifindex == *seen));
            let Some(link) = renamed else {
                missing.push(id.clone());
                continue;
            };
            let message = LinkUnspec::new_with_index(link.ifindex).name(id.host_device()).build();
            match kernel.link().set(message).execute().await.map_err(into_io) {
                Ok(()) => {
                    tracing::warn!(endpoint = %id, was = link.name, "somebody renamed its interface: named back");
                }
                Err(error) => {
                    tracing::warn!(endpoint = %id, is = link.name, %error, "its interface was renamed and cannot be named back");
                }
            }
        }
        Ok(missing)
    }

    async fn release(
        &self,
        memory: &mut Memory,
        state: &State,
        incarnation: u64,
        missing: Vec<EndpointId>,
    ) -> bool {
        let mut done = true;
        memory.elsewhere.retain(|id| missing.contains(id));
        let own = state.endpoints.of_node(&self.node).map(|(network, endpoint)| (network, &endpoint.id));
        for (network, id) in own.filter(|(_, id)| missing.contains(id)) {
            if memory.elsewhere.contains(id) {
                continue;
            }
            match self.store.release_orphan(&self.node, incarnation, network, id).await {
                Ok(true) => {
                    tracing::info!(endpoint = %id, %network, "its interface is gone: the endpoint is given up");
                }
                Ok(false) => {
                    tracing::warn!(
                        endpoint = %id, %network,
                        "its interface is not here, but this node had another address when it was attached: it is kept. If \
                         it is gone for good, `overlayctl endpoint detach {id}`"
                    );
                    memory.elsewhere.insert(id.clone());
                }
                Err(error) => {
                    tracing::debug!(endpoint = %id, %network, %error, "its interface is gone, but it is not given up yet");
                    done = false;
                    // The store is away: it would be for the next as well.
                    if matches!(error, StoreError::Unreachable(_)) {
                        break;
                    }
                }
            }
        }
        done
    }

    /// Takes back what an attach has done that a former process was killed in.
    async fn finish_half_made(&self, incarnation: u64) -> bool {
        let mut done = true;
        for (network, id) in self.journal.left() {
            match self.store.release_orphan(&self.node, incarnation, &network, &id).await {
                // Its interface is here, so it was this machine that made it.
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(endpoint = %id, %network, %error, "half-made, and not taken back yet");
                    done = false;
                    continue;
                }
            }
            match device::remove(&id.host_device()).await {
                Ok(()) => {
                    tracing::info!(endpoint = %id, %network, "overlayd was cut off while it attached this: taken back");
                    self.journal.forget(&id);
                }
                Err(error) => {
                    tracing::warn!(endpoint = %id, %error, "half-made, and its interface cannot be removed");
                    done = false;
                }
            }
        }
        done
    }
}

fn endpoint_of(link: &LinkMessage) -> Option<EndpointId> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => EndpointId::of_host_device(name),
        _ => None,
    })
}
