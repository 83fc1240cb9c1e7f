//! What the forwarding databases have, read and judged in one go.

use std::collections::{BTreeMap, BTreeSet};

use netlink_packet_route::neighbour::NeighbourMessage;
use rtnetlink::Handle;

use super::{Devices, Forwarding};
use crate::{
    MacAddr, Vni,
    datapath::{
        DatapathError,
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
    /// MAC addresses whose row is another one, missing or too much.
    pub(super) wrong: BTreeSet<(Vni, MacAddr)>,
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
                Some(row) => drop(reading.wrong.insert((*vni, row.mac))),
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
                reading.wrong.extend(missing.map(|(mac, _)| (*vni, mac)));
            }
        }
        Ok(reading)
    }

    /// Leaves out what two plans do not share: `plan` came since.
    pub fn forget_changed(&mut self, before: &Plan, plan: &Plan) {
        for changed in changed_stations(before, plan) {
            self.wrong.remove(&changed);
        }
    }
}
