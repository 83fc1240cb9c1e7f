//! The ports of a network's bridge.

use std::{io, mem};

use netlink_packet_route::link::InfoBridgePort;
use rtnetlink::{Handle, LinkBridgePort, LinkMessageBuilder, LinkUnspec};

use super::super::{DifferenceKind, Differences, vxlan_device::Reconciled};
use crate::{
    netlink::{self, Link, into_io},
    plan::FloodingOf,
    state::Flooding,
};

/// What is behind a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A container of this node.
    Endpoint,
    /// The other nodes.
    Vxlan,
}

/// Makes `ifindex` a port of `bridge` with the right options; then sets an endpoint's up.
pub(super) async fn ensure(
    kernel: &Handle,
    ifindex: u32,
    bridge: u32,
    kind: Kind,
    flooding: FloodingOf,
    done: &mut Reconciled,
) {
    match bring(kernel, ifindex, bridge, kind, flooding).await {
        Ok(changed) => done.changed += changed,
        Err(error) => done.problems.push(format!("make interface {ifindex} a port of its bridge: {error}")),
    }
}

async fn bring(
    kernel: &Handle,
    ifindex: u32,
    bridge: u32,
    kind: Kind,
    flooding: FloodingOf,
) -> io::Result<usize> {
    let mut changed = 0;
    let mut link = read(kernel, ifindex).await?;
    if link.controller != Some(bridge) {
        let message = LinkUnspec::new_with_index(ifindex).controller(bridge).build();
        kernel.link().set(message).execute().await.map_err(into_io)?;
        changed += 1;
        link = read(kernel, ifindex).await?;
    }
    let wanted = options(kind, flooding);
    if differs(&link, &wanted) {
        let builder = LinkBridgePort::new(ifindex);
        let message =
            wanted.into_iter().fold(builder, LinkMessageBuilder::<LinkBridgePort>::append_info_data).build();
        netlink::change_link(kernel, message).await?;
        changed += 1;
    }
    if !link.up && kind == Kind::Endpoint {
        kernel
            .link()
            .set(LinkUnspec::new_with_index(ifindex).up().build())
            .execute()
            .await
            .map_err(into_io)?;
        changed += 1;
    }
    Ok(changed)
}

/// Compares `link` with what a port of `bridge` should be.
pub(super) fn audit(link: &Link, bridge: u32, kind: Kind, flooding: FloodingOf, found: &mut Differences) {
    let place = format!("interface {}", link.name);
    for (right, what) in [
        (link.controller == Some(bridge), "its bridge"),
        (
            link.controller != Some(bridge) || !differs(link, &options(kind, flooding)),
            "its options as a port",
        ),
        (link.up || kind == Kind::Vxlan, "that it is set up"),
    ] {
        if !right {
            found.note(DifferenceKind::Different, &place, || what.to_owned());
        }
    }
}

/// An option that the kernel does not show it does not have (`locked` came with Linux 5.18).
fn differs(link: &Link, wanted: &[InfoBridgePort]) -> bool {
    link.port.iter().any(|shown| {
        wanted.iter().any(|option| mem::discriminant(option) == mem::discriminant(shown) && option != shown)
    })
}

async fn read(kernel: &Handle, ifindex: u32) -> io::Result<Link> {
    netlink::link_at(kernel, ifindex).await?.ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn options(kind: Kind, flooding: FloodingOf) -> [InfoBridgePort; 8] {
    let floods = |decision| decision == Flooding::Flood;
    [
        InfoBridgePort::Learning(false),
        InfoBridgePort::UnicastFlood(floods(flooding.unknown_unicast)),
        InfoBridgePort::MulticastFlood(floods(flooding.multicast)),
        InfoBridgePort::BroadcastFlood(floods(flooding.broadcast)),
        // A source that the forwarding database does not have behind this port is dropped.
        InfoBridgePort::Locked(true),
        InfoBridgePort::Isolated(false),
        InfoBridgePort::HairpinMode(false),
        // The bridge answers ARP for what is behind the tunnel, from its neighbour entries.
        InfoBridgePort::NeighSupress(kind == Kind::Vxlan),
    ]
}
