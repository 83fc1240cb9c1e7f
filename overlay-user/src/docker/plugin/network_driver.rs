//! The methods of `NetworkDriver`.

use std::sync::Arc;

use ipnet::IpNet;
use serde_json::Value;

use super::{
    Plugin,
    asked::{Asked, parsed},
    message::{
        Chosen, CreateEndpoint, CreateNetwork, Empty, EndpointCreated, EndpointFacts, EndpointInfo,
        GatewaysSkipped, InterfaceName, Join, Joined, NetworkCapabilities, OfEndpoint, OfNetwork, Options,
    },
    network_in,
    options::{NETWORK, NetworkOptions},
};
use crate::{
    MacAddr,
    api::{
        ApiError, Kind, detach,
        making::{self, Addresses, Wanted},
        request::to_the_end,
    },
    config::DockerScope,
    device,
    docker::{DockerEndpoint, DockerEndpointId, DockerNetwork, DockerNetworkId, PendingNetwork},
    state::{Delivery, NetworkName, PoolRecord, shown},
    store::{NewPool, StoreHealth},
};

/// The option of the network that has the driver's own.
const GENERIC: &str = "com.docker.network.generic";

/// The longest path there can be, with its zero at the end (`PATH_MAX`).
const LONGEST_PATH: usize = 4095;

pub async fn capabilities(plugin: Arc<Plugin>, _: Empty) -> Result<NetworkCapabilities, ApiError> {
    let scope = match plugin.scope {
        DockerScope::Local => "local",
        DockerScope::Global => "global",
    };
    Ok(NetworkCapabilities { scope, connectivity_scope: "global" })
}

/// A gateway is an address that nobody else gets, so none is left out.
pub async fn check_gateways(_: Arc<Plugin>, _: Empty) -> Result<GatewaysSkipped, ApiError> {
    Ok(GatewaysSkipped { four: false, six: false })
}

/// Swarm's managers ask for networks for their workers; it does not take plugins like this one.
pub async fn allocate_network(_: Arc<Plugin>, _: Empty) -> Result<Empty, ApiError> {
    Err(ApiError::invalid(
        "overlayd has no Swarm networks: make one without Swarm, with `docker network create`",
    ))
}

/// What there is nothing to do about.
pub async fn nothing(_: Arc<Plugin>, _: Empty) -> Result<Empty, ApiError> {
    Ok(Empty {})
}

// === networks ===

pub async fn create_network(plugin: Arc<Plugin>, request: CreateNetwork) -> Result<Empty, ApiError> {
    if plugin.registry.network(&request.network).is_some() {
        return Ok(Empty {});
    }
    let id = request.network.clone();
    let none = Options::new();
    let generic = request.options.get(GENERIC).and_then(Value::as_object).unwrap_or(&none);
    let options = NetworkOptions::read(generic)?;
    let asked = Asked::read(&request, plugin.scope)?;
    let network = match &options.network {
        Some(name) => DockerNetwork::Known(plugin.one_of_ours(name, &options, &asked).await?),
        None => DockerNetwork::Pending(plugin.new_one(&id, options, asked).await?),
    };
    plugin.registry.set_network(id, network).map_err(|error| not_kept(&error))?;
    Ok(Empty {})
}

pub async fn delete_network(plugin: Arc<Plugin>, request: OfNetwork) -> Result<Empty, ApiError> {
    let id = request.network;
    // Made on another node a moment ago: who follows Docker's events is to know what is removed.
    if plugin.names_are_told
        && plugin.registry.network(&id).is_none()
        && let Some(name) = network_in(&plugin.context.state(), &id)
    {
        plugin.registry.set_network(id, DockerNetwork::Known(name)).map_err(|error| not_kept(&error))?;
        return Ok(Empty {});
    }
    // Whose name is known is forgotten by who follows Docker's events, once it is removed everywhere.
    if !plugin.names_are_told || matches!(plugin.registry.network(&id), Some(DockerNetwork::Pending(_))) {
        plugin.registry.forget_network(&id).map_err(|error| not_kept(&error))?;
    }
    Ok(Empty {})
}

