//! The host: what the uplink is, and what else on it may be in the way.

use aya::programs::loaded_programs;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVxlan};

use super::{Area, Finding, sockets};
use crate::{
    Vni,
    api::Context,
    datapath::{Mode, Underlay, vxlan_device},
    netlink::{self, Link, offloads},
    plan::{self, Plan},
    state::{EndpointId, State},
    store::Examined,
};

/// Looks at the host. Returns what is wrong and what is good to know.
pub async fn look(context: &Context, examined: Option<&Examined>) -> (Vec<Finding>, Vec<String>) {
    let underlay = context.underlay.borrow().clone();
    let state = context.state();
    let plan = plan::plan(&state, &context.node);
    let mut findings = Vec::new();
    let links = match netlink::connect() {
        Ok(kernel) => netlink::links(&kernel).await,
        Err(error) => Err(error),
    };
    match links {
        Ok(links) => {
            findings.extend(uplink(&links, &underlay));
            findings.extend(other_program(&links, &underlay, context.mode));
            findings.extend(other_tunnels(&links, &underlay, &plan));
            findings.extend(left_behind(&links, &state, examined));
        }
        Err(error) => findings.push(Finding::error(
            Area::Host,
            "the kernel does not list its interfaces",
            error.to_string(),
            "run overlayd as root",
        )),
    }
    findings.extend(narrow_peers(&state, &plan, &underlay));
    let port = underlay.port;
    let holders = tokio::task::spawn_blocking(move || sockets::holders(port)).await.unwrap_or_default();
    findings.extend(holders.into_iter().map(|holder| {
        Finding::error(
            Area::Host,
            format!("UDP port {port} is held by {holder}"),
            "it is not free for VXLAN, and what comes in for it is taken before that program",
            "stop that program, or give all nodes another --port",
        )
    }));
    if context.mode == Mode::Xdp {
        findings.extend(merging(&underlay.name));
    }
    let notes = vec![format!("data path {}: {}", context.mode.name(), context.reason)];
    (findings, notes)
}

fn uplink(links: &[Link], underlay: &Underlay) -> Option<Finding> {
    let Underlay { ifindex, name, addr, .. } = underlay;
    let Some(link) = links.iter().find(|link| link.ifindex == *ifindex) else {
        return Some(Finding::error(
            Area::Host,
            format!("the uplink {name} is gone"),
            "it was removed, or its driver was",
            format!("bring {name} back with address {addr}, or restart overlayd with --underlay"),
        ));
    };
    if !link.up {
        let what = format!("the uplink {} is down", link.name);
        return Some(Finding::error(
            Area::Host,
            what,
            "it was set down",
            format!("ip link set {} up", link.name),
        ));
    }
    (!link.carrier).then(|| {
        let what = format!("the uplink {} has no carrier", link.name);
        Finding::error(
            Area::Host,
            what,
            "its cable or its other end is down",
            format!("ethtool {}", link.name),
        )
    })
}

/// An XDP program of somebody else's on the uplink. Where ours should be there, the data path says that it is not.
fn other_program(links: &[Link], underlay: &Underlay, mode: Mode) -> Option<Finding> {
    let link = links.iter().find(|link| link.ifindex == underlay.ifindex).filter(|_| mode != Mode::Xdp)?;
    let xdp = link.xdp?;
    let program = loaded_programs().flatten().find(|program| program.id() == xdp.program);
    let name =
        program.and_then(|program| program.name_as_str().map(|name| format!(" {name}"))).unwrap_or_default();
    let cause = if xdp.native {
        "packets pass it before they come here"
    } else {
        "packets pass it before they come here, and generic XDP turns GRO off for the whole card"
    };
    Some(Finding::warning(
        Area::Host,
        format!("another XDP program{name} (id {}) is on the uplink {}", xdp.program, link.name),
        cause,
        format!("ip link set {} xdp off, if nobody needs it", link.name),
    ))
}

