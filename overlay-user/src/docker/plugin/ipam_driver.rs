//! The methods of `IpamDriver`.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use serde_json::Value;

use super::{
    FOLLOWED_PATIENCE, OVERLAYD, PUBLISHED_PATIENCE, Plugin,
    message::{
        AddressGiven, AddressSpaces, Empty, IpamCapabilities, OfPool, Options, PoolGiven, ReleaseAddress,
        RequestAddress, RequestPool,
    },
    network_driver::name_not_told,
    network_of_pool,
    options::ipam_network,
    pool::{Origin, PoolRef},
    unpublished,
};
use crate::{
    api::{ApiError, Kind},
    docker::DockerNetwork,
    state::{Endpoint, Network, NetworkName, Subnet, shown},
    store::NewPool,
};

/// Says what an address is for; there is one kind that is named.
const KIND: &str = "RequestAddressType";
const GATEWAY: &str = "com.docker.network.gateway";

/// The container's name, told from Docker 29.0 on.
const CONTAINER: &str = "com.docker.network.endpoint.name";

/// Where the host's name servers are told, by itself and by systemd-resolved.
const RESOLVERS: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// etcd remembers, so Docker need not tell again what it told.
pub async fn capabilities(_: Arc<Plugin>, _: Empty) -> Result<IpamCapabilities, ApiError> {
    Ok(IpamCapabilities { requires_mac_address: false, requires_request_replay: false })
}

/// The same for both, which newer Dockers take for not having to look for overlaps themselves.
pub async fn address_spaces(_: Arc<Plugin>, _: Empty) -> Result<AddressSpaces, ApiError> {
    Ok(AddressSpaces { local_default_address_space: OVERLAYD, global_default_address_space: OVERLAYD })
}

// === pools ===

pub async fn request_pool(plugin: Arc<Plugin>, request: RequestPool) -> Result<PoolGiven, ApiError> {
    let RequestPool { address_space, pool, sub_pool, options, six } = request;
    if !address_space.is_empty() && address_space != OVERLAYD {
        return Err(ApiError::invalid(format!(
            "{:?} is not overlayd's address space",
            shown(&address_space)
        )));
    }
    let subnet = prefix("--subnet", &pool)?;
    let range = prefix("--ip-range", &sub_pool)?;
    if let (Some(range), None) = (range, subnet) {
        return Err(ApiError::invalid(format!(
            "--ip-range {range} is a part of a subnet: give --subnet as well"
        )));
    }
    let six = subnet.map_or(six, |subnet| subnet.addr().is_ipv6());
    match ipam_network(&options)? {
        Some(name) => plugin.pool_of(name, subnet, range, six).await,
        None if !plugin.names_are_told => Err(name_not_told()),
        None => {
            let claimed =
                plugin.context.store.claim_pool(&plugin.context.node, NewPool { subnet, range, six }).await?;
            Ok(given(&PoolRef { origin: Origin::Claim(claimed.id), six }, &claimed.subnet))
        }
    }
}

pub async fn release_pool(plugin: Arc<Plugin>, request: OfPool) -> Result<Empty, ApiError> {
    // Others' networks stay; so does one whose subnet this was, if it came to be.
    if let Ok(PoolRef { origin: Origin::Claim(id), .. }) = request.pool.parse()
        && let Err(error) = plugin.context.store.release_pool(&plugin.context.node, &id).await
    {
        tracing::debug!(pool = %id, %error, "a subnet is kept until its lease ends");
    }
    Ok(Empty {})
}

impl Plugin {
    /// The pool of a network that is there.
    async fn pool_of(
        &self,
        name: NetworkName,
        wanted: Option<IpNet>,
        range: Option<IpNet>,
        six: bool,
    ) -> Result<PoolGiven, ApiError> {
        let network = self.network_named(&name).await?;
        let subnet = of_family(&name, &network, six)?;
        if let Some(wanted) = wanted.filter(|wanted| *wanted != subnet.net) {
            let text = format!("network {name} has the subnet {}, not {wanted}", subnet.net);
            return Err(ApiError::new(Kind::Conflict, text));
        }
        if let Some(range) = range.filter(|range| *range != subnet.range) {
            let text = format!("network {name} gives addresses from {}, not from {range}", subnet.range);
            return Err(ApiError::new(Kind::Conflict, text));
        }
        if wanted.is_none() {
            self.check_unasked(&name, subnet.net)?;
        }
        Ok(given(&PoolRef { origin: Origin::Network(name), six }, subnet))
    }