impl Plugin {
    /// Checks that what Docker has is the network of ours that it says it is.
    async fn one_of_ours(
        &self,
        name: &NetworkName,
        options: &NetworkOptions,
        asked: &Asked,
    ) -> Result<NetworkName, ApiError> {
        if *options != (NetworkOptions { network: Some(name.clone()), ..NetworkOptions::default() }) {
            return Err(ApiError::invalid(format!(
                "network {name} is there: give no other -o than {NETWORK}, and change it with `overlayctl network set \
                 {name}`"
            )));
        }
        let network = self.network_named(name).await?;
        let own: Vec<_> = network.subnets().map(|subnet| subnet.net).collect();
        if let Some(other) = asked.subnets.iter().find(|subnet| !own.contains(subnet)) {
            let own: Vec<_> = own.iter().map(ToString::to_string).collect();
            return Err(ApiError::new(
                Kind::Conflict,
                format!(
                    "network {name} has the subnet {}, not {other}: give --ipam-opt {NETWORK}={name} as well",
                    own.join(" and ")
                ),
            ));
        }
        Ok(name.clone())
    }

    /// Notes what is to become a network as soon as its name is known, if it can become one.
    async fn new_one(
        &self,
        id: &DockerNetworkId,
        options: NetworkOptions,
        asked: Asked,
    ) -> Result<PendingNetwork, ApiError> {
        if !self.names_are_told {
            return Err(name_not_told());
        }
        let NetworkOptions { network: _, vni, mtu, policy } = options;
        let Asked { subnets, gateways, aux, internal, by_docker } = asked;
        let (store, node) = (&self.context.store, &self.context.node);
        if by_docker {
            // Docker has asked its own driver for them.
            for &subnet in &subnets {
                let six = subnet.addr().is_ipv6();
                store.claim_pool(node, NewPool { subnet: Some(subnet), range: None, six }).await?;
            }
        }
        let claims = store.pools_of(node).await?;
        let (mut pools, mut ranges) = (Vec::new(), Vec::new());
        for subnet in &subnets {
            let claim = claims.iter().find(|(_, pool)| pool.subnet == *subnet);
            let (id, PoolRecord { range, .. }) = claim.ok_or_else(|| {
                let text = format!("the subnet {subnet} is not kept for this network any more: try again");
                ApiError::new(Kind::Conflict, text)
            })?;
            pools.push(id.clone());
            ranges.extend(range);
        }
        let docker = (self.scope == DockerScope::Global).then(|| id.clone());
        let pending =
            PendingNetwork { pools, subnets, gateways, ranges, aux, internal, vni, mtu, policy, docker };
        // Whatever can be wrong with it is said now, to who types: later there is only a log. Its name is
        // the one thing that is not known.
        let stand_in = id.as_str()[..12].parse().map_err(|_| ApiError::invalid("no identity"))?;
        store.check_network(&pending.named(stand_in)?, &pending.pools).await?;
        Ok(pending)
    }
}

/// The error for a network whose name nobody would learn.
pub fn name_not_told() -> ApiError {
    ApiError::invalid(format!(
        "overlayd does not follow Docker here (--docker none), so the other nodes would not learn the network's name: \
         make it with `overlayctl network create NAME`, then here with -o {NETWORK}=NAME --ipam-opt {NETWORK}=NAME"
    ))
}

// === endpoints ===

pub async fn create_endpoint(
    plugin: Arc<Plugin>,
    request: CreateEndpoint,
) -> Result<EndpointCreated, ApiError> {
    let CreateEndpoint { network, endpoint: id, interface } = request;
    let mac = match interface.mac.as_str() {
        "" => None,
        text => Some(text.parse::<MacAddr>().ok().filter(|mac| mac.is_unicast()).ok_or_else(|| {
            ApiError::invalid(format!("{} is not the MAC address of one interface", shown(text)))
        })?),
    };
    // A field that was set must not come back.
    let created = |chosen: MacAddr| {
        let mac_address = mac.is_none().then(|| chosen.to_string());
        EndpointCreated { interface: Chosen { mac_address } }
    };
    let _turn = plugin.turns.wait(&id).await;
    if let Some(DockerEndpoint { network, endpoint, mac, .. }) = plugin.registry.endpoint(&id)
        && plugin.context.state().endpoint(&network, &endpoint).is_some()
    {
        return Ok(created(mac));
    }
    let network = plugin.network_of(&network).await?;
    plugin.context.check_not_drained()?;
    let given = [&interface.four, &interface.six].into_iter().filter(|address| !address.is_empty());
    let addresses = given.map(|text| Ok(parsed::<IpNet>("address", text)?.addr()));
    let addresses = addresses.collect::<Result<Vec<_>, ApiError>>()?;
    if addresses.is_empty() {
        return Err(ApiError::invalid("Docker gave the container no address: use --ipam-driver overlayd"));
    }
    let wanted = Wanted {
        network,
        addresses: Addresses::TakeOver(addresses),
        mac,
        names: Vec::new(),
        delivery: Delivery::Tc,
        inside: None,
    };
    let registry = Arc::clone(&plugin.registry);
    let keep = move |made: &crate::api::Attached| {
        let (network, endpoint, mac) = (made.network.clone(), made.id.clone(), made.mac);
        let kept = registry.set_endpoint(id, DockerEndpoint { network, endpoint, mac, sandbox: None });
        kept.map_err(|error| not_kept(&error))
    };
    let made = making::make(Arc::clone(&plugin.context), wanted, keep).await?;
    Ok(created(made.mac))
}

