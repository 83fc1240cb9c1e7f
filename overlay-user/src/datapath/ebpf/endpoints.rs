//! `endpoints`, and what the programs look up in its place: `fdb` for all, `locals` for this node's own.

use std::collections::BTreeMap;

use aya::Ebpf;
use overlay_ebpf::abi::{Endpoint, EndpointKey, SELF_VTEP};

use super::{array::ArrayTable, fdb::Fdb, names::Names, table::Table};
use crate::datapath::{DatapathError, Differences};

/// The three maps, kept alike.
pub struct EndpointTable {
    table: Table<EndpointKey, Endpoint>,
    locals: ArrayTable<Endpoint>,
    fdb: Fdb,
}

impl EndpointTable {
    /// Takes the maps out of the loaded object and reads what a former daemon left in them.
    ///
    /// # Errors
    /// If one is missing, of another kind or cannot be read.
    pub fn open(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        let table = Table::open(ebpf, "endpoints")?;
        let locals = ArrayTable::open(ebpf, "locals")?;
        let mut fdb = Fdb::open(ebpf)?;
        fdb.repair(table.rows());
        Ok(Self { table, locals, fdb })
    }

    /// Reads the maps anew: someone else may have changed them. `fdb` is brought to `endpoints` at once.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn reread(&mut self) -> Result<(), DatapathError> {
        self.table.reread()?;
        self.locals.reread()?;
        match self.fdb.repair(self.table.rows()) {
            0 => {}
            entries => tracing::warn!(entries, "map fdb was not what endpoints is: repaired"),
        }
        Ok(())
    }

    /// Compares what the maps have now with `want`.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn audit(
        &self,
        want: &BTreeMap<EndpointKey, Endpoint>,
        names: &Names<'_>,
        found: &mut Differences,
    ) -> Result<(), DatapathError> {
        self.table.audit(want, Endpoint::eq, |key| names.endpoint(key.vni, key.mac), found)?;
        self.locals.audit(&locals(want), |slot| names.slot(slot), found)?;
        self.fdb.audit(want, |key| names.endpoint(key.vni, key.mac), found);
        Ok(())
    }

    /// Adds and changes rows towards `want`; returns how many.
    pub fn add(&mut self, want: &BTreeMap<EndpointKey, Endpoint>, problems: &mut Vec<String>) -> usize {
        self.locals.add(&locals(want), problems)
            + self.table.write(want, |row, value| row != Some(value), |k, v| self.fdb.set(k, v), problems)
    }

    /// As [`Self::add`], but leaves the rows that are there as they are.
    pub fn add_missing(
        &mut self,
        want: &BTreeMap<EndpointKey, Endpoint>,
        problems: &mut Vec<String>,
    ) -> usize {
        let locals = locals(want).into_iter().filter(|(slot, _)| !self.locals.rows().contains_key(slot));
        self.locals.add(&locals.collect(), problems)
            + self.table.write(want, |row, _| row.is_none(), |k, v| self.fdb.set(k, v), problems)
    }

    /// Removes the rows that `want` does not have; returns how many.
    pub fn remove(&mut self, want: &BTreeMap<EndpointKey, Endpoint>, problems: &mut Vec<String>) -> usize {
        for key in self.table.rows().keys().filter(|key| !want.contains_key(key)) {
            self.fdb.remove(key);
        }
        self.table.remove(want, problems) + self.locals.remove(&locals(want), problems)
    }

    /// What `endpoints` is known to hold.
    #[must_use]
    pub fn rows(&self) -> &BTreeMap<EndpointKey, Endpoint> {
        self.table.rows()
    }

    /// See [`Fdb::mask`].
    #[must_use]
    pub fn fdb_mask(&self) -> u32 {
        self.fdb.mask()
    }
}

/// This node's own by their slots. All hosts behind a gateway port have its slot, and rows that differ in
/// nothing that is asked for here.
fn locals(endpoints: &BTreeMap<EndpointKey, Endpoint>) -> BTreeMap<u32, Endpoint> {
    endpoints.values().filter(|row| row.vtep == SELF_VTEP).map(|row| (row.slot.into(), *row)).collect()
}
