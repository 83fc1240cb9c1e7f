//! A node, and the rules its record obeys.

use std::net::IpAddr;

use super::{NodeRecord, shown::shown};

/// The least underlay MTU in bytes: what every IPv4 host takes whole (RFC 791, section 3.1).
const LEAST_MTU: u16 = 576;
/// The least MTU of an IPv6 link in bytes (RFC 8200, section 5).
const LEAST_MTU_V6: u16 = 1280;

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
    /// No endpoint is to be attached there any more.
    pub drained: bool,
}

/// Why a node cannot be as its record says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// Not one host's address.
    #[error("the tunnel address {0} is not one host's: it is {1}")]
    NotOneHost(IpAddr, &'static str),
    /// Port 0.
    #[error("the VXLAN port is 0")]
    Port,
    /// Too small to carry anything.
    #[error("the underlay MTU {0} is below {1}")]
    Mtu(u16, u16),
}

// === impl Node ===

impl Node {
    /// Checks a record and makes a node of it.
    pub fn from_record(record: &NodeRecord) -> Result<Self, NodeError> {
        let NodeRecord { vtep, port, mtu, ref datapath, ref reason, is_static, drained, .. } = *record;
        if let Some(kind) = not_one_host(vtep) {
            return Err(NodeError::NotOneHost(vtep, kind));
        }
        if port == 0 {
            return Err(NodeError::Port);
        }
        let least = if vtep.is_ipv6() { LEAST_MTU_V6 } else { LEAST_MTU };
        if let Some(mtu) = mtu
            && mtu < least
        {
            return Err(NodeError::Mtu(mtu, least));
        }
        Ok(Self { vtep, mtu, datapath: shown(datapath), reason: shown(reason), is_static, drained })
    }
}

/// What an address is if it cannot be that of one host, the same to all others (RFC 6890, section 2.2.2).
#[must_use]
pub fn not_one_host(address: IpAddr) -> Option<&'static str> {
    let kinds = match address {
        IpAddr::V4(v4) => [
            (v4.octets()[0] == 0, "unspecified"),
            (v4.is_loopback(), "loopback"),
            (v4.is_multicast(), "multicast"),
            (v4.is_broadcast(), "broadcast"),
            (v4.octets()[0] >= 240, "reserved"),
        ],
        IpAddr::V6(v6) => [
            (v6.is_unspecified(), "unspecified"),
            (v6.is_loopback(), "loopback"),
            (v6.is_multicast(), "multicast"),
            (v6.is_unicast_link_local(), "link-local"),
            // Also the form in which the maps have IPv4.
            (v6.to_ipv4_mapped().is_some(), "IPv4 written as IPv6"),
        ],
    };
    kinds.into_iter().find_map(|(is, kind)| is.then_some(kind))
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
            host: String::new(),
            moved: 0,
            drained: false,
            prefixes: Vec::new(),
            is_static: false,
        }
    }

    #[test]
    fn only_a_host_on_a_wire_is_a_tunnel_end() {
        for vtep in ["192.0.2.1", "2001:db8::1", "fd00::1"] {
            assert!(Node::from_record(&record(vtep)).is_ok());
        }
        for (vtep, says) in [
            ("0.0.0.0", "unspecified"),
            ("127.0.0.1", "loopback"),
            ("239.1.1.1", "multicast"),
            ("255.255.255.255", "broadcast"),
            ("250.0.0.1", "reserved"),
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("ff02::1", "multicast"),
            ("fe80::1", "link-local"),
            ("::ffff:192.0.2.1", "IPv4 written as IPv6"),
        ] {
            let error = Node::from_record(&record(vtep)).unwrap_err().to_string();
            assert!(error.contains(says), "{vtep}: {error}");
        }
    }

    #[test]
    fn impossible_ports_and_mtus_are_refused() {
        assert_eq!(Node::from_record(&NodeRecord { port: 0, ..record("192.0.2.1") }), Err(NodeError::Port));
        let small = NodeRecord { mtu: Some(100), ..record("192.0.2.1") };
        assert_eq!(Node::from_record(&small), Err(NodeError::Mtu(100, 576)));
        let small = NodeRecord { mtu: Some(1279), ..record("2001:db8::1") };
        assert_eq!(Node::from_record(&small), Err(NodeError::Mtu(1279, 1280)));
    }

    #[test]
    fn text_for_people_is_made_safe() {
        let node =
            Node::from_record(&NodeRecord { reason: "a\x1bb".to_owned(), ..record("192.0.2.1") }).unwrap();
        assert_eq!(node.reason, "a\\u{1b}b");
    }
}
