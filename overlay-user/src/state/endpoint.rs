//! An endpoint, and the rules its record obeys by itself. What it must share with its network and
//! the other endpoints is [`RecordSet`](super::RecordSet)'s.

use std::{fmt, net::IpAddr, ops::Deref, slice};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{EndpointId, EndpointRecord, NodeName, shown::shown};
use crate::MacAddr;

/// Most addresses an endpoint has.
const MOST_ADDRESSES: usize = 16;

/// Most names an endpoint has.
pub const MOST_NAMES: usize = 32;

/// An endpoint: one interface in a network. There may be millions: it holds no more than it must.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its identity in the store.
    pub id: EndpointId,
    /// The node it is on.
    pub node: NodeName,
    /// Its MAC address; no two endpoints of a network have the same.
    pub mac: MacAddr,
    /// Its addresses, each once and in order, all in the network's subnet; no two endpoints of a network
    /// share one.
    pub addresses: Addresses,
    /// How frames from the wire reach it.
    pub delivery: Delivery,
    /// What it is called.
    pub words: Words,
}

/// The addresses of an endpoint: one, as nearly all have, takes no memory of its own.
#[derive(Clone, PartialEq, Eq)]
pub struct Addresses(Few);

#[derive(Clone, PartialEq, Eq)]
enum Few {
    One(IpAddr),
    Some(Box<[IpAddr]>),
}

/// What an endpoint and its place are called, in one piece of memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words(
    /// The names with a space between them, and in the next line the container. Empty if there are neither.
    Box<str>,
);

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
    /// Checks the record of `id` by itself and makes an endpoint of it.
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
            node: record.node.clone(),
            mac,
            addresses: addresses.into(),
            delivery: Delivery::of_word(&record.delivery),
            words: Words::new(&record.names, &record.container),
        })
    }

    /// Whether an endpoint can be known by a name.
    #[must_use]
    pub fn is_name(text: &str) -> bool {
        (1..=253).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    }

    /// The names it is known by.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.words.names()
    }

    /// The network namespace it was attached in, as its node knew it: a path, or `pid` and a number.
    #[must_use]
    pub fn container(&self) -> &str {
        self.words.container()
    }
}

// === impl Addresses ===

impl From<Vec<IpAddr>> for Addresses {
    fn from(addresses: Vec<IpAddr>) -> Self {
        Self(match addresses[..] {
            [one] => Few::One(one),
            _ => Few::Some(addresses.into()),
        })
    }
}

impl Deref for Addresses {
    type Target = [IpAddr];

    fn deref(&self) -> &[IpAddr] {
        match &self.0 {
            Few::One(address) => slice::from_ref(address),
            Few::Some(addresses) => addresses,
        }
    }
}

impl<'a> IntoIterator for &'a Addresses {
    type Item = &'a IpAddr;
    type IntoIter = slice::Iter<'a, IpAddr>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Debug for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.deref().fmt(f)
    }
}

// === impl Words ===

impl Words {
    /// Keeps `names`, which [`Endpoint::is_name`] allows, and a container of any text.
    fn new(names: &[String], container: &str) -> Self {
        if names.is_empty() && container.is_empty() {
            return Self::default();
        }
        Self(format!("{}\n{container}", names.join(" ")).into())
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let names = self.0.split_once('\n').map_or("", |(names, _)| names);
        names.split_terminator(' ')
    }

    fn container(&self) -> &str {
        self.0.split_once('\n').map_or("", |(_, container)| container)
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
    fn names_container_and_addresses_are_kept() {
        for names in [&[][..], &["web"], &["web", "www.blue"]] {
            for (container, addresses) in
                [("", &["10.0.9.2"][..]), ("/run/netns/a b\nc", &["10.0.9.2", "fd00::2"])]
            {
                let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
                let told = EndpointRecord {
                    container: container.to_owned(),
                    addresses: addresses.clone(),
                    ..record("02:42:0a:00:09:02", names)
                };
                let kept = judged(&told).unwrap();
                assert_eq!(kept.names().collect::<Vec<_>>(), names);
                assert_eq!((kept.container(), &*kept.addresses), (container, &*addresses));
            }
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
