//! The bridge of a network: the device, and its forwarding database.

use std::{
    collections::{BTreeMap, BTreeSet},
    io, mem,
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{BridgeStpState, InfoBridge, InfoData, InfoKind},
    neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec};

use super::super::{
    DatapathError, DifferenceKind, Differences,
    vxlan_device::{Ensured, Fdb, Reconciled, mac_of},
};
use crate::{
    MacAddr, Vni,
    netlink::{self, Link, into_io, ipv6},
};

/// Name of the bridge of `vni`: `ovb` and the VNI in hexadecimal.
pub(super) fn name(vni: Vni) -> String {
    format!("ovb{:x}", vni.get())
}

/// The bridge's own address. One that is not set follows the ports', and each change of it makes the
/// kernel forget the neighbour entries.
fn mac(vni: Vni) -> MacAddr {
    let [_, a, b, c] = vni.get().to_be_bytes();
    MacAddr([0xfe, 0x6f, 0x76, a, b, c])
}

/// The VNI of a bridge of ours; `None` for any other interface.
pub(super) fn vni_of(link: &Link) -> Option<Vni> {
    if link.kind != Some(InfoKind::Bridge) {
        return None;
    }
    let digits = link.name.strip_prefix("ovb")?;
    let vni = Vni::new(u32::from_str_radix(digits, 16).ok()?).ok()?;
    (link.name == name(vni)).then_some(vni)
}

/// Makes the bridge of `vni` or changes the one that is there, and sets it up.
pub(super) async fn ensure(
    kernel: &Handle,
    links: &[Link],
    vni: Vni,
    mtu: u16,
) -> Result<Ensured, DatapathError> {
    let name = name(vni);
    let failed = |cause| DatapathError::Io { what: format!("set up the bridge {name}"), cause };
    let mut changed = 0;
    let found = links.iter().find(|link| link.name == name).cloned();
    let link = match found {
        Some(link) if link.kind != Some(InfoKind::Bridge) => {
            return Err(DatapathError::Unsupported(format!(
                "the interface {name} is in the way of the bridge of VNI {vni}: remove or rename it"
            )));
        }
        Some(link) => {
            let differing = differing(&link);
            if !differing.is_empty() {
                let message = with(LinkBridge::new(&name), differing).index(link.ifindex).build();
                netlink::change_link(kernel, message).await.map_err(failed)?;
                changed += 1;
            }
            link
        }
        None => {
            let message =
                with(LinkBridge::new(&name), made_with()).address(mac(vni).0.to_vec()).down().build();
            kernel.link().add(message).execute().await.map_err(into_io).map_err(failed)?;
            ipv6::disable(&name);
            changed += 1;
            let made = netlink::link_named(kernel, &name).await.map_err(failed)?;
            made.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?
        }
    };
    if link.mtu != u32::from(mtu) || !link.up || link.mac != Some(mac(vni)) {
        let message = LinkUnspec::new_with_index(link.ifindex)
            .address(mac(vni).0.to_vec())
            .mtu(mtu.into())
            .up()
            .build();
        kernel.link().set(message).execute().await.map_err(into_io).map_err(failed)?;
        changed += 1;
    }
    Ok(Ensured { ifindex: link.ifindex, up: true, changed })
}

/// Brings the bridge's forwarding database to `wanted`, the port of each MAC address. The addresses
/// of the bridge's own devices stay.
pub(super) async fn reconcile_fdb(
    kernel: &Handle,
    fdb: &Fdb,
    bridge: u32,
    wanted: &BTreeMap<MacAddr, u32>,
) -> Reconciled {
    let mut done = Reconciled::default();
    let (missing, wrong) = compare(fdb, bridge, wanted);
    for (mac, port) in missing {
        add_row(kernel, mac, port, &mut done).await;
    }
    for message in wrong {
        let Some(mac) = mac_of(message) else { continue };
        let mut request = row_message(mac, message.header.ifindex);
        let vlan = message.attributes.iter().filter(|a| matches!(a, NeighbourAttribute::Vlan(_)));
        request.attributes.extend(vlan.cloned());
        remove(kernel, mac, request, &mut done).await;
    }
    done
}

/// Has a MAC address be behind a port, whatever port it was behind.
pub(super) async fn add_row(kernel: &Handle, mac: MacAddr, port: u32, done: &mut Reconciled) {
    let message = RouteNetlinkMessage::NewNeighbour(row_message(mac, port));
    let result = netlink::acknowledged(kernel, message, NLM_F_CREATE | NLM_F_REPLACE).await;
    done.note(result, || format!("add {mac} to the bridge's FDB"));
}

/// Has a MAC address no longer be behind a port; one that is gone is no error.
pub(super) async fn remove_row(kernel: &Handle, mac: MacAddr, port: u32, done: &mut Reconciled) {
    remove(kernel, mac, row_message(mac, port), done).await;
}

