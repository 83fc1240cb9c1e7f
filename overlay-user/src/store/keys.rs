//! The keys of one cluster.
//!
//! | key | value |
//! |---|---|
//! | `meta`, `networks/<name>`, `nodes/<node>`, `alive/<node>`, `endpoints/<network>/<id>` | [records](crate::state) |
//! | `vnis/<8 decimal digits>` | the name of the network that has it |
//! | `subnets/guard` | how many networks were created; written with each |
//! | `addresses/<network>/<8 or 32 hexadecimal digits>` | [`AddressRecord`](crate::state::AddressRecord); those of a family sort as addresses do |
//! | `ports/<network>/<id>`, `learned/<network>/<12 hexadecimal digits>` | [records](crate::state) |
//! | `macs/<network>/<12 hexadecimal digits>` | the identity of the endpoint that has it |
//! | `pools/<12 hexadecimal digits>` | [`PoolRecord`](crate::state::PoolRecord) |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::call::end_of;
use crate::{
    MacAddr, Vni,
    state::{EndpointId, NetworkName, NodeName, PoolId, RecordKey},
};

/// Makes the keys of one cluster.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
}

// === impl Keys ===

impl Keys {
    pub fn new(cluster: &str) -> Self {
        Self { prefix: format!("/overlay/v1/{cluster}/") }
    }

    /// What all keys begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// From where up to but not including where there are keys of records, those of networks and nodes before those
    /// of endpoints, which are judged by them. Addresses and MAC addresses, two for each endpoint, are
    /// allocation's alone.
    pub fn of_records(&self) -> [(Vec<u8>, Vec<u8>); 3] {
        let (addresses, macs) = (self.at("addresses/"), self.at("macs/"));
        [
            (end_of(&macs), end_of(&self.prefix)),
            (self.prefix.clone().into_bytes(), addresses.clone().into_bytes()),
            (end_of(&addresses), macs.clone().into_bytes()),
        ]
    }

    /// The other keys: of addresses and of MAC addresses.
    pub fn of_addresses(&self) -> [(Vec<u8>, Vec<u8>); 2] {
        [self.at("addresses/"), self.at("macs/")].map(|prefix| (prefix.clone().into_bytes(), end_of(&prefix)))
    }

    /// A key of this cluster without the prefix.
    pub fn relative<'a>(&self, key: &'a [u8]) -> Option<&'a [u8]> {
        key.strip_prefix(self.prefix.as_bytes())
    }

    pub fn meta(&self) -> String {
        self.at("meta")
    }

    pub fn networks(&self) -> String {
        self.at("networks/")
    }

    pub fn network(&self, name: &NetworkName) -> String {
        self.at(&RecordKey::of_network(name))
    }

    pub fn vnis(&self) -> String {
        self.at("vnis/")
    }

    pub fn vni(&self, vni: Vni) -> String {
        self.at(&format!("vnis/{:08}", vni.get()))
    }

    pub fn guard(&self) -> String {
        self.at("subnets/guard")
    }

    pub fn pools(&self) -> String {
        self.at("pools/")
    }

    pub fn pool(&self, id: &PoolId) -> String {
        self.at(&format!("pools/{id}"))
    }

    pub fn nodes(&self) -> String {
        self.at("nodes/")
    }

    pub fn node(&self, name: &NodeName) -> String {
        self.at(&RecordKey::of_node(name))
    }

    pub fn alive(&self, name: &NodeName) -> String {
        self.at(&RecordKey::of_alive(name))
    }

    pub fn addresses(&self, network: &NetworkName) -> String {
        self.at(&format!("addresses/{network}/"))
    }

    pub fn address(&self, network: &NetworkName, address: IpAddr) -> String {
        match address {
            IpAddr::V4(v4) => format!("{}{:08x}", self.addresses(network), v4.to_bits()),
            IpAddr::V6(v6) => format!("{}{:032x}", self.addresses(network), v6.to_bits()),
        }
    }

    /// [`Self::address`] without the prefix.
    pub fn relative_address(&self, network: &NetworkName, address: IpAddr) -> String {
        self.address(network, address).split_off(self.prefix.len())
    }

    /// [`Self::mac`] without the prefix.
    pub fn relative_mac(&self, network: &NetworkName, mac: MacAddr) -> String {
        self.mac(network, mac).split_off(self.prefix.len())
    }

    /// The address a key of [`Self::addresses`] is for.
    pub fn address_in(&self, network: &NetworkName, key: &[u8]) -> Option<IpAddr> {
        let digits = str::from_utf8(key.strip_prefix(self.addresses(network).as_bytes())?).ok()?;
        match digits.len() {
            8 => Some(Ipv4Addr::from_bits(u32::from_str_radix(digits, 16).ok()?).into()),
            32 => Some(Ipv6Addr::from_bits(u128::from_str_radix(digits, 16).ok()?).into()),
            _ => None,
        }
    }

    pub fn macs(&self, network: &NetworkName) -> String {
        self.at(&format!("macs/{network}/"))
    }

    pub fn mac(&self, network: &NetworkName, mac: MacAddr) -> String {
        format!("{}{}", self.macs(network), mac.to_string().replace(':', ""))
    }

    pub fn all_endpoints(&self) -> String {
        self.at("endpoints/")
    }

    pub fn endpoints(&self, network: &NetworkName) -> String {
        self.at(&format!("endpoints/{network}/"))
    }

    pub fn endpoint(&self, network: &NetworkName, id: &EndpointId) -> String {
        self.at(&RecordKey::of_endpoint(network, id))
    }

    pub fn ports(&self, network: &NetworkName) -> String {
        self.at(&format!("ports/{network}/"))
    }

    pub fn all_ports(&self) -> String {
        self.at("ports/")
    }

    pub fn port(&self, network: &NetworkName, id: &EndpointId) -> String {
        self.at(&RecordKey::of_port(network, id))
    }

    pub fn all_learned(&self, network: &NetworkName) -> String {
        self.at(&format!("learned/{network}/"))
    }

    pub fn learned(&self, network: &NetworkName, mac: MacAddr) -> String {
        self.at(&RecordKey::of_learned(network, mac))
    }

    fn at(&self, rest: &str) -> String {
        format!("{}{rest}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_addresses_sort_as_addresses_do() {
        let keys = Keys::new("default");
        let network = "blue".parse().unwrap();
        let key = |text: &str| keys.address(&network, text.parse().unwrap());
        assert_eq!(key("10.0.9.2"), "/overlay/v1/default/addresses/blue/0a000902");
        assert!(key("9.255.255.255") < key("10.0.0.0") && key("10.0.9.9") < key("10.0.9.10"));
        assert_eq!(key("fd00::2"), "/overlay/v1/default/addresses/blue/fd000000000000000000000000000002");
        assert!(key("fd00::9") < key("fd00::10"));
        for text in ["10.0.9.2", "fd00::2"] {
            assert_eq!(keys.address_in(&network, key(text).as_bytes()), text.parse().ok());
        }
        assert_eq!(keys.address_in(&network, b"/overlay/v1/default/addresses/blue/0a0009"), None);
    }

    #[test]
    fn keys_are_read_back() {
        let keys = Keys::new("default");
        let key = keys.mac(&"blue".parse().unwrap(), MacAddr([2, 0x42, 10, 0, 9, 2]));
        assert_eq!(keys.relative(key.as_bytes()), Some(&b"macs/blue/02420a000902"[..]));
        assert_eq!(keys.relative(b"/overlay/v1/other/meta"), None);
    }
}
