//! One pinned array and what is known to be in it. Rows that are all zero count as absent.

use std::collections::BTreeMap;

use aya::{
    Ebpf, Pod,
    maps::{Array, MapData, MapError},
};

use super::object::failed;
use crate::datapath::{DatapathError, DifferenceKind, Differences};

/// An array map and a mirror of its rows.
pub struct ArrayTable<V: Pod> {
    name: &'static str,
    map: Array<MapData, V>,
    rows: BTreeMap<u32, V>,
}

impl<V: Pod + PartialEq + Default> ArrayTable<V> {
    /// Takes the map out of the loaded object and reads what a former daemon left in it.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn open(ebpf: &mut Ebpf, name: &'static str) -> Result<Self, DatapathError> {
        let map = ebpf
            .take_map(name)
            .ok_or_else(|| DatapathError::Unsupported(format!("the BPF object has no map {name}")))?;
        let map = Array::try_from(map).map_err(|e| failed(&format!("map {name} is of another kind"), e))?;
        let mut table = Self { name, map, rows: BTreeMap::new() };
        table.reread()?;
        Ok(table)
    }

    /// Reads the map anew: someone else may have changed it.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn reread(&mut self) -> Result<(), DatapathError> {
        self.rows.clear();
        for index in 0..self.map.len() {
            let row = self.map.get(&index, 0).map_err(|e| self.failed("read", e))?;
            if row != V::default() {
                self.rows.insert(index, row);
            }
        }
        Ok(())
    }

    /// Compares what the map has now with `want`; rows are told by their `name`.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn audit(
        &self,
        want: &BTreeMap<u32, V>,
        name: impl Fn(u32) -> String,
        found: &mut Differences,
    ) -> Result<(), DatapathError> {
        let (absent, place) = (V::default(), format!("map {}", self.name));
        for index in 0..self.map.len() {
            let row = self.map.get(&index, 0).map_err(|e| self.failed("read", e))?;
            let wanted = want.get(&index).unwrap_or(&absent);
            let kind = match (row == absent, *wanted == absent) {
                _ if row == *wanted => continue,
                (true, _) => DifferenceKind::Missing,
                (_, true) => DifferenceKind::Extra,
                _ => DifferenceKind::Different,
            };
            found.note(kind, &place, || name(index));
        }
        Ok(())
    }

    /// Writes the rows of `want` that differ; returns how many.
    pub fn add(&mut self, want: &BTreeMap<u32, V>, problems: &mut Vec<String>) -> usize {
        let mut changed = 0;
        for (index, row) in want {
            if self.rows.get(index) != Some(row) {
                changed += self.set(*index, *row, problems);
            }
        }
        changed
    }

    /// Clears the rows that `want` does not have; returns how many.
    pub fn remove(&mut self, want: &BTreeMap<u32, V>, problems: &mut Vec<String>) -> usize {
        let stale: Vec<u32> = self.rows.keys().filter(|index| !want.contains_key(index)).copied().collect();
        let mut changed = 0;
        for index in stale {
            changed += self.set(index, V::default(), problems);
            self.rows.remove(&index);
        }
        changed
    }

    /// What the map is known to hold.
    #[must_use]
    pub fn rows(&self) -> &BTreeMap<u32, V> {
        &self.rows
    }

    fn set(&mut self, index: u32, row: V, problems: &mut Vec<String>) -> usize {
        match self.map.set(index, row, 0) {
            Ok(()) => {
                self.rows.insert(index, row);
                1
            }
            Err(error) => {
                problems.push(self.failed("write", error).to_string());
                0
            }
        }
    }

    fn failed(&self, verb: &str, error: MapError) -> DatapathError {
        failed(&format!("cannot {verb} map {}", self.name), error)
    }
}
