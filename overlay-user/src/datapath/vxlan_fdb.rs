//! The forwarding database of VXLAN devices: which MAC address is behind which VTEP, and which
//! VTEPs get the broadcasts (rows of the all-zero MAC address).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use futures::TryStreamExt as _;
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
};
use rtnetlink::Handle;

use super::{DatapathError, DifferenceKind, Differences, Underlay};
use crate::{
    MacAddr,
    netlink::{self, into_io},
    plan::{Location, Network, Plan},
};

/// A MAC address behind a VTEP; the zero address for one that gets broadcasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// The inner destination.
    pub mac: MacAddr,
    /// The outer destination.
    pub vtep: IpAddr,
}

/// The kernel's forwarding databases, of VXLAN devices and of bridges, as they were when read.
#[derive(Clone, Debug, Default)]
pub struct Fdb {
    by_device: BTreeMap<u32, Vec<NeighbourMessage>>,
}

/// What it took to bring a forwarding database to what was wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Rows added, changed or removed.
    pub changed: usize,
    /// Rows that the kernel refused, and why.
    pub problems: Vec<String>,
}

/// The rows that `network` of `plan` needs. Nodes whose tunnel address is of another family than the
/// underlay's have none: a device carries one.
#[must_use]
pub fn rows_of(plan: &Plan, network: &Network, underlay: &Underlay) -> BTreeSet<Row> {
    let vtep_of = |node| {
        let addr = plan.vteps.get(node)?.addr;
        (addr.is_ipv6() == underlay.addr.is_ipv6()).then_some(addr)
    };
    let unicast = network.endpoints().filter_map(|(mac, endpoint)| match endpoint.location {
        Location::Local | Location::Port(_) => None,
        Location::Remote(node) => Some(Row { mac, vtep: vtep_of(node)? }),
    });
    let flood =
        network.members.iter().filter_map(|node| Some(Row { mac: MacAddr::default(), vtep: vtep_of(node)? }));
    unicast.chain(flood).collect()
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mac, vtep } = self;
        if *mac == MacAddr::default() {
            write!(f, "broadcasts to {vtep}")
        } else {
            write!(f, "{mac} to {vtep}")
        }
    }
}

/// Tells `each` the rows of every VXLAN device as the kernel has them, without keeping them: there may be
/// a million.
///
/// # Errors
/// If the kernel does not hand them out.
pub async fn each_row(
    handle: &Handle,
    mut each: impl FnMut(u32, &NeighbourMessage),
) -> Result<(), DatapathError> {
    let mut messages = handle.neighbours().get().set_address_family(AddressFamily::Bridge).execute();
    let failed =
        |error| DatapathError::Io { what: "read the forwarding databases".into(), cause: into_io(error) };
    while let Some(message) = messages.try_next().await.map_err(failed)? {
        if message.header.flags.contains(NeighbourFlags::Own) {
            each(message.header.ifindex, &message);
        }
    }
    Ok(())
}

/// Adds a row to a device. One MAC address has one VTEP, and a new row takes the place of the old; the zero
/// address has a row for each VTEP.
///
/// # Errors
/// The kernel's.
pub async fn add_row(handle: &Handle, ifindex: u32, row: Row) -> io::Result<()> {
    let zero = row.mac == MacAddr::default();
    let flags = NLM_F_CREATE | if zero { NLM_F_APPEND } else { NLM_F_REPLACE };
    netlink::acknowledged(handle, RouteNetlinkMessage::NewNeighbour(row_message(ifindex, row)), flags).await
}

/// Takes one VTEP from a MAC address; one that is gone is no error.
///
/// # Errors
/// The kernel's.
pub async fn delete_row(handle: &Handle, ifindex: u32, row: Row) -> io::Result<()> {
    unless_gone(handle, row_message(ifindex, row)).await
}

/// Takes the VTEP from a unicast MAC address, whichever it is; one without is no error.
///
/// # Errors
/// The kernel's.
pub async fn delete_unicast(handle: &Handle, ifindex: u32, mac: MacAddr) -> io::Result<()> {
    let mut message = row_message(ifindex, Row { mac, vtep: IpAddr::V4(Ipv4Addr::UNSPECIFIED) });
    message.attributes.retain(|attribute| !matches!(attribute, NeighbourAttribute::Destination(_)));
    unless_gone(handle, message).await
}

/// Removes exactly the row of `message`.
pub async fn remove_row(handle: &Handle, message: &NeighbourMessage, done: &mut Reconciled) {
    let result = unless_gone(handle, deletion(message)).await;
    done.note(result, || format!("remove {} from the FDB", mac_of(message).unwrap_or_default()));
}