pub async fn endpoint_info(plugin: Arc<Plugin>, request: OfEndpoint) -> Result<EndpointInfo, ApiError> {
    let context = &plugin.context;
    let state = context.state();
    let endpoint = plugin.registry.endpoint(&request.endpoint);
    let network = endpoint.and_then(|endpoint| state.networks.get(&endpoint.network));
    let value = EndpointFacts {
        vni: network.map(|network| network.vni.get()),
        vtep: context.underlay.borrow().addr.to_string(),
        mtu: network.and_then(|network| making::interface_mtu(context, network).ok()),
        datapath: context.mode.name().to_owned(),
    };
    Ok(EndpointInfo { value })
}

pub async fn join(plugin: Arc<Plugin>, request: Join) -> Result<Joined, ApiError> {
    let Join { endpoint: id, sandbox } = request;
    if !sandbox.is_absolute() || sandbox.as_os_str().len() > LONGEST_PATH {
        return Err(ApiError::invalid(format!("{:?} is not the path of a sandbox", sandbox.display())));
    }
    let _turn = plugin.turns.wait(&id).await;
    let Some(endpoint) = plugin.registry.endpoint(&id) else {
        return Err(ApiError::not_found(format!(
            "overlayd has no endpoint {id:.12}: start the container again"
        )));
    };
    plugin.registry.set_sandbox(&id, Some(sandbox.clone())).map_err(|error| not_kept(&error))?;
    let joined = Joined {
        interface_name: InterfaceName { src_name: endpoint.endpoint.peer_device(), dst_prefix: "eth" },
    };
    // So that its MTU can follow the network's. Nobody has to wait for that.
    let context = Arc::clone(&plugin.context);
    tokio::spawn(async move {
        let DockerEndpoint { network, endpoint, .. } = &endpoint;
        let container = sandbox.display().to_string();
        let noted = context.store.set_endpoint_container(&context.node, network, endpoint, &container).await;
        if let Err(error) = noted {
            tracing::warn!(%endpoint, %network, %error, "its MTU will not follow the network's");
        }
    });
    Ok(joined)
}

pub async fn leave(plugin: Arc<Plugin>, request: OfEndpoint) -> Result<Empty, ApiError> {
    let _turn = plugin.turns.wait(&request.endpoint).await;
    plugin.registry.set_sandbox(&request.endpoint, None).map_err(|error| not_kept(&error))?;
    Ok(Empty {})
}

pub async fn delete_endpoint(plugin: Arc<Plugin>, request: OfEndpoint) -> Result<Empty, ApiError> {
    // To the end: an interface without a record would stay for good.
    to_the_end(async move { plugin.take_off(request.endpoint).await }).await.map(|()| Empty {})
}

impl Plugin {
    /// Takes an endpoint of Docker's off its network. Without error if there is none.
    pub async fn take_off(&self, id: DockerEndpointId) -> Result<(), ApiError> {
        let _turn = self.turns.wait(&id).await;
        let Some(DockerEndpoint { network, endpoint, .. }) = self.registry.endpoint(&id) else {
            return Ok(());
        };
        let answers = self.context.followed.borrow().health == StoreHealth::Synced;
        let taken_off = if answers {
            detach::take_off(&self.context, &network, &endpoint, true).await
        } else {
            Err(ApiError::new(Kind::Unavailable, "etcd is away"))
        };
        match taken_off {
            Ok(()) => {}
            // Docker forgets the endpoint whatever it is told. Without its interface this node gives it up
            // as soon as etcd is there.
            Err(error) if error.kind == Kind::Unavailable => {
                tracing::warn!(%endpoint, %network, %error, "Docker has removed it; it is given up when etcd is back");
                device::remove(&endpoint.host_device()).await?;
            }
            Err(error) => return Err(error),
        }
        self.registry.forget_endpoint(&id).map_err(|error| not_kept(&error))
    }
}

fn not_kept(error: &std::io::Error) -> ApiError {
    ApiError::new(Kind::Internal, format!("overlayd cannot keep what Docker says: {error}"))
}
