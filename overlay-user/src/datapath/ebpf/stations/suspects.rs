//! Whose rows look wrong: found beside everything else, as reading a million rows takes seconds.

use std::{collections::BTreeSet, sync::Arc};

use overlay_ebpf::abi::{Endpoint, EndpointKey, Neighbour, NeighbourKey};
use tokio_util::sync::CancellationToken;

use super::{
    super::{bare_table::View, fdb::Memory, names::Names, row, rows::Local},
    Refused, Stations, Task, is_right, planned, wanted,
};
use crate::{
    Vni,
    datapath::{DatapathError, Differences},
    plan::Plan,
};

/// The maps, to be read while [`Stations`] writes them.
pub struct Views {
    endpoints: Arc<View<EndpointKey, Endpoint>>,
    neighbours: Arc<View<NeighbourKey, Neighbour>>,
    fdb: Arc<Memory>,
}

/// What did not look as it should. What was written meanwhile may be among it, and is right.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Suspects {
    /// Endpoints, planned or not, one of whose rows is missing, wrong or too much.
    endpoints: BTreeSet<EndpointKey>,
    /// Addresses whose row is not that of an endpoint of the plan.
    neighbours: BTreeSet<NeighbourKey>,
    /// Buckets of `fdb` with an entry that is not that of an endpoint of the plan.
    buckets: BTreeSet<u32>,
}

// === impl Views ===

impl Views {
    /// Compares all rows with `plan`, unless `cancel` comes before the end.
    ///
    /// # Errors
    /// If a map cannot be read.
    pub fn suspects(
        &self,
        plan: &Plan,
        local: &Local,
        cancel: &CancellationToken,
    ) -> Result<Suspects, DatapathError> {
        let right = |key: &EndpointKey| wanted(plan, local, key);
        let mut suspects = Suspects::default();
        for (vni, network) in &plan.networks {
            for (mac, endpoint) in network.endpoints() {
                if cancel.is_cancelled() {
                    return Ok(Suspects::default());
                }
                let Some(row) = row::endpoint(&endpoint, local) else { continue };
                let key = EndpointKey::new(vni.get(), mac);
                let is_neighbour = |address| {
                    let key = NeighbourKey { vni: vni.get(), addr: address };
                    self.neighbours.get(&key).is_some_and(|row| row.mac == mac)
                };
                let mut addresses = row::addresses_with_row(mac, endpoint.addresses);
                if self.endpoints.get(&key) != Some(row)
                    || self.fdb.lacks(&key, &row)
                    || !addresses.all(|address| is_neighbour(address.into()))
                {
                    suspects.endpoints.insert(key);
                }
            }
        }
        // What is cancelled is asked for by nobody: the rest is let through.
        let through = || cancel.is_cancelled();
        suspects.buckets = self.fdb.with_wrong(right, through);
        suspects.endpoints.extend(self.endpoints.stale(|key, _| through() || right(key).is_some())?);
        let stale = self.neighbours.stale(|key, row| through() || is_right(plan, local, key, *row))?;
        suspects.neighbours.extend(stale);
        Ok(suspects)
    }
}

// === impl Stations ===

impl Stations {
    /// The maps, to be read beside this.
    #[must_use]
    pub fn views(&self) -> Views {
        Views {
            endpoints: Arc::clone(self.endpoints.view()),
            neighbours: Arc::clone(self.neighbours.view()),
            fdb: self.fdb.memory(),
        }
    }

    /// Tells which rows of suspects are not by `plan`, be it another one by now.
    pub fn audit(
        &self,
        suspects: &Suspects,
        (plan, local): (&Plan, &Local),
        names: &Names<'_>,
        found: &mut Differences,
    ) {
        let right = |key: &EndpointKey| wanted(plan, local, key);
        let endpoint = |key: &EndpointKey| names.endpoint(key.vni, key.mac);
        let neighbour = |key: &NeighbourKey| names.address(key.vni, key.addr.into());
        for key in &suspects.endpoints {
            let row = right(key);
            self.endpoints.view().audit(key, row.as_ref(), endpoint, found);
            let Some(row) = row else { continue };
            self.fdb.audit_missing(key, &row, endpoint, found);
            let planned = Vni::new(key.vni).ok().and_then(|vni| planned(plan, vni, key.mac));
            let addresses = planned.iter().flat_map(|it| row::addresses_with_row(key.mac, it.addresses));
            for address in addresses {
                let neighbour_key = NeighbourKey { vni: key.vni, addr: address.into() };
                let want = Neighbour { mac: key.mac, ..Neighbour::default() };
                // What is there instead is told with the others that are not right.
                if self.neighbours.view().get(&neighbour_key).is_none() {
                    self.neighbours.view().audit(&neighbour_key, Some(&want), neighbour, found);
                }
            }
        }
        for key in &suspects.neighbours {
            let Some(row) = self.neighbours.view().get(key) else { continue };
            if !is_right(plan, local, key, row) {
                self.neighbours.view().audit(key, None, neighbour, found);
            }
        }
        for bucket in &suspects.buckets {
            self.fdb.audit(*bucket, right, endpoint, found);
        }
    }

    /// Brings the rows of suspects to the plan, be it another one by now; returns how many were not right.
    pub fn recheck(&mut self, suspects: &Suspects, task: &Task<'_>, problems: &mut Vec<String>) -> usize {
        let mut refused = Refused::default();
        let mut changed = 0;
        let right = |key: &EndpointKey| wanted(task.plan, task.local, key);
        let cleared = self.fdb.clear_wrong(suspects.buckets.iter().copied(), right);
        if cleared > 0 {
            tracing::warn!(wrong = cleared, "map fdb was not what endpoints is: repaired");
        }
        for key in &suspects.endpoints {
            let vni = Vni::new(key.vni).ok();
            let endpoint = vni.and_then(|vni| Some((vni, planned(task.plan, vni, key.mac)?)));
            if let Some((vni, endpoint)) = endpoint
                && right(key).is_some()
            {
                changed += self.set(task, (vni, key.mac), &endpoint, false, &mut refused);
            } else {
                self.fdb.remove(key);
                changed += refused.note(self.endpoints.remove(key));
            }
        }
        for key in &suspects.neighbours {
            let wrong =
                self.neighbours.view().get(key).is_some_and(|row| !is_right(task.plan, task.local, key, row));
            if wrong {
                changed += refused.note(self.neighbours.remove(key));
            }
        }
        refused.tell(problems);
        changed
    }
}