async fn remove(kernel: &Handle, mac: MacAddr, row: NeighbourMessage, done: &mut Reconciled) {
    match netlink::acknowledged(kernel, RouteNetlinkMessage::DelNeighbour(row), 0).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => done.note(other, || format!("remove {mac} from the bridge's FDB")),
    }
}

/// Compares the bridge's forwarding database with `wanted`.
pub(super) fn audit_fdb(
    fdb: &Fdb,
    (bridge, name): (u32, &str),
    wanted: &BTreeMap<MacAddr, u32>,
    found: &mut Differences,
) {
    let place = format!("FDB of {name}");
    let (missing, wrong) = compare(fdb, bridge, wanted);
    for (mac, _) in missing {
        found.note(DifferenceKind::Missing, &place, || mac.to_string());
    }
    for message in wrong {
        found.note(DifferenceKind::Extra, &place, || mac_of(message).unwrap_or_default().to_string());
    }
}

/// The rows of `wanted` that the bridge has not, and those of others that it has. One that is there for another
/// port is missing, and is replaced by the right one.
fn compare<'a>(
    fdb: &'a Fdb,
    bridge: u32,
    wanted: &BTreeMap<MacAddr, u32>,
) -> (Vec<(MacAddr, u32)>, Vec<&'a NeighbourMessage>) {
    let present: Vec<_> = fdb.of_bridge(bridge).collect();
    let right: BTreeSet<_> = present.iter().filter_map(|message| fixed_row(message)).collect();
    let missing = wanted.iter().map(|(mac, port)| (*mac, *port)).filter(|row| !right.contains(row)).collect();
    let stays = |message: &&NeighbourMessage| {
        let tagged = message.attributes.iter().any(|a| matches!(a, NeighbourAttribute::Vlan(_)));
        // In a bridge's database "permanent" is a device's own address.
        let own = message.header.state == NeighbourState::Permanent;
        !tagged && (own || mac_of(message).is_some_and(|mac| wanted.contains_key(&mac)))
    };
    (missing, present.into_iter().filter(|message| !stays(message)).collect())
}

/// Compares the bridge of `vni` among `links` with what it should be. Returns its interface index, if it is there.
pub(super) fn audit(links: &[Link], vni: Vni, mtu: u16, found: &mut Differences) -> Option<u32> {
    let name = name(vni);
    let place = format!("interface {name}");
    let Some(link) = links.iter().find(|link| vni_of(link) == Some(vni)) else {
        found.note(DifferenceKind::Missing, place, || format!("the bridge of VNI {vni}"));
        return None;
    };
    for (right, what) in [
        (differing(link).is_empty(), "its options"),
        (link.mtu == u32::from(mtu), "its MTU"),
        (link.up, "that it is set up"),
        (link.mac == Some(mac(vni)), "its MAC address"),
    ] {
        if !right {
            found.note(DifferenceKind::Different, &place, || what.to_owned());
        }
    }
    Some(link.ifindex)
}

/// A row as we make them: of no VLAN, and neither learnt nor a device's own address.
fn fixed_row(message: &NeighbourMessage) -> Option<(MacAddr, u32)> {
    let tagged = message.attributes.iter().any(|a| matches!(a, NeighbourAttribute::Vlan(_)));
    let fixed = message.header.state == NeighbourState::Noarp;
    (fixed && !tagged).then_some((mac_of(message)?, message.header.ifindex))
}

fn row_message(mac: MacAddr, port: u32) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = port;
    message.header.state = NeighbourState::Noarp;
    message.header.flags = NeighbourFlags::Controller;
    message.attributes = vec![NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())];
    message
}

/// What a bridge is made with.
fn made_with() -> Vec<InfoBridge> {
    vec![
        InfoBridge::StpState(BridgeStpState::Disabled),
        InfoBridge::MulticastSnooping(false),
        // Otherwise each row of the forwarding database comes twice, once for VLAN 1.
        InfoBridge::VlanDefaultPvid(0),
    ]
}

/// The options of a bridge that the kernel shows with another value than they should have. One that
/// it does not show it does not have, and does not take either.
fn differing(link: &Link) -> Vec<InfoBridge> {
    let Some(InfoData::Bridge(infos)) = &link.data else { return Vec::new() };
    let mut wanted = made_with();
    wanted.push(InfoBridge::VlanFiltering(false));
    let shown_otherwise = |option: &InfoBridge| {
        infos.iter().any(|info| mem::discriminant(option) == mem::discriminant(info) && option != info)
    };
    wanted.retain(shown_otherwise);
    wanted
}

fn with(builder: LinkMessageBuilder<LinkBridge>, options: Vec<InfoBridge>) -> LinkMessageBuilder<LinkBridge> {
    options.into_iter().fold(builder, LinkMessageBuilder::<LinkBridge>::append_info_data)
}
