//! Nodes: list, those of a third party, drain, remove.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State as Shared, http::StatusCode};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{
    AddStaticNode, ApiError, Context, DrainNode, Drained, Kind, Liveness, Named, Node, detach, endpoints,
    request::{Body, Name, to_the_end},
};
use crate::{
    state::{NodeName, State},
    store::StoreError,
};

/// Endpoints withdrawn at a time when their node is drained.
const AT_A_TIME: usize = 16;

pub async fn list(Shared(context): Shared<Arc<Context>>) -> Json<Vec<Node>> {
    let state = context.state();
    let mut endpoints: BTreeMap<&NodeName, usize> = BTreeMap::new();
    for (node, count) in state.endpoints.by_node() {
        *endpoints.entry(node).or_default() += count;
    }
    let nodes = state.nodes.iter().map(|(name, node)| Node {
        name: name.clone(),
        vtep: node.vtep,
        mtu: node.mtu,
        datapath: node.datapath.clone(),
        reason: node.reason.clone(),
        state: context.liveness(&state, name),
        drained: node.drained,
        endpoints: endpoints.get(name).copied().unwrap_or(0),
        this: *name == context.node,
    });
    Json(nodes.collect())
}

pub async fn add_static(
    Shared(context): Shared<Arc<Context>>,
    Body(request): Body<AddStaticNode>,
) -> Result<(StatusCode, Json<Named>), ApiError> {
    let AddStaticNode { name, vtep, port } = request;
    context.store.add_static_node(&name, vtep, port.unwrap_or(context.port)).await?;
    context.echo(|state| state.nodes.contains_key(&name)).await;
    Ok((StatusCode::CREATED, Json(Named { name: name.into() })))
}

pub async fn remove(
    Shared(context): Shared<Arc<Context>>,
    Name(name): Name<NodeName>,
) -> Result<Json<Named>, ApiError> {
    to_the_end(async move {
        let awaited = context.store.await_no_longer(&name);
        match context.store.remove_node(&name).await {
            // All there was of it is what was known from before the store was lost.
            Err(StoreError::NotFound(_)) if awaited => {}
            removed => removed?,
        }
        context.echo(|state| !state.nodes.contains_key(&name)).await;
        Ok(Json(Named { name: name.into() }))
    })
    .await
}

/// Says whether a node takes new endpoints, and shows those it has. They go on as they are, unless they are to
/// be withdrawn.
pub async fn drain(
    Shared(context): Shared<Arc<Context>>,
    Name(node): Name<NodeName>,
    Body(DrainNode { drained, withdraw }): Body<DrainNode>,
) -> Result<Json<Drained>, ApiError> {
    if withdraw && node != context.node {
        let error = format!(
            "endpoints are withdrawn by their own node: run this on {node}, or, if that node is gone for good, \
             `overlayctl node rm {node}`"
        );
        return Err(ApiError::new(Kind::Conflict, error));
    }
    to_the_end(async move {
        context.store.set_drained(&node, drained).await?;
        context.echo(|state| state.nodes.get(&node).is_none_or(|node| node.drained == drained)).await;
        if withdraw {
            let state = context.state();
            let own = state.endpoints.of_node(&node);
            let own: Vec<_> = own.map(|(network, endpoint)| (network.clone(), endpoint.id.clone())).collect();
            stream::iter(own)
                .map(async |(network, id)| detach::take_off(&context, &network, &id, true).await)
                .buffer_unordered(AT_A_TIME)
                .try_for_each(async |()| Ok(()))
                .await?;
        }
        let state = context.state();
        let left = state.endpoints.of_node(&node);
        let endpoints = left.map(|(network, e)| endpoints::describe(&context, network, e)).collect();
        Ok(Json(Drained { node, drained, endpoints }))
    })
    .await
}

impl Context {
    /// Whether a node of the state lives.
    #[must_use]
    pub fn liveness(&self, state: &State, name: &NodeName) -> Liveness {
        match state.nodes.get(name) {
            Some(node) if node.is_static => Liveness::Static,
            _ if state.alive.contains(name) => Liveness::Alive,
            _ if self.absences.borrow().is_down(name) => Liveness::Down,
            _ => Liveness::Suspect,
        }
    }
}