async fn unless_gone(handle: &Handle, message: NeighbourMessage) -> io::Result<()> {
    match netlink::acknowledged(handle, RouteNetlinkMessage::DelNeighbour(message), 0).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

// === impl Fdb ===

impl Fdb {
    /// Reads the forwarding databases of every device of the namespace, in one dump.
    ///
    /// # Errors
    /// If the kernel does not hand them out.
    pub async fn read(handle: &Handle) -> Result<Self, DatapathError> {
        let request = handle.neighbours().get().set_address_family(AddressFamily::Bridge);
        let messages: Vec<_> = request
            .execute()
            .try_collect()
            .await
            .map_err(into_io)
            .map_err(|cause| DatapathError::Io { what: "read the forwarding databases".into(), cause })?;
        let mut by_device: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for message in messages {
            by_device.entry(message.header.ifindex).or_default().push(message);
        }
        Ok(Self { by_device })
    }

    /// The rows of a device, as the kernel gave them.
    #[must_use]
    pub fn of_device(&self, ifindex: u32) -> &[NeighbourMessage] {
        self.by_device.get(&ifindex).map_or(&[], Vec::as_slice)
    }

    /// The rows of a bridge, whatever port they are for.
    pub fn of_bridge(&self, bridge: u32) -> impl Iterator<Item = &NeighbourMessage> {
        self.by_device.values().flatten().filter(move |message| {
            message.attributes.contains(&NeighbourAttribute::Controller(bridge))
                && !message.header.flags.contains(NeighbourFlags::Own)
        })
    }

    /// Brings the VXLAN device `ifindex` from what it had when read to `wanted`: adds first, so that
    /// no address is without a row in between.
    pub async fn reconcile(&self, handle: &Handle, ifindex: u32, wanted: &BTreeSet<Row>) -> Reconciled {
        let mut done = Reconciled::default();
        let (missing, wrong) = self.compare(ifindex, wanted);
        for row in missing {
            done.note(add_row(handle, ifindex, row).await, || format!("add {row} to the FDB"));
        }

        let replaced: BTreeSet<_> = wanted.iter().map(|row| row.mac).collect();
        for message in wrong {
            let mac = mac_of(message);
            // A unicast row that differs was replaced above, not added to.
            if mac.is_some_and(|mac| mac.is_unicast() && replaced.contains(&mac)) {
                continue;
            }
            remove_row(handle, message, &mut done).await;
        }
        done
    }

    /// Compares the rows of the VXLAN device `ifindex` with `wanted`.
    pub fn audit(&self, ifindex: u32, device: &str, wanted: &BTreeSet<Row>, found: &mut Differences) {
        let place = format!("FDB of {device}");
        let name = |mac: MacAddr, vtep: Option<IpAddr>| {
            let to = vtep.map(|vtep| format!(" to {vtep}")).unwrap_or_default();
            if mac == MacAddr::default() { format!("broadcasts{to}") } else { format!("{mac}{to}") }
        };
        let (missing, wrong) = self.compare(ifindex, wanted);
        for row in missing {
            found.note(DifferenceKind::Missing, &place, || name(row.mac, Some(row.vtep)));
        }
        for message in wrong {
            let vtep = plain_row(message).map(|row| row.vtep);
            found.note(DifferenceKind::Extra, &place, || name(mac_of(message).unwrap_or_default(), vtep));
        }
    }

    /// The rows of `wanted` that the device `ifindex` has not, and those it has beside them.
    fn compare(&self, ifindex: u32, wanted: &BTreeSet<Row>) -> (Vec<Row>, Vec<&NeighbourMessage>) {
        let own = |m: &&NeighbourMessage| m.header.flags.contains(NeighbourFlags::Own);
        let present: Vec<_> = self.of_device(ifindex).iter().filter(own).collect();
        let right: BTreeSet<_> = present.iter().filter_map(|message| plain_row(message)).collect();
        let is_wanted = |message: &&NeighbourMessage| plain_row(message).is_some_and(|r| wanted.contains(&r));
        let wrong = present.iter().filter(|message| !is_wanted(message)).copied().collect();
        (wanted.difference(&right).copied().collect(), wrong)
    }
}

impl Reconciled {
    /// Counts one change, or keeps why it was refused.
    pub fn note(&mut self, result: io::Result<()>, what: impl FnOnce() -> String) {
        match result {
            Ok(()) => self.changed += 1,
            Err(error) => self.problems.push(format!("{}: {error}", what())),
        }
    }

    /// Takes in what another step did.
    pub fn add(&mut self, other: Self) {
        self.changed += other.changed;
        self.problems.extend(other.problems);
    }
}

/// The MAC address of a row.
#[must_use]
pub fn mac_of(message: &NeighbourMessage) -> Option<MacAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().ok().map(MacAddr),
        _ => None,
    })
}

/// The row as we make them: never ageing, to the device's own port and VNI. `None` for any other.
#[must_use]
pub fn plain_row(message: &NeighbourMessage) -> Option<Row> {
    // The states are bits, and rows made by hand have both of these.
    let ageless = u16::from(NeighbourState::Permanent) | u16::from(NeighbourState::Noarp);
    if u16::from(message.header.state) & ageless == 0 {
        return None;
    }
    let mut vtep = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
                vtep = address(bytes);
            }
            // The kernel shows these only where they are not the device's own.
            NeighbourAttribute::Port(_)
            | NeighbourAttribute::Vni(_)
            | NeighbourAttribute::SourceVni(_)
            | NeighbourAttribute::IfIndex(_) => return None,
            _ => {}
        }
    }
    Some(Row { mac: mac_of(message)?, vtep: vtep? })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|octets| Ipv4Addr::from(octets).into());
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|octets| Ipv6Addr::from(octets).into())).ok()
}

fn row_message(ifindex: u32, row: Row) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = ifindex;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Own;
    message.attributes = vec![
        NeighbourAttribute::LinkLayerAddress(row.mac.0.to_vec()),
        NeighbourAttribute::Destination(row.vtep.into()),
    ];
    message
}

/// The request that removes exactly the row of `message`.
fn deletion(message: &NeighbourMessage) -> NeighbourMessage {
    let mut request = NeighbourMessage::default();
    request.header.family = AddressFamily::Bridge;
    request.header.ifindex = message.header.ifindex;
    request.header.flags = NeighbourFlags::Own;
    let names_it = |attribute: &&NeighbourAttribute| {
        matches!(
            attribute,
            NeighbourAttribute::LinkLayerAddress(_)
                | NeighbourAttribute::Destination(_)
                | NeighbourAttribute::Port(_)
                | NeighbourAttribute::Vni(_)
                | NeighbourAttribute::SourceVni(_)
                | NeighbourAttribute::IfIndex(_)
        )
    };
    request.attributes = message.attributes.iter().filter(names_it).cloned().collect();
    request
}
