//! Where everybody is: `endpoints`, what the programs look up in its place (`fdb` for all, `locals` for this
//! node's own), and `neighbours`. Their rows are made when they are needed, from the plan: there may be a
//! million.

mod suspects;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use aya::Ebpf;
use overlay_ebpf::abi::{Endpoint, EndpointKey, Neighbour, NeighbourKey};

pub use suspects::{Suspects, Views};

use super::{array::ArrayTable, bare_table::BareTable, fdb::Fdb, names::Names, row, rows::Local};
use crate::{
    MacAddr, Vni,
    datapath::{DatapathError, Differences},
    plan::{self, Plan, changed_stations},
};

/// The four maps, kept alike.
pub struct Stations {
    endpoints: BareTable<EndpointKey, Endpoint>,
    neighbours: BareTable<NeighbourKey, Neighbour>,
    locals: ArrayTable<Endpoint>,
    fdb: Fdb,
}

/// What is to be brought to a plan.
pub struct Task<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// The plan that the maps have the rows of; `None`: that is not known, and everything is looked at.
    pub before: Option<&'a Plan>,
    /// What is there stays as it is.
    pub only_missing: bool,
    /// What is on this node is as it was with the plan before.
    pub same_here: bool,
    /// What rows depend on besides.
    pub local: &'a Local,
}

/// What could not be written: the number of rows, and the first reason.
#[derive(Default)]
struct Refused(Option<(usize, DatapathError)>);

// === impl Stations ===

impl Stations {
    /// Takes the maps out of the loaded object.
    ///
    /// # Errors
    /// If one is missing, of another kind or cannot be read.
    pub fn open(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            endpoints: BareTable::open(ebpf, "endpoints")?,
            neighbours: BareTable::open(ebpf, "neighbours")?,
            locals: ArrayTable::open(ebpf, "locals")?,
            fdb: Fdb::open(ebpf)?,
        })
    }

    /// Reads `locals` anew: someone else may have changed it.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn reread(&mut self) -> Result<(), DatapathError> {
        self.locals.reread()
    }

    /// Compares what `locals` has now with what it should have.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn audit_locals(
        &self,
        want: &BTreeMap<u32, Endpoint>,
        names: &Names<'_>,
        found: &mut Differences,
    ) -> Result<(), DatapathError> {
        self.locals.audit(want, |slot| names.slot(slot), found)
    }

    /// Adds and changes rows; returns how many.
    pub fn add(
        &mut self,
        task: &Task<'_>,
        locals: &BTreeMap<u32, Endpoint>,
        problems: &mut Vec<String>,
    ) -> usize {
        let mut changed = if task.only_missing {
            let missing = locals.iter().filter(|(slot, _)| !self.locals.rows().contains_key(slot));
            self.locals.add(&missing.map(|(slot, row)| (*slot, *row)).collect(), problems)
        } else {
            self.locals.add(locals, problems)
        };
        let mut refused = Refused::default();
        if let Some(before) = task.before {
            for (vni, mac) in touched(task, before) {
                if let Some(endpoint) = planned(task.plan, vni, mac) {
                    changed += self.set(task, (vni, mac), &endpoint, false, &mut refused);
                }
            }
        } else {
            // Of a new node's nothing need be read.
            let all_new = self.endpoints.view().is_empty() && self.neighbours.view().is_empty();
            for (vni, network) in &task.plan.networks {
                for (mac, endpoint) in network.endpoints() {
                    changed += self.set(task, (*vni, mac), &endpoint, all_new, &mut refused);
                }
            }
        }
        refused.tell(problems);
        changed
    }

    /// Removes the rows that the plan does not have; returns how many.
    pub fn remove(
        &mut self,
        task: &Task<'_>,
        locals: &BTreeMap<u32, Endpoint>,
        problems: &mut Vec<String>,
    ) -> usize {
        let removed = match task.before {
            Some(before) => self.remove_touched(task, before),
            None => self.remove_stale(task),
        };
        let removed = removed.unwrap_or_else(|error| {
            problems.push(error.to_string());
            0
        });
        removed + self.locals.remove(locals, problems)
    }

    /// What `locals` is known to hold.
    #[must_use]
    pub fn locals(&self) -> &BTreeMap<u32, Endpoint> {
        self.locals.rows()
    }

    /// The row of an endpoint.
    #[must_use]
    pub fn endpoint(&self, key: &EndpointKey) -> Option<Endpoint> {
        self.endpoints.view().get(key)
    }

    /// See [`Fdb::mask`].
    #[must_use]
    pub fn fdb_mask(&self) -> u32 {
        self.fdb.mask()
    }

    /// Writes the rows of one endpoint of the plan, what is pointed to first, none of which is there if it is new;
    /// returns how many were not right.
    fn set(
        &mut self,
        task: &Task<'_>,
        (vni, mac): (Vni, MacAddr),
        endpoint: &plan::Endpoint<'_>,
        new: bool,
        refused: &mut Refused,
    ) -> usize {
        let Some(row) = row::endpoint(endpoint, task.local) else { return 0 };
        let mut changed = 0;
        for address in row::addresses_with_row(mac, endpoint.addresses) {
            let key = NeighbourKey { vni: vni.get(), addr: address.into() };
            if !(task.only_missing && self.neighbours.view().get(&key).is_some()) {
                let row = Neighbour { mac, ..Neighbour::default() };
                changed += refused.note(self.neighbours.set(key, row));
            }
        }
        let key = EndpointKey::new(vni.get(), mac);
        if task.only_missing && self.endpoints.view().get(&key).is_some() {
            return changed;
        }
        let written = if new { self.endpoints.add(key, row) } else { self.endpoints.set(key, row) };
        changed + refused.note(written) + usize::from(self.fdb.ensure(&key, &row))
    }

    /// Looks at what the two plans do not share.
    fn remove_touched(&mut self, task: &Task<'_>, before: &Plan) -> Result<usize, DatapathError> {
        let mut removed = 0;
        for (vni, mac) in touched(task, before) {
            let right = wanted(task.plan, task.local, &EndpointKey::new(vni.get(), mac));
            let (old, new) = (planned(before, vni, mac), planned(task.plan, vni, mac));
            let new = new.filter(|_| right.is_some());
            let with_row = |endpoint: Option<plan::Endpoint<'_>>| -> Vec<IpAddr> {
                endpoint.iter().flat_map(|e| row::addresses_with_row(mac, e.addresses)).collect()
            };
            let kept_rows = with_row(new);
            for address in with_row(old) {
                let key = NeighbourKey { vni: vni.get(), addr: address.into() };
                let kept = kept_rows.contains(&address);
                // Another endpoint may have it by now.
                if !kept && self.neighbours.view().get(&key).is_some_and(|row| row.mac == mac) {
                    removed += usize::from(self.neighbours.remove(&key)?);
                }
            }
            if right.is_none() {
                let key = EndpointKey::new(vni.get(), mac);
                self.fdb.remove(&key);
                removed += usize::from(self.endpoints.remove(&key)?);
            }
        }
        Ok(removed)
    }

    /// Looks at all rows that are there.
    fn remove_stale(&mut self, task: &Task<'_>) -> Result<usize, DatapathError> {
        let right = |key: &EndpointKey| wanted(task.plan, task.local, key);
        let wrong = self.fdb.clear_wrong(0..=self.fdb.mask(), right);
        if wrong > 0 {
            tracing::warn!(wrong, "map fdb was not what endpoints is: repaired");
        }
        let mut removed = 0;
        for key in self.endpoints.view().stale(|key, _| right(key).is_some())? {
            removed += usize::from(self.endpoints.remove(&key)?);
        }
        for key in self.neighbours.view().stale(|key, row| is_right(task.plan, task.local, key, *row))? {
            removed += usize::from(self.neighbours.remove(&key)?);
        }
        Ok(removed)
    }
}