/// Offloads that merge what XDP leaves alone.
fn merging(uplink: &str) -> Option<Finding> {
    let on =
        offloads::on(uplink, &["rx-udp-gro-forwarding", "rx-gro-list"]).ok().filter(|on| !on.is_empty())?;
    Some(Finding::warning(
        Area::Host,
        format!("{} is on for the uplink {uplink}", on.join(" and ")),
        "with XDP, what it merges of a tunnel's packets is taken for verified",
        format!("ethtool -K {uplink} {} off", on.join(" off ")),
    ))
}

/// Other VXLAN devices on our port: packets of their VNIs are theirs, but not of ours.
fn other_tunnels(links: &[Link], underlay: &Underlay, plan: &Plan) -> Vec<Finding> {
    let mut findings = Vec::new();
    for link in links.iter().filter(|link| link.kind == Some(InfoKind::Vxlan)) {
        let Some(InfoData::Vxlan(infos)) = &link.data else { continue };
        if vxlan_device::vni_of(link).is_some() || !infos.contains(&InfoVxlan::Port(underlay.port)) {
            continue;
        }
        let vni = infos.iter().find_map(|info| match info {
            InfoVxlan::Id(id) => Vni::new(*id).ok(),
            _ => None,
        });
        let (name, port) = (&link.name, underlay.port);
        let cure = format!("ip link del {name}, or give all nodes another --port");
        match vni.and_then(|vni| plan.networks.get(&vni)) {
            Some(network) => findings.push(Finding::error(
                Area::Host,
                format!("the VXLAN device {name} has the VNI of network {} on UDP port {port}", network.name),
                "somebody else made it",
                cure,
            )),
            None => findings.push(Finding::warning(
                Area::Host,
                format!("the VXLAN device {name} is on UDP port {port} as well"),
                "another network program of this host uses VXLAN",
                cure,
            )),
        }
    }
    findings
}

/// Interfaces of endpoints that nobody has a record of. One that is being made has a claim on an address.
fn left_behind(links: &[Link], state: &State, examined: Option<&Examined>) -> Vec<Finding> {
    let Some(examined) = examined else { return Vec::new() };
    let known = |id: &EndpointId| {
        let recorded = |state: &State| state.endpoints.iter().any(|(_, endpoint)| endpoint.id == *id);
        recorded(state) || recorded(&examined.state) || examined.in_the_making.contains(id)
    };
    let ids = links.iter().filter_map(|link| {
        let id: EndpointId = link.name.strip_prefix("ov")?.parse().ok()?;
        (id.host_device() == link.name && !known(&id)).then_some(id)
    });
    ids.map(|id| {
        Finding::warning(
            Area::Host,
            format!("the interface {} belongs to no endpoint", id.host_device()),
            "its endpoint was withdrawn without it",
            format!("overlayctl endpoint detach {id}"),
        )
    })
    .collect()
}

/// Nodes whose underlay has less room than the interfaces of a network here send.
fn narrow_peers(state: &State, plan: &Plan, underlay: &Underlay) -> Vec<Finding> {
    let mut findings = Vec::new();
    for network in plan.networks.values() {
        let mtu = network.mtu.unwrap_or(underlay.inner_mtu());
        for node in &network.members {
            let Some(peer) = state.nodes.get(node).and_then(|node| node.mtu) else { continue };
            let room = Underlay { mtu: peer, ..underlay.clone() }.inner_mtu();
            if room < mtu {
                findings.push(Finding::warning(
                    Area::Host,
                    format!(
                        "{node} has room for {room} bytes, interfaces of network {} send {mtu}",
                        network.name
                    ),
                    format!("its underlay has an MTU of {peer}, this node's {}", underlay.mtu),
                    format!(
                        "raise the MTU of {node}'s underlay, or `overlayctl network set {} --mtu {room}`",
                        network.name
                    ),
                ));
            }
        }
    }
    findings
}
