//! Endpoints: list, inspect, and those behind a third party's VTEP.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Query, State as Shared, rejection::QueryRejection},
    http::StatusCode,
};
use serde::Deserialize;

use super::{
    AddStaticEndpoint, ApiError, Context, Endpoint, EndpointDetail, EndpointRef, Named, networks,
    reference::Found,
    request::{Body, Name},
};
use crate::state::{self, NetworkName};

/// Which endpoints to list.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    network: Option<NetworkName>,
}

pub async fn list(
    Shared(context): Shared<Arc<Context>>,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Result<Json<Vec<Endpoint>>, ApiError> {
    let Query(filter) = filter.map_err(|rejection| ApiError::invalid(rejection.body_text()))?;
    let state = context.state();
    if let Some(name) = &filter.network
        && !state.networks.contains_key(name)
    {
        return Err(networks::unknown(name));
    }
    let wanted = |name: &NetworkName| filter.network.as_ref().is_none_or(|network| network == name);
    let endpoints = state.endpoints.iter().filter(|(network, _)| wanted(network));
    Ok(Json(endpoints.map(|(network, endpoint)| describe(&context, network, endpoint)).collect()))
}

pub async fn inspect(
    Shared(context): Shared<Arc<Context>>,
    Name(reference): Name<EndpointRef>,
) -> Result<Json<EndpointDetail>, ApiError> {
    let state = context.state();
    let Found { network, endpoint } = reference.find(&state)?;
    let traffic = if endpoint.node == context.node {
        Some(context.counters().await?.endpoints.get(&endpoint.id).copied().unwrap_or_default())
    } else {
        None
    };
    let vni = state.networks.get(network).map_or(0, |network| network.vni.get());
    Ok(Json(EndpointDetail { endpoint: describe(&context, network, endpoint), vni, traffic }))
}

pub async fn add_static(
    Shared(context): Shared<Arc<Context>>,
    Body(request): Body<AddStaticEndpoint>,
) -> Result<(StatusCode, Json<Named>), ApiError> {
    let AddStaticEndpoint { network, node, ips, mac, names } = request;
    if !mac.is_unicast() {
        return Err(ApiError::invalid(format!("{mac} cannot be an interface's: give a unicast address")));
    }
    if ips.is_empty() {
        return Err(ApiError::invalid("an endpoint has an address: give --ip"));
    }
    let names = names.into_iter().map(String::from).collect();
    let id = context.store.add_static_endpoint(&network, &node, ips, mac, names).await?;
    context.echo(|state| state.endpoint(&network, &id).is_some()).await;
    Ok((StatusCode::CREATED, Json(Named { name: id.into() })))
}

pub fn describe(context: &Context, network: &NetworkName, endpoint: &state::Endpoint) -> Endpoint {
    Endpoint {
        id: endpoint.id.clone(),
        network: network.clone(),
        node: endpoint.node.clone(),
        addresses: endpoint.addresses.to_vec(),
        mac: endpoint.mac,
        names: endpoint.names().map(str::to_owned).collect(),
        delivery: endpoint.delivery,
        host_device: (endpoint.node == context.node).then(|| endpoint.id.host_device()),
    }
}
