//! Gateway ports and the MAC addresses learned behind them.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{EndpointId, InterfaceName, LearnedRecord, NodeName, PortRecord};

/// Most MAC addresses that a port may learn.
const MOST_MACS: u32 = 16_384;

/// An interface of a node that is part of a network, with hosts behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The node it is on.
    pub node: NodeName,
    /// The interface.
    pub device: InterfaceName,
    /// How many MAC addresses are learned behind it.
    pub max_macs: u32,
    /// After how many seconds without a frame one is forgotten.
    pub age: u32,
    /// What carries its frames.
    pub datapath: PortDatapath,
}

/// What is asked for to carry a port's frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortDatapath {
    /// XDP where the driver has it and checksums are complete; else tc
    #[default]
    Auto,
    /// XDP. On a veth, whoever sends into its other end must fill checksums in (ethtool -K DEV tx off)
    Xdp,
    /// tc
    Tc,
}

/// Where a learned MAC address is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LearnedMac {
    /// The node.
    pub node: NodeName,
    /// The port, by its identity.
    pub port: EndpointId,
}

/// Why a port cannot be as its record says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Out of range.
    #[error("it may learn {0} MAC addresses: give 1 to {MOST_MACS}")]
    MaxMacs(u32),
    /// Zero.
    #[error("it forgets MAC addresses at once: give an age of at least a second")]
    Age,
}

// === impl Port ===

impl Port {
    /// Checks a record by itself and makes a port of it.
    pub fn from_record(record: &PortRecord) -> Result<Self, PortError> {
        if !(1..=MOST_MACS).contains(&record.max_macs) {
            return Err(PortError::MaxMacs(record.max_macs));
        }
        if record.age == 0 {
            return Err(PortError::Age);
        }
        Ok(Self {
            node: record.node.clone(),
            device: record.device.clone(),
            max_macs: record.max_macs,
            age: record.age,
            datapath: record.datapath,
        })
    }

    /// The record of it.
    #[must_use]
    pub fn to_record(&self) -> PortRecord {
        let Self { node, device, max_macs, age, datapath } = self.clone();
        PortRecord { node, device, max_macs, age, datapath }
    }
}

// === impl LearnedMac ===

impl From<LearnedRecord> for LearnedMac {
    fn from(LearnedRecord { node, port }: LearnedRecord) -> Self {
        Self { node, port }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_make_no_sense_are_refused() {
        let record = |max_macs, age| PortRecord {
            node: "n1".parse().unwrap(),
            device: "eth1".parse().unwrap(),
            max_macs,
            age,
            datapath: PortDatapath::Auto,
        };
        let good = Port::from_record(&record(1024, 300)).unwrap();
        assert_eq!(good.to_record(), record(1024, 300));
        assert_eq!(Port::from_record(&record(0, 300)), Err(PortError::MaxMacs(0)));
        assert_eq!(Port::from_record(&record(16_385, 300)), Err(PortError::MaxMacs(16_385)));
        assert_eq!(Port::from_record(&record(1, 0)), Err(PortError::Age));
    }
}
