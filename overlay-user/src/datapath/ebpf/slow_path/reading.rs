//! What the forwarding databases have, read and judged in one go.

use std::collections::{BTreeMap, BTreeSet};

use netlink_packet_route::neighbour::NeighbourMessage;
use rtnetlink::Handle;

use super::{Devices, Forwarding};
use crate::{
    MacAddr, Vni,
    datapath::{
        DatapathError, DifferenceKind, Differences,
        vxlan_device::{self, Row},
    },
    plan::{Plan, changed_stations},
};

/// What the forwarding databases have that is not by a plan, and who gets broadcasts.
#[derive(Debug, Default)]
pub struct Reading {
    /// What was known when it was read.
    pub(super) of: Devices,
    pub(super) floods: BTreeMap<Vni, BTreeSet<Row>>,
    /// MAC addresses whose row is another one, missing or too much, and the row.
    pub(super) wrong: BTreeMap<(Vni, MacAddr), Option<Row>>,
    /// Rows that are none of ours.
    pub(super) foreign: Vec<NeighbourMessage>,
}

// === impl Reading ===

impl Reading {
    /// Reads the forwarding databases of devices.
    ///
    /// # Errors
    /// If the kernel does not hand them out.
    pub async fn new(netlink: &Handle, of: Devices, to: Forwarding<'_>) -> Result<Self, DatapathError> {
        if of.is_empty() {
            return Ok(Self::default());
        }
        let vni_of: BTreeMap<u32, Vni> = of.iter().map(|(vni, (ifindex, _))| (*ifindex, *vni)).collect();
        let mut reading = Self { of, ..Self::default() };
        reading.floods = vni_of.values().map(|vni| (*vni, BTreeSet::new())).collect();
        let mut right: BTreeMap<Vni, Vec<MacAddr>> = BTreeMap::new();
        vxlan_device::each_row(netlink, |ifindex, message| {
            let Some(vni) = vni_of.get(&ifindex) else { return };
            match vxlan_device::plain_row(message) {
                Some(row) if row.mac == MacAddr::default() => {
                    reading.floods.entry(*vni).or_default().insert(row);
                }
                Some(row) if to.unicast(*vni, row.mac) == Some(row) => {
                    right.entry(*vni).or_default().push(row.mac);
                }
                Some(row) => drop(reading.wrong.insert((*vni, row.mac), Some(row))),
                None => reading.foreign.push(message.clone()),
            }
        })
        .await?;
        for vni in vni_of.values() {
            let Some(network) = to.plan.networks.get(vni) else { continue };
            let wanted = || network.endpoints().filter(|(mac, _)| to.unicast(*vni, *mac).is_some());
            let there = right.entry(*vni).or_default();
            there.sort_unstable();
            if there.len() < wanted().count() {
                let missing = wanted().filter(|(mac, _)| there.binary_search(mac).is_err());
                for (mac, _) in missing {
                    reading.wrong.entry((*vni, mac)).or_default();
                }
            }
        }
        Ok(reading)
    }

    /// Tells what is not as it should be.
    pub fn audit(&self, to: Forwarding<'_>, found: &mut Differences) {
        let place = |vni: Vni| format!("FDB of {}", vxlan_device::name(vni));
        for (vni, floods) in &self.floods {
            let wanted = to.floods(*vni);
            for row in wanted.difference(floods) {
                found.note(DifferenceKind::Missing, place(*vni), || row.to_string());
            }
            for row in floods.difference(&wanted) {
                found.note(DifferenceKind::Extra, place(*vni), || row.to_string());
            }
        }
        for ((vni, mac), there) in &self.wrong {
            if let Some(row) = to.unicast(*vni, *mac) {
                found.note(DifferenceKind::Missing, place(*vni), || row.to_string());
            }
            if let Some(row) = there {
                found.note(DifferenceKind::Extra, place(*vni), || row.to_string());
            }
        }
        for (vni, (ifindex, _)) in &self.of {
            for row in self.foreign.iter().filter(|row| row.header.ifindex == *ifindex) {
                found.note(DifferenceKind::Extra, place(*vni), || {
                    vxlan_device::mac_of(row).unwrap_or_default().to_string()
                });
            }
        }
    }

    /// Leaves out what two plans do not share: `plan` came since.
    pub fn forget_changed(&mut self, before: &Plan, plan: &Plan) {
        for changed in changed_stations(before, plan) {
            self.wrong.remove(&changed);
        }
    }
}
