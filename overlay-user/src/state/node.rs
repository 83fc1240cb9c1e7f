//! A node, and the rules its record obeys.

use std::net::{IpAddr, Ipv4Addr};

use super::{NodeRecord, shown::shown};

/// The least underlay MTU in bytes: what every IPv4 host takes whole (RFC 791, section 3.1).
const LEAST_MTU: u16 = 576;

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its tunnel address.
    pub vtep: IpAddr,
    /// MTU of its underlay, if it said so.
    pub mtu: Option<u16>,
    /// Which data path it runs; empty for a third party's VTEP.
    pub datapath: String,
    /// Why that one.
    pub reason: String,
    /// Entered by `node add-static`: nobody runs overlayd there.
    pub is_static: bool,
}

/// Why a node cannot be as its record says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// IPv6.
    #[error("the tunnel address {0} is IPv6, which is not supported yet")]
    Ipv6(IpAddr),
    /// Not one host's address.
    #[error("the tunnel address {0} is not one host's: it is {1}")]
    NotOneHost(IpAddr, &'static str),
    /// Port 0.
    #[error("the VXLAN port is 0")]
    Port,
    /// Too small to carry anything.
    #[error("the underlay MTU {0} is below {LEAST_MTU}")]
    Mtu(u16),
}

// === impl Node ===

impl Node {
    /// Checks a record and makes a node of it.
    pub fn from_record(record: &NodeRecord) -> Result<Self, NodeError> {
        let NodeRecord { vtep, port, mtu, ref datapath, ref reason, version: _, incarnation: _, is_static } =
            *record;
        let IpAddr::V4(v4) = vtep else {
            return Err(NodeError::Ipv6(vtep));
        };
        if let Some(kind) = not_one_host(v4) {
            return Err(NodeError::NotOneHost(vtep, kind));
        }
        if port == 0 {
            return Err(NodeError::Port);
        }
        if let Some(mtu) = mtu
            && mtu < LEAST_MTU
        {
            return Err(NodeError::Mtu(mtu));
        }
        Ok(Self { vtep, mtu, datapath: shown(datapath), reason: shown(reason), is_static })
    }
}

/// What an address is if it cannot be one host's on a wire (RFC 6890, section 2.2.2).
fn not_one_host(address: Ipv4Addr) -> Option<&'static str> {
    if address.octets()[0] == 0 {
        Some("unspecified")
    } else if address.is_loopback() {
        Some("loopback")
    } else if address.is_multicast() {
        Some("multicast")
    } else if address.is_broadcast() {
        Some("broadcast")
    } else if address.octets()[0] >= 240 {
        Some("reserved")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(vtep: &str) -> NodeRecord {
        NodeRecord {
            vtep: vtep.parse().unwrap(),
            port: 4789,
            mtu: None,
            datapath: String::new(),
            reason: String::new(),
            version: String::new(),
            incarnation: 0,
            is_static: false,
        }
    }

    #[test]
    fn only_a_host_on_a_wire_is_a_tunnel_end() {
        assert!(Node::from_record(&record("192.0.2.1")).is_ok());
        for (vtep, says) in [
            ("0.0.0.0", "unspecified"),
            ("127.0.0.1", "loopback"),
            ("239.1.1.1", "multicast"),
            ("255.255.255.255", "broadcast"),
            ("250.0.0.1", "reserved"),
            ("2001:db8::1", "not supported yet"),
        ] {
            let error = Node::from_record(&record(vtep)).unwrap_err().to_string();
            assert!(error.contains(says), "{vtep}: {error}");
        }
    }

    #[test]
    fn impossible_ports_and_mtus_are_refused() {
        assert_eq!(Node::from_record(&NodeRecord { port: 0, ..record("192.0.2.1") }), Err(NodeError::Port));
        let small = NodeRecord { mtu: Some(100), ..record("192.0.2.1") };
        assert_eq!(Node::from_record(&small), Err(NodeError::Mtu(100)));
    }

    #[test]
    fn text_for_people_is_made_safe() {
        let node =
            Node::from_record(&NodeRecord { reason: "a\x1bb".to_owned(), ..record("192.0.2.1") }).unwrap();
        assert_eq!(node.reason, "a\\u{1b}b");
    }
}
