//! The kernel's VXLAN device of one VNI: made, kept as it should be, and its forwarding database
//! (FDB) held equal to the plan. The kernel data path forwards with it; the BPF data path leaves to
//! it what its programs cannot carry.
//!
//! Devices are plain, one for each VNI, not `external`: those pay a route lookup for every packet.

use std::{collections::BTreeMap, io, net::IpAddr};

use netlink_packet_route::link::{InfoData, InfoKind, InfoVxlan, VxlanDf};
use rtnetlink::{Handle, LinkUnspec, LinkVxlan};

use super::{DatapathError, DifferenceKind, Differences, Underlay};
use crate::{
    Vni,
    netlink::{self, Link, into_io},
    state::Dscp,
};

pub use super::vxlan_fdb::{
    Fdb, Reconciled, Row, add_row, delete_row, delete_unicast, each_row, mac_of, plain_row, remove_row,
    rows_of,
};

/// First UDP source port of the tunnel (RFC 7348, section 5, recommends the dynamic range).
const FIRST_SOURCE_PORT: u16 = 49152;
/// End of the range of UDP source ports.
const LAST_SOURCE_PORT: u16 = 65535;
/// Hop limit of the outer header.
const TTL: u8 = 64;
/// The kernel's word for "copy DSCP and ECN from the inner header" (`vxlan_xmit_one`).
const TOS_INHERIT: u8 = 1;

/// What a VXLAN device is to be, as far as its network decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The network.
    pub vni: Vni,
    /// The DSCP of outer headers. The ECN bits are the kernel's own matter either way.
    pub dscp: Dscp,
    /// MTU of the device in bytes.
    pub mtu: u16,
}

/// The VXLAN device of a VNI, after it was brought to what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ensured {
    /// Its interface index.
    pub ifindex: u32,
    /// Whether it is set up.
    pub up: bool,
    /// Requests that changed something; 0 if it was right already.
    pub changed: usize,
}

/// Name of the VXLAN device of `vni`: `ovv` and the VNI in hexadecimal.
#[must_use]
pub fn name(vni: Vni) -> String {
    format!("ovv{:x}", vni.get())
}

/// Makes the VXLAN device of `vni`, or changes the one that is there where it differs. It is made
/// anew only if it differs in what the kernel cannot change. A new one is down: it takes packets from
/// anybody, so that what judges them has to be there before [`set_up`].
///
/// # Errors
/// If its name or its VNI is taken: the text says by what.
pub async fn ensure(handle: &Handle, underlay: &Underlay, wanted: Wanted) -> Result<Ensured, DatapathError> {
    let Wanted { vni, dscp, mtu } = wanted;
    let name = name(vni);
    let mut changed = 0;
    let mut link = read(handle, &name).await?;
    if let Some(found) = &link {
        if found.kind != Some(InfoKind::Vxlan) {
            return Err(DatapathError::Unsupported(format!(
                "the interface {name} is in the way of the VXLAN device of VNI {vni}: remove or rename it"
            )));
        }
        if has_fixed(found, underlay, vni) {
            if !has_changeable(found, underlay, dscp) {
                let message = LinkVxlan::new(&name, vni.get()).index(found.ifindex);
                let message = changeable(message, underlay, dscp).build();
                netlink::change_link(handle, message).await.map_err(failed("change", &name))?;
                changed += 1;
            }
        } else {
            delete(handle, found.ifindex).await.map_err(failed("remove", &name))?;
            changed += 1;
            link = None;
        }
    }
    let link = if let Some(link) = link {
        link
    } else {
        create(handle, underlay, wanted, &name).await?;
        changed += 1;
        read(handle, &name).await?.ok_or_else(|| failed("find", &name)(io::ErrorKind::NotFound.into()))?
    };
    if link.mtu != u32::from(mtu) {
        let message = LinkUnspec::new_with_index(link.ifindex).mtu(mtu.into()).build();
        let done = handle.link().set(message).execute().await;
        done.map_err(into_io).map_err(failed("set the MTU of", &name))?;
        changed += 1;
    }
    Ok(Ensured { ifindex: link.ifindex, up: link.up, changed })
}

