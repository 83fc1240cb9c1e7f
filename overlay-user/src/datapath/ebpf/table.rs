//! One pinned map and what is known to be in it, brought to what should be by the difference.

use std::{collections::BTreeMap, io};

use aya::{
    Ebpf, Pod,
    maps::{HashMap, Map, MapData, MapError},
};

use super::object::failed;
use crate::datapath::{DatapathError, DifferenceKind, Differences};

/// A hash map and a mirror of its rows.
pub struct Table<K, V> {
    name: &'static str,
    map: HashMap<MapData, K, V>,
    rows: BTreeMap<K, V>,
}

impl<K, V> Table<K, V>
where
    K: Pod + Ord,
    V: Pod + PartialEq,
{
    /// Takes the map out of the loaded object and reads what a former daemon left in it.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn open(ebpf: &mut Ebpf, name: &'static str) -> Result<Self, DatapathError> {
        let mut table = Self { name, map: hash_map(ebpf, name)?, rows: BTreeMap::new() };
        table.reread()?;
        Ok(table)
    }

    /// Reads the map anew: someone else may have changed it.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn reread(&mut self) -> Result<(), DatapathError> {
        self.rows = self.map.iter().collect::<Result<_, _>>().map_err(|e| self.failed("read", e))?;
        Ok(())
    }

    /// Compares what the map has now with `want`; rows are the `same` by that, and told by their `name`.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn audit(
        &self,
        want: &BTreeMap<K, V>,
        same: impl Fn(&V, &V) -> bool,
        name: impl Fn(&K) -> String,
        found: &mut Differences,
    ) -> Result<(), DatapathError> {
        let place = format!("map {}", self.name);
        let mut there = 0;
        for row in &self.map {
            let (key, value) = row.map_err(|e| self.failed("read", e))?;
            let wanted = want.get(&key);
            there += usize::from(wanted.is_some());
            match wanted {
                None => found.note(DifferenceKind::Extra, &place, || name(&key)),
                Some(wanted) if !same(wanted, &value) => {
                    found.note(DifferenceKind::Different, &place, || name(&key));
                }
                Some(_) => {}
            }
        }
        if there < want.len() {
            for key in want.keys() {
                if matches!(self.map.get(key, 0), Err(MapError::KeyNotFound)) {
                    found.note(DifferenceKind::Missing, &place, || name(key));
                }
            }
        }
        Ok(())
    }

    /// Adds and changes rows towards `want`; returns how many. A row that does not fit is a problem
    /// for the operator, the others are written.
    pub fn add(&mut self, want: &BTreeMap<K, V>, problems: &mut Vec<String>) -> usize {
        self.write(want, |row, value| row != Some(value), problems)
    }

    /// As [`Self::add`], but leaves the rows that are there as they are.
    pub fn add_missing(&mut self, want: &BTreeMap<K, V>, problems: &mut Vec<String>) -> usize {
        self.write(want, |row, _| row.is_none(), problems)
    }

    /// Writes the rows of `want` that, beside the row that is there, are `due`.
    fn write(
        &mut self,
        want: &BTreeMap<K, V>,
        due: impl Fn(Option<&V>, &V) -> bool,
        problems: &mut Vec<String>,
    ) -> usize {
        let mut changed = 0;
        let mut refused: Option<(usize, DatapathError)> = None;
        for (key, value) in want {
            if !due(self.rows.get(key), value) {
                continue;
            }
            match self.map.insert(*key, *value, 0) {
                Ok(()) => {
                    self.rows.insert(*key, *value);
                    changed += 1;
                }
                Err(error) => {
                    let count = refused.take().map_or(1, |(count, _)| count + 1);
                    refused = Some((count, self.failed("add to", error)));
                }
            }
        }
        if let Some((count, error)) = refused {
            problems.push(format!("{count} rows are missing: {error}"));
        }
        changed
    }

    /// Removes the rows that `want` does not have; returns how many.
    pub fn remove(&mut self, want: &BTreeMap<K, V>, problems: &mut Vec<String>) -> usize {
        let stale: Vec<K> = self.rows.keys().filter(|key| !want.contains_key(key)).copied().collect();
        let mut changed = 0;
        for key in stale {
            match self.map.remove(&key) {
                Ok(()) => changed += 1,
                Err(MapError::KeyNotFound) => {}
                Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    problems.push(self.failed("remove from", error).to_string());
                    continue;
                }
            }
            self.rows.remove(&key);
        }
        changed
    }

    /// What the map is known to hold.
    #[must_use]
    pub fn rows(&self) -> &BTreeMap<K, V> {
        &self.rows
    }

    fn failed(&self, verb: &str, error: MapError) -> DatapathError {
        failure(self.name, verb, error)
    }
}

/// Takes a hash map out of the loaded object.
///
/// # Errors
/// If it is missing or of another kind.
pub fn hash_map<K: Pod, V: Pod>(
    ebpf: &mut Ebpf,
    name: &str,
) -> Result<HashMap<MapData, K, V>, DatapathError> {
    let map = ebpf
        .take_map(name)
        .ok_or_else(|| DatapathError::Unsupported(format!("the BPF object has no map {name}")))?;
    typed(name, map)
}

/// A map as a hash map of such rows.
///
/// # Errors
/// If it is of another kind.
pub fn typed<K: Pod, V: Pod>(name: &str, map: Map) -> Result<HashMap<MapData, K, V>, DatapathError> {
    HashMap::try_from(map).map_err(|e| failed(&format!("map {name} is of another kind"), e))
}

/// What went wrong with a map, for the operator.
pub fn failure(name: &str, verb: &str, error: MapError) -> DatapathError {
    match error {
        MapError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::E2BIG) => {
            DatapathError::Unsupported(format!(
                "map {name} is full: restart overlayd after `overlayd --purge` with a larger --max-endpoints"
            ))
        }
        MapError::SyscallError(error) => failed(&format!("cannot {verb} map {name}"), error.io_error),
        other => failed(&format!("cannot {verb} map {name}"), other),
    }
}
