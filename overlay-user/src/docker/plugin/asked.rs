//! What Docker says of a network that it makes.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use serde_json::Value;

use super::{
    OVERLAYD,
    message::{CreateNetwork, IpamData},
};
use crate::{api::ApiError, config::DockerScope, state::shown};

/// Options of the network that are Docker's own.
const INTERNAL: &str = "com.docker.network.internal";
const IPV6: &str = "com.docker.network.enable_ipv6";

/// The address space of Docker's own IPAM driver for networks that it keeps in a cluster's store.
const SHARED_ADDRESSES: &str = "GlobalDefault";

/// What Docker says about a network's subnets.
pub struct Asked {
    /// The subnets, one of each family at most.
    pub subnets: Vec<IpNet>,
    /// Their gateways, as far as Docker names them.
    pub gateways: Vec<IpAddr>,
    /// Addresses that no endpoint gets, by what they are kept for.
    pub aux: BTreeMap<String, IpAddr>,
    /// No way out to the world.
    pub internal: bool,
    /// Docker gives the addresses itself, from a pool that all nodes share.
    pub by_docker: bool,
}

impl Asked {
    /// Reads a request; what cannot be a network is refused with a cure.
    pub fn read(request: &CreateNetwork, scope: DockerScope) -> Result<Self, ApiError> {
        let is_set = |option: &str| request.options.get(option).and_then(Value::as_bool).unwrap_or(false);
        let mut asked = Self {
            subnets: Vec::new(),
            gateways: Vec::new(),
            aux: BTreeMap::new(),
            internal: is_set(INTERNAL),
            by_docker: false,
        };
        for IpamData { address_space, pool, gateway, aux_addresses } in
            request.four.iter().chain(&request.six)
        {
            if scope == DockerScope::Global && address_space == SHARED_ADDRESSES {
                asked.by_docker = true;
            } else if !address_space.is_empty() && address_space != OVERLAYD {
                return Err(ApiError::invalid(
                    "each node would give out the same addresses: use --ipam-driver overlayd as well (or `overlayctl \
                     network create`, and the network appears in Docker by itself)",
                ));
            }
            asked.subnets.push(parsed("subnet", pool)?);
            if !gateway.is_empty() {
                asked.gateways.push(parsed::<IpNet>("gateway", gateway)?.addr());
            }
            for (name, address) in aux_addresses {
                asked.aux.insert(name.clone(), parsed::<IpNet>("--aux-address", address)?.addr());
            }
        }
        if is_set(IPV6) && request.six.is_empty() {
            return Err(ApiError::invalid("--ipv6 needs an IPv6 subnet: give --subnet for it as well"));
        }
        match &asked.subnets[..] {
            [] => Err(ApiError::invalid("Docker named no subnet: use --ipam-driver overlayd")),
            [_] => Ok(asked),
            [one, other] if one.addr().is_ipv4() != other.addr().is_ipv4() => Ok(asked),
            _ => Err(ApiError::invalid("a network has one subnet of each family, IPv4 and IPv6, at most")),
        }
    }
}

/// Reads a text of Docker's.
pub fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(what: &str, text: &str) -> Result<T, ApiError> {
    text.parse().map_err(|error| ApiError::invalid(format!("the {what} {:?}: {error}", shown(text))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asked_in(scope: DockerScope, options: &Value, four: &Value, six: &Value) -> Result<Asked, String> {
        let request = json!({
            "NetworkID": "0123456789abcdef".repeat(4), "Options": options, "IPv4Data": four, "IPv6Data": six
        });
        Asked::read(&serde_json::from_value(request).unwrap(), scope).map_err(|error| error.error)
    }

    fn asked(options: &Value, four: &Value, six: &Value) -> Result<Asked, String> {
        asked_in(DockerScope::Local, options, four, six)
    }

    #[test]
    fn what_docker_says_about_subnets_is_read() {
        let four = json!([{ "AddressSpace": "overlayd", "Pool": "10.0.9.0/24", "Gateway": "10.0.9.1/24",
                            "AuxAddresses": { "router": "10.0.9.9/24" } }]);
        let six = json!([{ "AddressSpace": "overlayd", "Pool": "fd00::/64" }]);
        let both = json!({ "com.docker.network.internal": true, "com.docker.network.enable_ipv6": true });
        let read = asked(&both, &four, &six).unwrap();
        let texts: Vec<_> = read.subnets.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["10.0.9.0/24", "fd00::/64"]);
        assert_eq!(read.gateways, ["10.0.9.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(read.aux["router"], "10.0.9.9".parse::<IpAddr>().unwrap());
        assert!(read.internal);
    }

    #[test]
    fn what_cannot_be_a_network_is_refused_with_a_cure() {
        let one = |pool: &str| json!([{ "AddressSpace": "overlayd", "Pool": pool }]);
        let two = json!([{ "Pool": "10.0.8.0/24" }, { "Pool": "10.0.9.0/24" }]);
        let six = json!({ "com.docker.network.enable_ipv6": true });
        for (options, four, says) in [
            (
                json!({}),
                json!([{ "AddressSpace": "LocalDefault", "Pool": "10.0.9.0/24" }]),
                "--ipam-driver overlayd",
            ),
            (json!(null), json!(null), "--ipam-driver overlayd"),
            (json!({}), one("10.0.9.0/33"), "the subnet \"10.0.9.0/33\": "),
            (json!({}), one(""), "the subnet \"\": "),
            (json!({}), two, "one subnet of each family"),
            (six, one("10.0.9.0/24"), "--ipv6 needs an IPv6 subnet"),
        ] {
            let error = asked(&options, &four, &json!([])).err().unwrap();
            assert!(error.contains(says), "{four}: {error}");
        }
    }

    #[test]
    fn docker_may_give_addresses_itself_where_all_nodes_share_its_pool() {
        let of = |space: &str| json!([{ "AddressSpace": space, "Pool": "10.0.9.0/24" }]);
        let read = |scope, space| asked_in(scope, &json!({}), &of(space), &json!([]));
        assert!(read(DockerScope::Global, "GlobalDefault").unwrap().by_docker);
        assert!(!read(DockerScope::Global, "overlayd").unwrap().by_docker);
        for (scope, space) in [(DockerScope::Global, "LocalDefault"), (DockerScope::Local, "GlobalDefault")] {
            let error = read(scope, space).err().unwrap();
            assert!(error.contains("--ipam-driver overlayd"), "{error}");
        }
    }
}