/// Who has a MAC address by a plan.
fn planned(plan: &Plan, vni: Vni, mac: MacAddr) -> Option<plan::Endpoint<'_>> {
    plan.networks.get(&vni)?.endpoint(mac)
}

/// The row that an endpoint should have, if it should have one.
fn wanted(plan: &Plan, local: &Local, key: &EndpointKey) -> Option<Endpoint> {
    row::endpoint(&planned(plan, Vni::new(key.vni).ok()?, key.mac)?, local)
}

/// Whether a row of `neighbours` should be there.
fn is_right(plan: &Plan, local: &Local, key: &NeighbourKey, row: Neighbour) -> bool {
    let Ok(vni) = Vni::new(key.vni) else { return false };
    planned(plan, vni, row.mac).is_some_and(|endpoint| {
        row::endpoint(&endpoint, local).is_some()
            && row::addresses_with_row(row.mac, endpoint.addresses).any(|addr| key.addr == addr.into())
    })
}

/// The endpoints whose rows may differ between two plans: those that the plans do not share, and those whose
/// rows depend on what is on this node.
fn touched(task: &Task<'_>, before: &Plan) -> BTreeSet<(Vni, MacAddr)> {
    let mut touched = changed_stations(before, task.plan);
    if task.same_here {
        return touched;
    }
    for (vni, network) in before.networks.iter().chain(&task.plan.networks) {
        touched.extend(network.local.keys().chain(network.learned.keys()).map(|mac| (*vni, *mac)));
    }
    touched
}

// === impl Refused ===

impl Refused {
    /// Counts what was written.
    fn note(&mut self, written: Result<bool, DatapathError>) -> usize {
        match written {
            Ok(written) => usize::from(written),
            Err(error) => {
                let before = self.0.take();
                self.0 = Some(before.map_or((1, error), |(count, first)| (count + 1, first)));
                0
            }
        }
    }

    /// Tells the operator.
    fn tell(self, problems: &mut Vec<String>) {
        if let Some((count, error)) = self.0 {
            problems.push(format!("{count} rows are not as they should be: {error}"));
        }
    }
}