    /// Docker up to 26 asks for a subnet that it named none for until it gets one that its host has no route and
    /// no name server in: the only one there is would be refused for ever.
    fn check_unasked(&self, name: &NetworkName, subnet: IpNet) -> Result<(), ApiError> {
        let prefixes = self.prefixes.borrow();
        let route = prefixes.iter().find(|prefix| prefix.contains(&subnet) || subnet.contains(*prefix));
        let what = match route {
            Some(route) => format!("a route to {route}"),
            None => match resolvers().into_iter().find(|resolver| subnet.contains(resolver)) {
                Some(resolver) => format!("the name server {resolver}"),
                None => return Ok(()),
            },
        };
        Err(ApiError::new(
            Kind::Conflict,
            format!(
                "the subnet {subnet} of network {name} overlaps with what this host has, {what}: if that is meant, give \
                 --subnet {subnet}"
            ),
        ))
    }
}

fn given(pool: &PoolRef, subnet: &Subnet) -> PoolGiven {
    let gateway = IpNet::new_assert(subnet.gateway, subnet.net.prefix_len());
    let data = BTreeMap::from([(GATEWAY, gateway.to_string())]);
    PoolGiven { id: pool.to_string(), pool: subnet.net.to_string(), data }
}

fn of_family<'a>(name: &NetworkName, network: &'a Network, six: bool) -> Result<&'a Subnet, ApiError> {
    network.subnets().find(|subnet| subnet.gateway.is_ipv6() == six).ok_or_else(|| {
        let family = if six { "IPv6" } else { "IPv4" };
        ApiError::invalid(format!("network {name} has no {family} subnet"))
    })
}

/// The host's name servers.
fn resolvers() -> Vec<IpAddr> {
    let texts = RESOLVERS.iter().filter_map(|file| std::fs::read_to_string(file).ok());
    texts.flat_map(|text| servers_in(&text)).collect()
}

fn servers_in(text: &str) -> Vec<IpAddr> {
    let server = |line: &str| line.trim().strip_prefix("nameserver")?.split_whitespace().next()?.parse().ok();
    text.lines().filter_map(server).collect()
}

// === addresses ===

pub async fn request_address(plugin: Arc<Plugin>, request: RequestAddress) -> Result<AddressGiven, ApiError> {
    let pool: PoolRef = request.pool.parse()?;
    let wanted = match request.address.as_str() {
        "" => None,
        text => Some(
            text.parse::<IpAddr>()
                .map_err(|_| ApiError::invalid(format!("{:?} is not an IP address", shown(text))))?,
        ),
    };
    let option = |name: &str| request.options.get(name).and_then(Value::as_str);
    let address = if option(KIND) == Some(GATEWAY) {
        plugin.gateway(&pool, wanted).await?
    } else {
        let name = container_name(&request.options);
        plugin.address(&pool, wanted, name).await?
    };
    Ok(AddressGiven { address: address.to_string(), data: Empty {} })
}

pub async fn release_address(plugin: Arc<Plugin>, request: ReleaseAddress) -> Result<Empty, ApiError> {
    // What is kept for gateways and others is the network's, and what an endpoint has goes with that.
    if let (Ok(pool), Ok(address)) = (request.pool.parse(), request.address.parse())
        && let Some((name, _)) = plugin.network_of_pool(&pool)
        && let Err(error) = plugin.context.store.release_address(&name, &plugin.context.node, address).await
    {
        tracing::debug!(%address, network = %name, %error, "an address is kept until its lease ends");
    }
    Ok(Empty {})
}

/// A name of the container that an endpoint can have.
fn container_name(options: &Options) -> Option<&str> {
    options.get(CONTAINER).and_then(Value::as_str).filter(|name| Endpoint::is_name(name))
}