/// Compares the VXLAN device of `vni` among `links` with what it should be, and changes nothing. Returns its
/// interface index, if it is there.
pub fn audit(links: &[Link], underlay: &Underlay, wanted: Wanted, found: &mut Differences) -> Option<u32> {
    let Wanted { vni, dscp, mtu } = wanted;
    let name = name(vni);
    let place = format!("interface {name}");
    let Some(link) = links.iter().find(|link| link.name == name && link.kind == Some(InfoKind::Vxlan)) else {
        found.note(DifferenceKind::Missing, place, || format!("the VXLAN device of VNI {vni}"));
        return None;
    };
    for (right, what) in [
        (has_fixed(link, underlay, vni), "its VNI, port or kind"),
        (has_changeable(link, underlay, dscp), "its local address or options"),
        (link.mtu == u32::from(mtu), "its MTU"),
        (link.up, "that it is set up"),
    ] {
        if !right {
            found.note(DifferenceKind::Different, &place, || what.to_owned());
        }
    }
    Some(link.ifindex)
}

/// Sets the VXLAN device of `vni` up, after [`ensure`] and after what judges its packets is there.
/// Returns how many requests that took.
///
/// # Errors
/// If its UDP port is taken.
pub async fn set_up(
    handle: &Handle,
    underlay: &Underlay,
    vni: Vni,
    ensured: Ensured,
) -> Result<usize, DatapathError> {
    if ensured.up {
        return Ok(0);
    }
    let name = name(vni);
    let message = LinkUnspec::new_with_index(ensured.ifindex).up().build();
    handle.link().set(message).execute().await.map_err(into_io).map_err(|error| {
        if error.raw_os_error() == Some(libc::EADDRINUSE) {
            DatapathError::Unsupported(format!(
                "{name}: UDP port {} is used by another program or by a VXLAN device with other \
                 options: stop it, or give all nodes another --port",
                underlay.port
            ))
        } else {
            failed("set up", &name)(error)
        }
    })?;
    Ok(1)
}

/// The VXLAN devices of ours that are there: interface indices by VNI.
///
/// # Errors
/// If the kernel does not list its interfaces.
pub async fn list_ours(handle: &Handle) -> Result<BTreeMap<Vni, u32>, DatapathError> {
    let links = netlink::links(handle)
        .await
        .map_err(|cause| DatapathError::Io { what: "list interfaces".into(), cause })?;
    Ok(links.iter().filter_map(|link| Some((vni_of(link)?, link.ifindex))).collect())
}

/// The VNI of a VXLAN device of ours; `None` for any other interface.
#[must_use]
pub fn vni_of(link: &Link) -> Option<Vni> {
    let vni = attributes(link)?.iter().find_map(|info| match info {
        InfoVxlan::Id(id) => Vni::new(*id).ok(),
        _ => None,
    })?;
    (link.name == name(vni)).then_some(vni)
}

