//! Networks: create, list, inspect, remove.

use std::sync::Arc;

use axum::{Json, extract::State as Shared, http::StatusCode};

use super::{
    ApiError, Context, CreateNetwork, Named, Network, NetworkDetail, SetNetwork, Subnet, endpoints,
    request::{Body, Name},
};
use crate::{
    Vni,
    state::{self, NetworkName, Segment, State},
    store::{NetworkChange, NewNetwork},
};

pub async fn create(
    Shared(context): Shared<Arc<Context>>,
    Body(request): Body<CreateNetwork>,
) -> Result<(StatusCode, Json<Network>), ApiError> {
    let vni = request.vni.map(Vni::new).transpose();
    let new = NewNetwork {
        name: request.name.clone(),
        subnets: request.subnets,
        gateways: request.gateways,
        ranges: request.ip_ranges,
        vni: vni.map_err(|error| ApiError::invalid(format!("--vni: {error}")))?,
        mtu: request.mtu,
        internal: request.internal,
        policy: request.policy,
        allow_overlap: request.allow_overlap,
        aux: request.aux,
        docker: None,
    };
    let made = context.store.create_network(new).await?;
    context.echo(|state| state.networks.contains_key(&request.name)).await;
    Ok((StatusCode::CREATED, Json(describe(&request.name, &made, 0))))
}

pub async fn set(
    Shared(context): Shared<Arc<Context>>,
    Name(name): Name<NetworkName>,
    Body(SetNetwork { mtu, policy }): Body<SetNetwork>,
) -> Result<Json<Network>, ApiError> {
    let made = context.store.set_network(&name, NetworkChange { mtu, policy }).await?;
    let is_set = |network: &state::Network| (network.mtu, network.policy) == (made.mtu, made.policy);
    context.echo(|state| state.networks.get(&name).is_some_and(is_set)).await;
    Ok(Json(describe_in(&context.state(), &name, &made)))
}

pub async fn list(Shared(context): Shared<Arc<Context>>) -> Json<Vec<Network>> {
    let state = context.state();
    Json(state.networks.iter().map(|(name, network)| describe_in(&state, name, network)).collect())
}

pub async fn inspect(
    Shared(context): Shared<Arc<Context>>,
    Name(name): Name<NetworkName>,
) -> Result<Json<NetworkDetail>, ApiError> {
    let state = context.state();
    let network = state.networks.get(&name).ok_or_else(|| unknown(&name))?;
    let members =
        state.endpoints_of(&name).map(|endpoint| endpoints::describe(&context, &name, endpoint)).collect();
    Ok(Json(NetworkDetail { network: describe_in(&state, &name, network), members }))
}

pub async fn remove(
    Shared(context): Shared<Arc<Context>>,
    Name(name): Name<NetworkName>,
) -> Result<Json<Named>, ApiError> {
    context.store.remove_network(&name).await?;
    context.echo(|state| !state.networks.contains_key(&name)).await;
    Ok(Json(Named { name: name.into() }))
}

pub fn unknown(name: &NetworkName) -> ApiError {
    ApiError::not_found(format!(
        "there is no network {name}: `overlayctl network ls` lists those there are, `overlayctl network create` makes one"
    ))
}

fn describe_in(state: &State, name: &NetworkName, network: &state::Network) -> Network {
    describe(name, network, state.endpoints.segment(name).map_or(0, Segment::len))
}

fn describe(name: &NetworkName, network: &state::Network, endpoints: usize) -> Network {
    Network {
        name: name.clone(),
        vni: network.vni.get(),
        subnet: subnet(network.subnet),
        dual: network.dual.map(subnet),
        mtu: network.mtu,
        internal: network.internal,
        aux: network.aux.clone(),
        policy: network.policy,
        endpoints,
    }
}

const fn subnet(subnet: state::Subnet) -> Subnet {
    Subnet { subnet: subnet.net, gateway: subnet.gateway, ip_range: subnet.range }
}
