//! The pinned map of interfaces that XDP redirects to, each under its own index.

use std::{collections::BTreeSet, io};

use aya::{
    Ebpf,
    maps::{
        MapData, MapError,
        xdp::{DevMapHash, XdpMapError},
    },
};

use super::object::failed;
use crate::datapath::{DatapathError, DifferenceKind, Differences};

/// A map of interfaces and a mirror of it. The kernel takes an interface that goes away out of the
/// map by itself; that is seen when the map is read the next time.
pub struct DeviceTable {
    name: &'static str,
    map: DevMapHash<MapData>,
    rows: BTreeSet<u32>,
}

impl DeviceTable {
    /// Takes the map out of the loaded object and reads what a former daemon left in it.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn open(ebpf: &mut Ebpf, name: &'static str) -> Result<Self, DatapathError> {
        let map = ebpf
            .take_map(name)
            .ok_or_else(|| DatapathError::Unsupported(format!("the BPF object has no map {name}")))?;
        let map =
            DevMapHash::try_from(map).map_err(|e| failed(&format!("map {name} is of another kind"), e))?;
        let mut table = Self { name, map, rows: BTreeSet::new() };
        table.reread()?;
        Ok(table)
    }

    /// Reads the map anew.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn reread(&mut self) -> Result<(), DatapathError> {
        let keys: Result<_, MapError> = self.map.keys().collect();
        self.rows = keys.map_err(|e| failed(&format!("cannot read map {}", self.name), e))?;
        Ok(())
    }

    /// Compares what the map has now with `want`; interfaces are told by their `name`.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn audit(
        &self,
        want: &BTreeSet<u32>,
        name: impl Fn(u32) -> String,
        found: &mut Differences,
    ) -> Result<(), DatapathError> {
        let place = format!("map {}", self.name);
        let keys: Result<BTreeSet<u32>, MapError> = self.map.keys().collect();
        let there = keys.map_err(|e| failed(&format!("cannot read map {}", self.name), e))?;
        for ifindex in want.difference(&there) {
            found.note(DifferenceKind::Missing, &place, || name(*ifindex));
        }
        for ifindex in there.difference(want) {
            found.note(DifferenceKind::Extra, &place, || name(*ifindex));
        }
        Ok(())
    }

    /// Adds the interfaces of `want` that are missing; returns how many.
    pub fn add(&mut self, want: &BTreeSet<u32>, problems: &mut Vec<String>) -> usize {
        let mut changed = 0;
        for &ifindex in want.difference(&self.rows.clone()) {
            match self.map.insert(ifindex, ifindex, None, 0) {
                Ok(()) => {
                    self.rows.insert(ifindex);
                    changed += 1;
                }
                Err(error) => problems.push(self.refused("add", ifindex, error)),
            }
        }
        changed
    }

    /// Removes the interfaces that `want` does not have; returns how many.
    pub fn remove(&mut self, want: &BTreeSet<u32>, problems: &mut Vec<String>) -> usize {
        let mut changed = 0;
        for ifindex in self.rows.clone().difference(want) {
            match self.map.remove(*ifindex) {
                Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    problems.push(self.refused("remove", *ifindex, error.into()));
                    continue;
                }
                Ok(()) => changed += 1,
            }
            self.rows.remove(ifindex);
        }
        changed
    }

    fn refused(&self, verb: &str, ifindex: u32, error: XdpMapError) -> String {
        let what = format!("cannot {verb} interface {ifindex} in map {}", self.name);
        match error {
            XdpMapError::MapError(MapError::SyscallError(error)) => failed(&what, error.io_error),
            other => failed(&what, other),
        }
        .to_string()
    }
}
