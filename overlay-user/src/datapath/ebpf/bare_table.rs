//! One pinned map of which no copy is kept: it may have a million rows.

use std::{io, os::fd::AsFd as _, sync::Arc};

use aya::{
    Ebpf, Pod,
    maps::{HashMap, Map, MapData, MapError},
};

use super::table;
use crate::datapath::{DatapathError, DifferenceKind, Differences};

/// A hash map, for its one writer.
pub struct BareTable<K, V> {
    map: HashMap<MapData, K, V>,
    view: Arc<View<K, V>>,
}

/// The same map, to be read, also while the writer writes.
pub struct View<K, V> {
    name: &'static str,
    map: HashMap<MapData, K, V>,
}

impl<K, V> BareTable<K, V>
where
    K: Pod + Ord,
    V: Pod + PartialEq,
{
    /// Takes the map out of the loaded object.
    ///
    /// # Errors
    /// If it is missing or of another kind, or there are too many open files.
    pub fn open(ebpf: &mut Ebpf, name: &'static str) -> Result<Self, DatapathError> {
        let Some(Map::HashMap(map)) = ebpf.take_map(name) else {
            return Err(DatapathError::Unsupported(format!("the BPF object has no hash map {name}")));
        };
        let cannot_open = |error: MapError| table::failure(name, "open", error);
        let fd = map.fd().as_fd().try_clone_to_owned().map_err(|error| cannot_open(error.into()))?;
        let view = MapData::from_fd(fd).map_err(cannot_open)?;
        let open = |map| table::typed(name, Map::HashMap(map));
        Ok(Self { map: open(map)?, view: Arc::new(View { name, map: open(view)? }) })
    }

    /// The map, to be read beside this.
    pub const fn view(&self) -> &Arc<View<K, V>> {
        &self.view
    }

    /// Writes a row unless it is there. Returns whether it was written.
    ///
    /// # Errors
    /// If there is no room, or the kernel refuses.
    pub fn set(&mut self, key: K, value: V) -> Result<bool, DatapathError> {
        if self.view.get(&key) == Some(value) {
            return Ok(false);
        }
        self.add(key, value)
    }

    /// Writes a row that is not there. Returns that it was written.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn add(&mut self, key: K, value: V) -> Result<bool, DatapathError> {
        self.map.insert(key, value, 0).map_err(|e| table::failure(self.view.name, "add to", e))?;
        Ok(true)
    }

    /// Removes a row. Returns whether it was there.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove(&mut self, key: &K) -> Result<bool, DatapathError> {
        match self.map.remove(key) {
            Ok(()) => Ok(true),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
                Ok(false)
            }
            Err(error) => Err(table::failure(self.view.name, "remove from", error)),
        }
    }
}

impl<K, V> View<K, V>
where
    K: Pod + Ord,
    V: Pod + PartialEq,
{
    /// The row of a key; `None` also if it cannot be read.
    pub fn get(&self, key: &K) -> Option<V> {
        self.map.get(key, 0).ok()
    }

    /// Whether it has no rows; not so if it cannot be read.
    pub fn is_empty(&self) -> bool {
        self.map.keys().next().is_none()
    }

    /// The keys of the rows that are not `wanted`.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn stale(&self, wanted: impl Fn(&K, &V) -> bool) -> Result<Vec<K>, DatapathError> {
        let mut stale = Vec::new();
        for row in &self.map {
            let (key, value) = row.map_err(|e| table::failure(self.name, "read", e))?;
            if !wanted(&key, &value) {
                stale.push(key);
            }
        }
        Ok(stale)
    }

    /// Compares the row of a key with the one that is wanted; it is told by its `name`.
    pub fn audit(&self, key: &K, want: Option<&V>, name: impl Fn(&K) -> String, found: &mut Differences) {
        let kind = match (want, self.get(key)) {
            (None, None) => return,
            (Some(want), Some(row)) if *want == row => return,
            (Some(_), None) => DifferenceKind::Missing,
            (None, Some(_)) => DifferenceKind::Extra,
            (Some(_), Some(_)) => DifferenceKind::Different,
        };
        found.note(kind, format!("map {}", self.name), || name(key));
    }
}
