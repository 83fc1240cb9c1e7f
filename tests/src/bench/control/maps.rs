//! The maps of a node, read as anybody can who finds them pinned.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Pod,
    maps::{HashMap, Map, MapData, MapError},
};
use overlay_ebpf::abi::{Endpoint, EndpointKey, SCHEMA};

use super::population::Simulated;
use crate::node::Node;

/// VNI of the network with number 0.
pub const FIRST_VNI: u32 = 100;

/// The rows that say where endpoints are. Their MAC addresses are made of their addresses, so that these have no
/// rows of their own.
pub struct Maps {
    endpoints: HashMap<MapData, EndpointKey, Endpoint>,
}

impl Maps {
    /// Opens what a node has pinned.
    pub fn open(node: &Node) -> Result<Self> {
        Ok(Self { endpoints: hash(&directory(node).join("endpoints"))? })
    }

    /// Whether the row of an endpoint is there, or is not.
    pub fn agree(&self, endpoint: Simulated, there: bool) -> Result<bool> {
        let vni = FIRST_VNI + endpoint.network();
        let key = EndpointKey::new(vni, endpoint.mac());
        let row = found(self.endpoints.get(&key, 0))?;
        Ok(row.map(|row| row.addr4) == there.then(|| endpoint.addr().octets()))
    }

    /// How many endpoints have a row.
    pub fn count(&self) -> Result<usize> {
        self.endpoints.keys().try_fold(0, |count, key| Ok(key.map(|_| count + 1)?))
    }
}

/// Bytes that the kernel has for all maps of a node.
pub fn memory(node: &Node) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory(node))? {
        let path = entry?.path();
        if path.is_file() {
            let map = MapData::from_pin(&path).with_context(|| format!("cannot open {}", path.display()))?;
            let fd = map.fd();
            let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd()))?;
            let memory = info.lines().find_map(|line| line.strip_prefix("memlock:"));
            bytes += memory.context("the kernel does not tell a map's memory")?.trim().parse::<u64>()?;
        }
    }
    Ok(bytes)
}

/// Where a node pins its maps.
fn directory(node: &Node) -> PathBuf {
    node.bpffs().join(format!("v{SCHEMA}"))
}

fn hash<K: Pod, V: Pod>(path: &Path) -> Result<HashMap<MapData, K, V>> {
    let map = MapData::from_pin(path).with_context(|| format!("cannot open {}", path.display()))?;
    let info = map.info()?;
    ensure!(
        (info.key_size() as usize, info.value_size() as usize) == (size_of::<K>(), size_of::<V>()),
        "{} has rows of another shape",
        path.display()
    );
    Ok(Map::HashMap(map).try_into()?)
}

fn found<V>(row: Result<V, MapError>) -> Result<Option<V>> {
    match row {
        Ok(row) => Ok(Some(row)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