/// Removes the VXLAN device of `vni` and returns whether there was one.
///
/// # Errors
/// If the kernel refuses.
pub async fn remove(handle: &Handle, vni: Vni) -> Result<bool, DatapathError> {
    let name = name(vni);
    match read(handle, &name).await? {
        Some(link) if vni_of(&link) == Some(vni) => {
            delete(handle, link.ifindex).await.map_err(failed("remove", &name))?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

async fn create(
    handle: &Handle,
    underlay: &Underlay,
    Wanted { vni, dscp, .. }: Wanted,
    name: &str,
) -> Result<(), DatapathError> {
    let mut message = LinkVxlan::new(name, vni.get())
        .port(underlay.port)
        .port_range(FIRST_SOURCE_PORT, LAST_SOURCE_PORT)
        .udp_csum(false);
    if underlay.addr.is_ipv6() {
        let zero = underlay.udp6_zero_checksum;
        message = message.udp_zero_csum6_tx(zero).udp_zero_csum6_rx(zero);
    }
    let message = changeable(message, underlay, dscp).build();
    let Err(error) = handle.link().add(message).execute().await.map_err(into_io) else {
        netlink::ipv6::disable(name);
        return Ok(());
    };
    if error.raw_os_error() != Some(libc::EEXIST) {
        return Err(failed("create", name)(error));
    }
    let links = netlink::links(handle).await.unwrap_or_default();
    let other = links.iter().find(|link| {
        attributes(link).is_some_and(|infos| {
            infos.contains(&InfoVxlan::Id(vni.get())) && infos.contains(&InfoVxlan::Port(underlay.port))
        })
    });
    let other = other.map_or("another VXLAN device", |link| link.name.as_str());
    Err(DatapathError::Unsupported(format!(
        "{other} has VNI {vni} on UDP port {} already: remove it, or give the network another VNI",
        underlay.port
    )))
}

/// Adds the attributes that the kernel can change later.
fn changeable(
    message: rtnetlink::LinkMessageBuilder<LinkVxlan>,
    underlay: &Underlay,
    dscp: Dscp,
) -> rtnetlink::LinkMessageBuilder<LinkVxlan> {
    let message = match underlay.addr {
        IpAddr::V4(addr) => message.local(addr),
        IpAddr::V6(addr) => message.local6(addr),
    };
    message.learning(false).ttl(TTL).tos(tos(dscp)).df(VxlanDf::Set)
}

/// The device's attribute for a DSCP.
const fn tos(dscp: Dscp) -> u8 {
    match dscp {
        Dscp::Inherit => TOS_INHERIT,
        Dscp::Fixed(dscp) => dscp << 2,
    }
}

fn has_changeable(link: &Link, underlay: &Underlay, dscp: Dscp) -> bool {
    let local = match underlay.addr {
        IpAddr::V4(addr) => InfoVxlan::Local(addr),
        IpAddr::V6(addr) => InfoVxlan::Local6(addr),
    };
    let wanted = [
        local,
        InfoVxlan::Learning(false),
        InfoVxlan::Ttl(TTL),
        InfoVxlan::Tos(tos(dscp)),
        InfoVxlan::Df(VxlanDf::Set),
    ];
    attributes(link).is_some_and(|infos| wanted.iter().all(|attribute| infos.contains(attribute)))
}

fn has_fixed(link: &Link, underlay: &Underlay, vni: Vni) -> bool {
    let over_ipv6 = underlay.addr.is_ipv6();
    let zero = over_ipv6 && underlay.udp6_zero_checksum;
    let wanted = [
        InfoVxlan::Id(vni.get()),
        InfoVxlan::Port(underlay.port),
        InfoVxlan::PortRange((FIRST_SOURCE_PORT, LAST_SOURCE_PORT)),
        InfoVxlan::UDPCsum(false),
        InfoVxlan::UDPZeroCsumTX(zero),
        InfoVxlan::UDPZeroCsumRX(zero),
    ];
    attributes(link).is_some_and(|infos| {
        let foreign = |info: &InfoVxlan| match info {
            InfoVxlan::Gbp
            | InfoVxlan::Gpe
            | InfoVxlan::CollectMetadata(true)
            | InfoVxlan::Link(_)
            | InfoVxlan::Group(_)
            | InfoVxlan::Group6(_) => true,
            InfoVxlan::Local(_) => over_ipv6,
            InfoVxlan::Local6(_) => !over_ipv6,
            _ => false,
        };
        wanted.iter().all(|attribute| infos.contains(attribute)) && !infos.iter().any(foreign)
    })
}

fn attributes(link: &Link) -> Option<&[InfoVxlan]> {
    match &link.data {
        Some(InfoData::Vxlan(infos)) => Some(infos),
        _ => None,
    }
}

async fn read(handle: &Handle, name: &str) -> Result<Option<Link>, DatapathError> {
    netlink::link_named(handle, name).await.map_err(failed("look up", name))
}

async fn delete(handle: &Handle, ifindex: u32) -> io::Result<()> {
    handle.link().del(ifindex).execute().await.map_err(into_io)
}

fn failed(verb: &str, name: &str) -> impl FnOnce(io::Error) -> DatapathError {
    let what = format!("{verb} the VXLAN device {name}");
    move |cause| DatapathError::Io { what, cause }
}
