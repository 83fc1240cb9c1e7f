//! From one plan to the next where only who is on other nodes differs: at the price of the difference. Everything
//! else, and what somebody else changed, is for the comparison with the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use rtnetlink::Handle;

use super::{Devices, KernelDatapath, bridge, connect, guard::Exchange, neighbours};
use crate::{
    MacAddr, Vni,
    datapath::{
        Compared, Underlay,
        vxlan_device::{self, Reconciled, Row},
    },
    plan::{Location, Plan, changed_stations},
};

/// What the kernel was brought to when everything was last compared with it, and by steps since.
pub(super) struct Settled {
    pub(super) plan: Plan,
    pub(super) underlay: Underlay,
    pub(super) networks: BTreeMap<Vni, Devices>,
    pub(super) compared: Compared,
}

/// What an endpoint on another node has in the kernel's databases.
#[derive(Default)]
struct Rows {
    vxlan: BTreeSet<Row>,
    /// MAC addresses behind the VXLAN device.
    bridge: BTreeSet<MacAddr>,
    neighbours: BTreeMap<IpAddr, MacAddr>,
}

// === impl KernelDatapath ===

impl KernelDatapath {
    /// Brings the kernel to `plan` if a step from where it is leads there; what was changed. `None`: everything is to
    /// be compared, because it is time for that, or more differs, or the step failed.
    pub(super) async fn step(&mut self, plan: &Plan, underlay: &Underlay) -> Option<usize> {
        let every = self.verify_every?;
        // Until the step is done, nothing is known of where it leads.
        let mut settled = self.settled.take()?;
        // Linux itself finds the way to other nodes.
        let same_uplink = settled.underlay.differs_in_routes_only(underlay);
        if !same_uplink || !settled.plan.differs_in_stations_only(plan) {
            return None;
        }
        let changed = changed_stations(&settled.plan, plan);
        if settled.compared.is_due(every, || !changed.is_empty()) {
            return None;
        }
        let mut written = 0;
        if !changed.is_empty() {
            match self.step_over(&settled, plan, underlay, &changed).await {
                Ok(count) => written = count,
                Err(reason) => {
                    tracing::debug!(reason, "a change could not be written by itself: comparing everything");
                    return None;
                }
            }
        }
        settled.plan = plan.clone();
        self.settled = Some(settled);
        Some(written)
    }

    /// Writes what `changed` between two plans. Who may send is told first, then who is where.
    async fn step_over(
        &mut self,
        settled: &Settled,
        plan: &Plan,
        underlay: &Underlay,
        changed: &BTreeSet<(Vni, MacAddr)>,
    ) -> Result<usize, String> {
        let over_ipv6 = underlay.addr.is_ipv6();
        let mut exchange = Exchange::default();
        let mut by_network: BTreeMap<Vni, Vec<MacAddr>> = BTreeMap::new();
        for (vni, mac) in changed {
            exchange.between((&settled.plan, plan), over_ipv6, (*vni, *mac));
            by_network.entry(*vni).or_default().push(*mac);
        }
        let exchanged = self.guard.exchange(&exchange).await.map_err(|error| error.to_string())?;
        let exchanged = exchanged.ok_or("the guard needs other rules")?;
        let mut done = Reconciled { changed: exchanged, ..Reconciled::default() };
        let kernel = connect().map_err(|error| error.to_string())?;
        for (vni, macs) in by_network {
            let Some(devices) = settled.networks.get(&vni) else {
                return Err(format!("VNI {vni} has no devices"));
            };
            let of = |plan: &Plan| Rows::of(plan, over_ipv6, (vni, devices), &macs);
            of(&settled.plan).become_those(&of(plan), devices, &kernel, &mut done).await;
        }
        if done.problems.is_empty() { Ok(done.changed) } else { Err(done.problems.join("; ")) }
    }
}

// === impl Rows ===

impl Rows {
    /// The rows of those of `macs` that are on other nodes by `plan`.
    fn of(plan: &Plan, over_ipv6: bool, (vni, devices): (Vni, &Devices), macs: &[MacAddr]) -> Self {
        let mut rows = Self::default();
        let Some(network) = plan.networks.get(&vni) else { return rows };
        for mac in macs {
            let Some(endpoint) = network.endpoint(*mac) else { continue };
            let Location::Remote(node) = endpoint.location else { continue };
            rows.bridge.insert(*mac);
            rows.neighbours.extend(neighbours::of_endpoint(*mac, endpoint, devices.ipv6));
            let vtep = plan.vteps.get(node).map(|vtep| vtep.addr);
            let vtep = vtep.filter(|vtep| vtep.is_ipv6() == over_ipv6);
            rows.vxlan.extend(vtep.map(|vtep| Row { mac: *mac, vtep }));
        }
        rows
    }

    /// Brings the kernel from these rows to others: what is new before what is gone.
    async fn become_those(&self, new: &Self, devices: &Devices, kernel: &Handle, done: &mut Reconciled) {
        for row in new.vxlan.difference(&self.vxlan) {
            let added = vxlan_device::add_row(kernel, devices.vxlan, *row).await;
            done.note(added, || format!("add {row} to the FDB"));
        }
        for mac in new.bridge.difference(&self.bridge) {
            bridge::add_row(kernel, *mac, devices.vxlan, done).await;
        }
        for (addr, mac) in new.neighbours.iter().filter(|(addr, mac)| self.neighbours.get(addr) != Some(mac))
        {
            neighbours::add(kernel, devices.bridge, (*addr, *mac), done).await;
        }
        for addr in self.neighbours.keys().filter(|addr| !new.neighbours.contains_key(addr)) {
            neighbours::remove(kernel, devices.bridge, *addr, done).await;
        }
        for mac in self.bridge.difference(&new.bridge) {
            bridge::remove_row(kernel, *mac, devices.vxlan, done).await;
        }
        let stays: BTreeSet<_> = new.vxlan.iter().map(|row| row.mac).collect();
        for row in self.vxlan.iter().filter(|row| !stays.contains(&row.mac)) {
            let removed = vxlan_device::delete_unicast(kernel, devices.vxlan, row.mac).await;
            done.note(removed, || format!("remove {} from the FDB", row.mac));
        }
    }
}
