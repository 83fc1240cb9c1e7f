//! Nodes: list, those of a third party, remove.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State as Shared, http::StatusCode};

use super::{
    AddStaticNode, ApiError, Context, Liveness, Named, Node,
    request::{Body, Name, to_the_end},
};
use crate::state::{NodeName, State};

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
        state: liveness(&state, name),
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
        context.store.remove_node(&name).await?;
        context.echo(|state| !state.nodes.contains_key(&name)).await;
        Ok(Json(Named { name: name.into() }))
    })
    .await
}

/// Whether a node of the state lives.
pub fn liveness(state: &State, name: &NodeName) -> Liveness {
    match state.nodes.get(name) {
        Some(node) if node.is_static => Liveness::Static,
        _ if state.alive.contains(name) => Liveness::Alive,
        _ => Liveness::Suspect,
    }
}
