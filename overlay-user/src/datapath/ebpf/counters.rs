//! The programs' counters, summed over the CPUs.

use std::collections::BTreeMap;

use aya::{
    Ebpf,
    maps::{MapData, MapError, PerCpuArray},
};
use overlay_ebpf::abi::{self, Hook, OUTCOMES};

use super::object::failed;
use crate::datapath::{Count, DatapathError, Traffic};

/// The per-CPU arrays the programs count in.
pub struct CounterMaps {
    outcomes: PerCpuArray<MapData, abi::Traffic>,
    endpoints: PerCpuArray<MapData, abi::Traffic>,
    peers: PerCpuArray<MapData, abi::Traffic>,
}

impl CounterMaps {
    /// Takes the maps out of the loaded object.
    ///
    /// # Errors
    /// If one is missing or of another kind.
    pub fn open(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        let mut take = |name: &str| {
            let map = ebpf
                .take_map(name)
                .ok_or_else(|| DatapathError::Unsupported(format!("the BPF object has no map {name}")))?;
            PerCpuArray::try_from(map).map_err(|e| failed(&format!("map {name} is of another kind"), e))
        };
        Ok(Self {
            outcomes: take("counters")?,
            endpoints: take("endpoint_stats")?,
            peers: take("peer_stats")?,
        })
    }

    /// Every outcome that is not zero, by hook.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn outcomes(&self) -> Result<BTreeMap<String, BTreeMap<String, Count>>, DatapathError> {
        let mut hooks = BTreeMap::new();
        for hook in Hook::ALL {
            let mut outcomes = BTreeMap::new();
            for outcome in OUTCOMES {
                let Traffic { rx: count, .. } = sum(&self.outcomes, hook.counter(*outcome))?;
                if count.packets != 0 {
                    outcomes.insert(outcome.name().to_owned(), count);
                }
            }
            hooks.insert(hook.name().to_owned(), outcomes);
        }
        Ok(hooks)
    }

    /// Traffic of the endpoint with this slot.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn endpoint(&self, slot: u32) -> Result<Traffic, DatapathError> {
        sum(&self.endpoints, slot)
    }

    /// Traffic of the node in this row of `vteps`.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn peer(&self, vtep: u32) -> Result<Traffic, DatapathError> {
        sum(&self.peers, vtep)
    }

    /// Begins an endpoint's counters anew: its slot had another before.
    ///
    /// # Errors
    /// If the map cannot be written.
    pub fn clear_endpoint(&mut self, slot: u32) -> Result<(), DatapathError> {
        clear(&mut self.endpoints, slot)
    }

    /// Begins a node's counters anew.
    ///
    /// # Errors
    /// If the map cannot be written.
    pub fn clear_peer(&mut self, vtep: u32) -> Result<(), DatapathError> {
        clear(&mut self.peers, vtep)
    }
}

fn sum(map: &PerCpuArray<MapData, abi::Traffic>, index: u32) -> Result<Traffic, DatapathError> {
    let values = map.get(&index, 0).map_err(unreadable)?;
    Ok(values.iter().fold(Traffic::default(), |sum, row| Traffic {
        rx: Count { packets: sum.rx.packets + row.rx_packets, bytes: sum.rx.bytes + row.rx_bytes },
        tx: Count { packets: sum.tx.packets + row.tx_packets, bytes: sum.tx.bytes + row.tx_bytes },
    }))
}

fn clear(map: &mut PerCpuArray<MapData, abi::Traffic>, index: u32) -> Result<(), DatapathError> {
    let cpus = map.get(&index, 0).map_err(unreadable)?.len();
    let zero = vec![abi::Traffic::default(); cpus];
    let zero = zero.try_into().map_err(|e| failed("cannot clear a counter", e))?;
    map.set(index, zero, 0).map_err(unreadable)
}

fn unreadable(error: MapError) -> DatapathError {
    failed("cannot read a counter map", error)
}
