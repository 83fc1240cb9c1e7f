//! Networks: create, list, inspect, remove.

use std::sync::Arc;

use axum::{Json, extract::State as Shared, http::StatusCode};

use super::{
    ApiError, Context, CreateNetwork, Named, Network, NetworkDetail, endpoints,
    request::{Body, Name},
};
use crate::{
    Vni,
    state::{self, NetworkName, State},
    store::NewNetwork,
};

pub async fn create(
    Shared(context): Shared<Arc<Context>>,
    Body(request): Body<CreateNetwork>,
) -> Result<(StatusCode, Json<Network>), ApiError> {
    let vni = request.vni.map(Vni::new).transpose();
    let new = NewNetwork {
        name: request.name.clone(),
        subnet: request.subnet,
        gateway: request.gateway,
        range: request.ip_range,
        vni: vni.map_err(|error| ApiError::invalid(format!("--vni: {error}")))?,
        mtu: request.mtu,
        internal: request.internal,
        allow_overlap: request.allow_overlap,
    };
    let made = context.store.create_network(new).await?;
    context.echo(|state| state.networks.contains_key(&request.name)).await;
    let network = Network {
        name: request.name,
        vni: made.vni,
        subnet: made.subnet,
        gateway: made.gateway,
        ip_range: made.range.unwrap_or(made.subnet),
        mtu: made.mtu,
        internal: made.internal,
        endpoints: 0,
    };
    Ok((StatusCode::CREATED, Json(network)))
}

pub async fn list(Shared(context): Shared<Arc<Context>>) -> Json<Vec<Network>> {
    let state = context.state();
    Json(state.networks.iter().map(|(name, network)| describe(&state, name, network)).collect())
}

pub async fn inspect(
    Shared(context): Shared<Arc<Context>>,
    Name(name): Name<NetworkName>,
) -> Result<Json<NetworkDetail>, ApiError> {
    let state = context.state();
    let network = state.networks.get(&name).ok_or_else(|| unknown(&name))?;
    let members = state
        .endpoints_of(&name)
        .map(|(id, endpoint)| endpoints::describe(&context, &name, id, endpoint))
        .collect();
    Ok(Json(NetworkDetail { network: describe(&state, &name, network), members }))
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

fn describe(state: &State, name: &NetworkName, network: &state::Network) -> Network {
    Network {
        name: name.clone(),
        vni: network.vni.get(),
        subnet: network.subnet,
        gateway: network.gateway,
        ip_range: network.range,
        mtu: network.mtu,
        internal: network.internal,
        endpoints: state.endpoints_of(name).count(),
    }
}