impl Plugin {
    /// The gateway's address: the same on every node, and no endpoint's.
    async fn gateway(&self, pool: &PoolRef, wanted: Option<IpAddr>) -> Result<IpNet, ApiError> {
        if let Some((name, network)) = self.settled(pool).await {
            let subnet = of_family(&name, &network, pool.six)?;
            return match wanted {
                Some(wanted) if wanted != subnet.gateway => Err(ApiError::new(
                    Kind::Conflict,
                    format!("the gateway of network {name} is {}, not {wanted}", subnet.gateway),
                )),
                _ => Ok(in_subnet(subnet, subnet.gateway)),
            };
        }
        let subnet = self.claimed(pool).await?;
        let gateway = wanted.unwrap_or(subnet.gateway);
        subnet.check_host(gateway).map_err(|error| ApiError::invalid(format!("--gateway: {error}")))?;
        Ok(in_subnet(&subnet, gateway))
    }

    /// An address that is kept, while a network is being made and whenever Docker is told of it; or one for a
    /// container.
    async fn address(
        &self,
        pool: &PoolRef,
        wanted: Option<IpAddr>,
        name: Option<&str>,
    ) -> Result<IpNet, ApiError> {
        let (network, found) = match (self.settled(pool).await, wanted) {
            (Some(settled), _) => settled,
            (None, Some(kept)) if !self.is_pending(pool) => {
                let subnet = self.claimed(pool).await?;
                subnet.check_host(kept).map_err(|error| ApiError::invalid(error.to_string()))?;
                return Ok(in_subnet(&subnet, kept));
            }
            (None, _) => {
                let published = self.followed(PUBLISHED_PATIENCE, |state| network_of_pool(state, pool)).await;
                published.ok_or_else(unpublished)?
            }
        };
        if let Some(kept) = wanted.filter(|wanted| found.kept_for(*wanted).is_some()) {
            return Ok(in_subnet(of_family(&network, &found, kept.is_ipv6())?, kept));
        }
        self.context.check_not_drained()?;
        let (store, node) = (&self.context.store, &self.context.node);
        Ok(store.reserve_address(&network, node, name, wanted, pool.six).await?)
    }

    /// The network that a pool is of. One that is named is waited for, since it must be there.
    async fn settled(&self, pool: &PoolRef) -> Option<(NetworkName, Network)> {
        match pool.origin {
            Origin::Network(_) => {
                self.followed(FOLLOWED_PATIENCE, |state| network_of_pool(state, pool)).await
            }
            Origin::Claim(_) => self.network_of_pool(pool),
        }
    }

    /// The subnet of a claim that stands.
    async fn claimed(&self, pool: &PoolRef) -> Result<Subnet, ApiError> {
        let claim = match &pool.origin {
            Origin::Claim(id) => self.context.store.claimed_subnet(id).await?,
            Origin::Network(_) => None,
        };
        claim.ok_or_else(|| {
            ApiError::not_found(format!("the pool {pool} is not kept any more: make the network again"))
        })
    }

    /// Whether Docker has made the network that a pool was claimed for: then it asks for containers.
    fn is_pending(&self, pool: &PoolRef) -> bool {
        let Origin::Claim(id) = &pool.origin else { return false };
        self.registry.now().networks.values().any(|network| match network {
            DockerNetwork::Pending(pending) => pending.pools.contains(id),
            DockerNetwork::Known(_) => false,
        })
    }
}

fn in_subnet(subnet: &Subnet, address: IpAddr) -> IpNet {
    IpNet::new_assert(address, subnet.net.prefix_len())
}

fn prefix(flag: &str, text: &str) -> Result<Option<IpNet>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    let invalid = || ApiError::invalid(format!("{flag} {:?}: give a prefix, as 10.0.9.0/24", shown(text)));
    text.parse().map(Some).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read() {
        let text = "# comment\nsearch example.com\nnameserver 10.0.0.2\n nameserver\tfd00::2 x\nnameserver\nnameserver a\n";
        assert_eq!(servers_in(text), ["10.0.0.2".parse::<IpAddr>().unwrap(), "fd00::2".parse().unwrap()]);
    }

    #[test]
    fn a_name_that_no_endpoint_can_have_is_none() {
        let options = |name: &str| Options::from_iter([(CONTAINER.to_owned(), Value::from(name))]);
        assert_eq!(container_name(&options("web")), Some("web"));
        assert_eq!(container_name(&options("we b")), None);
        assert_eq!(container_name(&Options::new()), None);
    }
}
