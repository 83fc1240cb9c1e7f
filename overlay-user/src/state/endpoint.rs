//! An endpoint, and the rules its record obeys by itself. What it must share with its network and
//! the other endpoints is [`RecordSet`](super::RecordSet)'s.

use std::net::IpAddr;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{EndpointId, EndpointRecord, NodeName, shown::shown};
use crate::MacAddr;

/// Most addresses an endpoint has.
const MOST_ADDRESSES: usize = 16;

/// Most names an endpoint has.
const MOST_NAMES: usize = 32;

/// An endpoint: one interface in a network. There may be millions: it holds no more than it must.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its identity in the store.
    pub id: EndpointId,
    /// The store's revision when it was made: of two that cannot both be, the older one stands.
    pub created: i64,
    /// The node it is on.
    pub node: NodeName,
    /// Its MAC address; no two endpoints of a network have the same.
    pub mac: MacAddr,
    /// Its addresses, each once and in order, all in the network's subnet; no two endpoints of a network
    /// share one.
    pub addresses: Box<[IpAddr]>,
    /// The names it is known by.
    pub names: Box<[Box<str>]>,
    /// How frames from the wire reach it.
    pub delivery: Delivery,
    /// The network namespace it was attached in, as its node knew it: a path, or `pid` and a number.
    pub container: Box<str>,
}

/// How frames from the wire reach an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Delivery {
    /// As packets of the host's kernel, which GRO has merged: best for TCP
    #[default]
    Tc,
    /// By XDP redirect from the uplink, one by one: best for an XDP program or small packets inside.
    /// Checksums must be complete on the wire
    Xdp,
}

/// Why an endpoint cannot be as its record says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Not six bytes in hexadecimal.
    #[error("{0:?} is not a MAC address: write it as 02:42:0a:00:09:02")]
    Mac(String),
    /// Zero, or a group's.
    #[error("the MAC address {0} is not one interface's: it is zero or multicast")]
    MacNotUnicast(MacAddr),
    /// Too many addresses.
    #[error("it has {0} addresses, more than {MOST_ADDRESSES}")]
    Addresses(usize),
    /// Too many names.
    #[error("it has {0} names, more than {MOST_NAMES}")]
    Names(usize),
    /// A name that is none.
    #[error("{0:?} is not a name: use 1 to 253 of a-z A-Z 0-9 . _ - and begin with a letter or digit")]
    Name(String),
}

// === impl Endpoint ===

impl Endpoint {
    /// Checks the record of `id` by itself and makes an endpoint of it, `created` at revision 0.
    pub fn from_record(id: EndpointId, record: &EndpointRecord) -> Result<Self, EndpointError> {
        let mac: MacAddr = record.mac.parse().map_err(|_| EndpointError::Mac(shown(&record.mac)))?;
        if !mac.is_unicast() {
            return Err(EndpointError::MacNotUnicast(mac));
        }
        if record.addresses.len() > MOST_ADDRESSES {
            return Err(EndpointError::Addresses(record.addresses.len()));
        }
        if record.names.len() > MOST_NAMES {
            return Err(EndpointError::Names(record.names.len()));
        }
        if let Some(bad) = record.names.iter().find(|name| !Self::is_name(name)) {
            return Err(EndpointError::Name(shown(bad)));
        }
        let mut addresses = record.addresses.clone();
        addresses.sort_unstable();
        addresses.dedup();
        Ok(Self {
            id,
            created: 0,
            node: record.node.clone(),
            mac,
            addresses: addresses.into(),
            names: record.names.iter().map(|name| name.as_str().into()).collect(),
            delivery: Delivery::of_word(&record.delivery),
            container: record.container.as_str().into(),
        })
    }

    /// Whether an endpoint can be known by a name.
    #[must_use]
    pub fn is_name(text: &str) -> bool {
        (1..=253).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    }
}

// === impl Delivery ===

impl Delivery {
    /// The word for it in records: none for the usual one.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Tc => "",
            Self::Xdp => "xdp",
        }
    }

    /// What a record says; a word of a later version is taken for the way that always works.
    fn of_word(word: &str) -> Self {
        if word == Self::Xdp.word() { Self::Xdp } else { Self::Tc }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(record: &EndpointRecord) -> Result<Endpoint, EndpointError> {
        Endpoint::from_record("0123456789ab".parse().unwrap(), record)
    }

    fn record(mac: &str, names: &[&str]) -> EndpointRecord {
        EndpointRecord {
            node: "node1".parse().unwrap(),
            mac: mac.to_owned(),
            addresses: vec!["10.0.9.2".parse().unwrap()],
            names: names.iter().map(|&n| n.to_owned()).collect(),
            container: String::new(),
            ifname: String::new(),
            incarnation: 0,
            delivery: String::new(),
        }
    }

    #[test]
    fn only_a_single_interfaces_mac_is_taken() {
        assert!(judged(&record("02:42:0a:00:09:02", &["web", "web.blue"])).is_ok());
        for bad in ["", "02:42", "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01"] {
            assert!(judged(&record(bad, &[])).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_and_counts_are_bounded() {
        for bad in ["", "a b", "a\n", "../a", "-a", &"a".repeat(254)] {
            assert!(judged(&record("02:42:0a:00:09:02", &[bad])).is_err(), "{bad:?}");
        }
        let many = record("02:42:0a:00:09:02", &["a"; 33]);
        assert_eq!(judged(&many), Err(EndpointError::Names(33)));
        let addresses = vec!["10.0.9.2".parse().unwrap(); 17];
        let many = EndpointRecord { addresses, ..record("02:42:0a:00:09:02", &[]) };
        assert_eq!(judged(&many), Err(EndpointError::Addresses(17)));
    }
}
