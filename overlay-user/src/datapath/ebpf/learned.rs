//! What the programs learned behind gateway ports: read, judged by the rows of `endpoints`, and
//! forgotten when nothing is heard any more.

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, MapError},
};
use overlay_ebpf::abi::{
    ENDPOINT_PORT, EndpointKey, LEARNED_KNOWN, LEARNED_PENDING, LEARNED_REFUSED, Learned,
};

use super::{object::failed, stations::Stations};
use crate::{MacAddr, Vni, datapath::DatapathError};

/// The map `learned`, and how long what the programs found out by it is good for.
pub struct LearnedMap {
    map: HashMap<MapData, EndpointKey, Learned>,
    epoch: Array<MapData, u32>,
}

/// A MAC address that sent something since it was last asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// In this network.
    pub vni: Vni,
    /// The address.
    pub mac: MacAddr,
    /// The port's interface.
    pub ifindex: u32,
}

impl LearnedMap {
    /// Takes the map out of the loaded object.
    ///
    /// # Errors
    /// If it is missing or of another kind.
    pub fn open(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        let mut take = |name| {
            let missing = || DatapathError::Unsupported(format!("the BPF object has no map {name}"));
            ebpf.take_map(name).ok_or_else(missing)
        };
        let map = HashMap::try_from(take("learned")?);
        let epoch = Array::try_from(take("port_epoch")?);
        Ok(Self {
            map: map.map_err(|e| failed("map learned is of another kind", e))?,
            epoch: epoch.map_err(|e| failed("map port_epoch is of another kind", e))?,
        })
    }

    /// Has the programs judge every source behind a gateway port anew: to be called when anything they
    /// judge by has changed.
    ///
    /// # Errors
    /// If the map cannot be read or written.
    pub fn judge_anew(&mut self) -> Result<(), DatapathError> {
        let epoch = self.epoch.get(&0, 0).map_err(|e| failed("cannot read map port_epoch", e))?;
        let next = epoch.wrapping_add(1);
        self.epoch.set(0, next, 0).map_err(|e| failed("cannot write map port_epoch", e))
    }

    /// Who was heard since the last time, and brings every row to what `endpoints` says. A row that
    /// nobody has a claim to and that is silent is removed, and so makes room.
    ///
    /// # Errors
    /// If the map cannot be read or written.
    pub fn hear(&mut self, endpoints: &Stations) -> Result<Vec<Heard>, DatapathError> {
        let rows: Vec<(EndpointKey, Learned)> =
            self.map.iter().collect::<Result<_, _>>().map_err(|e| failed("cannot read map learned", e))?;
        let mut heard = Vec::new();
        for (key, row) in rows {
            let state = match endpoints.endpoint(&key) {
                None => LEARNED_PENDING,
                Some(e) if e.flags & ENDPOINT_PORT != 0 && e.ifindex == row.ifindex => LEARNED_KNOWN,
                Some(_) => LEARNED_REFUSED,
            };
            if row.seen != 0
                && state != LEARNED_REFUSED
                && let Ok(vni) = Vni::new(key.vni)
            {
                heard.push(Heard { vni, mac: key.mac, ifindex: row.ifindex });
            }
            let want = Learned { ifindex: row.ifindex, state, seen: 0 };
            let done = if row.seen == 0 && state != LEARNED_KNOWN {
                self.map.remove(&key)
            } else if row == want {
                Ok(())
            } else {
                self.map.insert(key, want, 0)
            };
            match done {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(failed("cannot write map learned", error)),
            }
        }
        // Last: who is heard from now on is noted again, in rows that say that nobody was.
        self.judge_anew()?;
        Ok(heard)
    }
}
