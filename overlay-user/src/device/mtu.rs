//! The MTU of endpoints' interfaces that are there already, when their network's or the underlay's changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
};

use rtnetlink::{Handle, LinkUnspec};

use super::{Netns, netns};
use crate::{
    MacAddr,
    datapath::Underlay,
    netlink::{self, Link, into_io},
    plan::{Network, Plan},
    state::{Endpoint, EndpointId},
};

/// The smallest MTU IPv4 works with (RFC 791, section 3.2), and IPv6 (RFC 8200, section 5).
const LEAST_MTU4: u16 = 68;
const LEAST_MTU6: u16 = 1280;

/// What interfaces were brought to.
#[derive(Default)]
pub struct Mtus(BTreeMap<EndpointId, u16>);

impl Mtus {
    /// Brings the interfaces of this node's endpoints to the MTU of their network, as far as the underlay has
    /// room for it. The host's end tells what they were brought to last: where it is right, the container's
    /// is its own matter. Returns what is not as planned.
    pub async fn bring_to(&mut self, plan: &Plan, underlay: &Underlay) -> Vec<String> {
        let mut problems = Vec::new();
        let mut here = BTreeSet::new();
        for network in plan.networks.values() {
            problems.extend(without_room(network, underlay));
            for (mac, endpoint) in &network.local {
                let mtu = mtu(network, endpoint, underlay);
                here.insert(&endpoint.id);
                if self.0.get(&endpoint.id) == Some(&mtu) {
                    continue;
                }
                match set(&endpoint.id.host_device(), *mac, endpoint.container(), mtu).await {
                    Ok(()) => drop(self.0.insert(endpoint.id.clone(), mtu)),
                    Err(error) => problems.push(format!(
                        "endpoint {} of network {}: cannot set the MTU of its interfaces to {mtu}: {error}",
                        endpoint.id, network.name
                    )),
                }
            }
        }
        self.0.retain(|id, _| here.contains(id));
        problems
    }
}

fn mtu(network: &Network, endpoint: &Endpoint, underlay: &Underlay) -> u16 {
    let least = if endpoint.addresses.iter().any(IpAddr::is_ipv6) { LEAST_MTU6 } else { LEAST_MTU4 };
    let room = underlay.inner_mtu();
    network.mtu.unwrap_or(room).min(room).max(least)
}

fn without_room(network: &Network, underlay: &Underlay) -> Option<String> {
    let (mtu, room) = (network.mtu?, underlay.inner_mtu());
    (mtu > room).then(|| {
        format!(
            "network {} has an MTU of {mtu}, but this node's underlay of {} bytes has room for {room}, which its \
             interfaces have: raise the underlay's MTU, or `overlayctl network set {} --mtu {room}`",
            network.name, underlay.mtu, network.name
        )
    })
}

/// Sets the MTU of a veth pair by the name of the host's end, and that end last. A pair that is gone is the
/// data path's to tell.
async fn set(host: &str, mac: MacAddr, container: &str, mtu: u16) -> io::Result<()> {
    let kernel = netlink::connect()?;
    let Some(found) = netlink::link_named(&kernel, host).await? else { return Ok(()) };
    if found.mtu == u32::from(mtu) {
        return Ok(());
    }
    let netns = Netns::of_word(container).open().map_err(io::Error::other)?;
    netns::inside(netns, async move || {
        let kernel = netlink::connect()?;
        let links = netlink::links(&kernel).await?;
        let own = |link: &&Link| link.mac == Some(mac) && link.other_end == Some(found.ifindex);
        let own = links.iter().find(own).ok_or_else(|| io::Error::other("its interface is not in there"))?;
        change(&kernel, own.ifindex, mtu).await
    })
    .await
    .map_err(|error| io::Error::new(error.kind(), format!("in its namespace, {container}: {error}")))?;
    change(&kernel, found.ifindex, mtu).await
}

async fn change(kernel: &Handle, ifindex: u32, mtu: u16) -> io::Result<()> {
    let message = LinkUnspec::new_with_index(ifindex).mtu(mtu.into()).build();
    kernel.link().set(message).execute().await.map_err(into_io)
}
