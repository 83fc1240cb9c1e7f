//! Docker's networks, as far as they are anything to an overlay.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use bollard::models::{EndpointResource, Ipam, IpamConfig, Network, NetworkCreateRequest, NetworkInspect};
use ipnet::IpNet;

use crate::{
    docker::{DockerNetworkId, NETWORK},
    state::{self, NetworkName, Subnet},
};

/// A network of Docker's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineNetwork {
    /// Its id.
    pub id: DockerNetworkId,
    /// Its name.
    pub name: String,
    /// Its driver.
    pub driver: String,
    /// No way out to the world.
    pub internal: bool,
    /// Its subnets, of whichever family.
    pub subnets: Vec<EngineSubnet>,
    /// The driver's options.
    pub options: BTreeMap<String, String>,
    /// The containers on it, by name; of one that was asked for only.
    pub containers: Vec<String>,
}

/// A subnet of a network of Docker's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineSubnet {
    /// The prefix.
    pub net: IpNet,
    /// Its gateway, if dockerd says.
    pub gateway: Option<IpAddr>,
    /// Where addresses are taken from, if not from all of it.
    pub range: Option<IpNet>,
    /// Addresses kept from containers, by the names they are kept for.
    pub aux: BTreeMap<String, IpAddr>,
}

/// A network of the cluster that is to be made in Docker.
#[derive(Clone, Debug)]
pub struct NewEngineNetwork {
    name: NetworkName,
    driver: String,
    network: state::Network,
}

// === impl EngineNetwork ===

impl EngineNetwork {
    /// One of a list; `None` if it has no name or id.
    pub(super) fn listed(network: Network) -> Option<Self> {
        let Network { name, id, driver, ipam, internal, options, .. } = network;
        Some(Self {
            id: id?.parse().ok()?,
            name: name?,
            driver: driver.unwrap_or_default(),
            internal: internal.unwrap_or_default(),
            subnets: subnets(ipam),
            options: options.into_iter().flatten().collect(),
            containers: Vec::new(),
        })
    }

    /// One that was asked for.
    pub(super) fn inspected(network: NetworkInspect) -> Option<Self> {
        let NetworkInspect { name, id, driver, ipam, internal, options, containers, .. } = network;
        let network = Network { name, id, driver, ipam, internal, options, ..Network::default() };
        let mut containers: Vec<_> = containers.into_iter().flatten().map(called).collect();
        containers.sort_unstable();
        Some(Self { containers, ..Self::listed(network)? })
    }

    /// Which network of the cluster it was made for.
    #[must_use]
    pub fn made_for(&self) -> Option<NetworkName> {
        self.options.get(NETWORK)?.parse().ok()
    }

    /// Whether it is what `network` would be in Docker, as far as dockerd tells.
    #[must_use]
    pub fn is_like(&self, network: &state::Network) -> bool {
        let same = |subnet: &EngineSubnet| {
            network.subnets().any(|other| {
                other.net == subnet.net && subnet.gateway.is_none_or(|gateway| gateway == other.gateway)
            })
        };
        self.internal == network.internal
            && self.subnets.len() == network.subnets().count()
            && self.subnets.iter().all(same)
    }
}

/// What a container on a network is called.
fn called((id, endpoint): (String, EndpointResource)) -> String {
    endpoint.name.filter(|name| !name.is_empty()).unwrap_or(id)
}

/// The subnets of which dockerd tells something that makes sense.
fn subnets(ipam: Option<Ipam>) -> Vec<EngineSubnet> {
    ipam.and_then(|ipam| ipam.config).into_iter().flatten().filter_map(EngineSubnet::new).collect()
}

// === impl EngineSubnet ===

impl EngineSubnet {
    fn new(config: IpamConfig) -> Option<Self> {
        let IpamConfig { subnet, ip_range, gateway, auxiliary_addresses } = config;
        let net: IpNet = subnet?.parse().ok()?;
        let aux = auxiliary_addresses.into_iter().flatten();
        Some(Self {
            net,
            gateway: gateway.and_then(|gateway| address(&gateway)),
            range: ip_range.and_then(|range| range.parse().ok()).filter(|range| *range != net),
            aux: aux.filter_map(|(name, kept)| Some((name, address(&kept)?))).collect(),
        })
    }
}

/// An address, which Docker writes with a prefix length at times.
fn address(text: &str) -> Option<IpAddr> {
    text.split('/').next()?.parse().ok()
}

// === impl NewEngineNetwork ===

impl NewEngineNetwork {
    /// What a network of the cluster is in Docker, with the plugin as `driver` of both kinds.
    #[must_use]
    pub fn new(name: NetworkName, network: state::Network, driver: &str) -> Self {
        Self { name, driver: driver.to_owned(), network }
    }

    pub(super) fn into_request(self) -> NetworkCreateRequest {
        let Self { name, driver, network } = self;
        let of_network = || HashMap::from([(NETWORK.to_owned(), name.to_string())]);
        let config = network.subnets().map(|subnet| config(subnet, &network)).collect();
        let (four, six) = (network.subnets().any(is_four), network.subnets().any(|subnet| !is_four(subnet)));
        NetworkCreateRequest {
            name: name.to_string(),
            driver: Some(driver.clone()),
            internal: Some(network.internal),
            // Dockers before 28 do not know it, and have IPv4 always.
            enable_ipv4: (!four).then_some(false),
            enable_ipv6: Some(six),
            ipam: Some(Ipam { driver: Some(driver), config: Some(config), options: Some(of_network()) }),
            options: Some(of_network()),
            labels: Some(of_network()),
            ..NetworkCreateRequest::default()
        }
    }
}

fn config(subnet: &Subnet, network: &state::Network) -> IpamConfig {
    let aux = network.aux.iter().filter(|(_, kept)| subnet.net.contains(*kept));
    IpamConfig {
        subnet: Some(subnet.net.to_string()),
        ip_range: (subnet.range != subnet.net).then(|| subnet.range.to_string()),
        gateway: Some(subnet.gateway.to_string()),
        auxiliary_addresses: Some(aux.map(|(name, kept)| (name.clone(), kept.to_string())).collect()),
    }
}

fn is_four(subnet: &Subnet) -> bool {
    subnet.gateway.is_ipv4()
}
