//! `ports`, and what the programs look up in its place: `port_rows`.

use std::collections::{BTreeMap, BTreeSet};

use aya::Ebpf;
use overlay_ebpf::abi::{PORT_ROWS, Port, PortRow};

use super::{array::ArrayTable, names, table::Table};
use crate::datapath::{DatapathError, Differences};

/// The two maps, kept alike.
pub struct PortTable {
    table: Table<u32, Port>,
    near: ArrayTable<PortRow>,
    /// Rows of `port_rows` that another interface had a moment ago. A program may have begun to read one,
    /// and must not read on in the next one's.
    resting: BTreeSet<u32>,
}

impl PortTable {
    /// Takes the maps out of the loaded object and reads what a former daemon left in them.
    ///
    /// # Errors
    /// If one is missing, of another kind or cannot be read.
    pub fn open(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        let (table, near) = (Table::open(ebpf, "ports")?, ArrayTable::open(ebpf, "port_rows")?);
        Ok(Self { table, near, resting: BTreeSet::new() })
    }

    /// Reads the maps anew: someone else may have changed them.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn reread(&mut self) -> Result<(), DatapathError> {
        self.resting.clear();
        self.near.reread()?;
        self.table.reread()
    }

    /// Compares what the maps have now with `want`.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn audit(&self, want: &BTreeMap<u32, Port>, found: &mut Differences) -> Result<(), DatapathError> {
        self.table.audit(want, Port::eq, |ifindex| names::device(*ifindex), found)?;
        let near = self.near.rows().iter().filter_map(|(place, PortRow { ifindex, .. })| {
            want.get(ifindex).map(|port| (*place, PortRow { port: *port, ifindex: *ifindex }))
        });
        let device = |place| {
            let row = self.near.rows().get(&place);
            row.map_or_else(|| format!("row {place}"), |row| names::device(row.ifindex))
        };
        self.near.audit(&near.collect(), device, found)
    }

    /// Adds and changes rows towards `want`; returns how many.
    pub fn add(&mut self, want: &BTreeMap<u32, Port>, problems: &mut Vec<String>) -> usize {
        let changed = self.table.add(want, problems);
        self.bring_near(problems);
        changed
    }

    /// As [`Self::add`], but leaves the rows that are there as they are.
    pub fn add_missing(&mut self, want: &BTreeMap<u32, Port>, problems: &mut Vec<String>) -> usize {
        let changed = self.table.add_missing(want, problems);
        self.bring_near(problems);
        changed
    }

    /// Removes the rows that `want` does not have; returns how many.
    pub fn remove(&mut self, want: &BTreeMap<u32, Port>, problems: &mut Vec<String>) -> usize {
        let rows = self.near.rows();
        let (kept, gone): (BTreeMap<_, _>, BTreeMap<_, _>) = rows
            .iter()
            .map(|(place, row)| (*place, *row))
            .partition(|(_, row)| want.contains_key(&row.ifindex));
        self.resting.extend(gone.into_keys());
        self.near.remove(&kept, problems);
        self.table.remove(want, problems)
    }

    /// Brings `port_rows` to `ports`, as far as two interfaces do not have the same place there.
    fn bring_near(&mut self, problems: &mut Vec<String>) {
        let mut rows = BTreeMap::new();
        for (ifindex, port) in self.table.rows() {
            let place = ifindex & (PORT_ROWS - 1);
            let there = self.near.rows().get(&place).map_or(0, |row| row.ifindex);
            if there == *ifindex || there == 0 && !self.resting.contains(&place) {
                rows.entry(place).or_insert(PortRow { port: *port, ifindex: *ifindex });
            }
        }
        // Whose it is comes last: nobody finds a row that is half written.
        let new = rows.iter().filter(|(place, _)| !self.near.rows().contains_key(place));
        let nobodys = new.map(|(place, row)| (*place, PortRow { ifindex: 0, ..*row })).collect();
        self.near.add(&nobodys, problems);
        self.near.add(&rows, problems);
    }
}
