//! Detaching an endpoint: the record first, so that nobody sends to an interface that is going.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State as Shared};
use backon::{ExponentialBuilder, Retryable};

use super::{ApiError, Context, EndpointRef, Kind, Named, reference::Found, request::Name};
use crate::{
    device,
    state::{EndpointId, NetworkName},
    store::StoreError,
};

pub async fn detach(
    Shared(context): Shared<Arc<Context>>,
    Name(reference): Name<EndpointRef>,
) -> Result<Json<Named>, ApiError> {
    let state = context.state();
    let found = match reference.find(&state) {
        Ok(found) => found,
        Err(error) => {
            // Whole identities are detached twice without error: whoever asks wants it gone.
            let Some(id) = reference.full_id() else { return Err(error) };
            device::remove(&id.host_device()).await?;
            return Ok(Json(Named { name: id.into() }));
        }
    };
    let Found { network, id, endpoint } = found;
    let elsewhere = endpoint.node != context.node;
    if elsewhere && state.nodes.get(&endpoint.node).is_some_and(|node| !node.is_static) {
        let node = &endpoint.node;
        let error = format!(
            "{reference} is on {node}: detach it there, or, if that node is gone for good, `overlayctl node rm {node}`"
        );
        return Err(ApiError::new(Kind::Conflict, error));
    }
    let revision = context.store.remove_endpoint(network, id).await?;
    // The data path lets go of the interface before it goes.
    context.applied(revision).await;
    if !elsewhere {
        device::remove(&id.host_device()).await?;
    }
    tracing::info!(endpoint = %id, %network, "endpoint detached");
    Ok(Json(Named { name: id.as_str().to_owned() }))
}

/// Withdraws an endpoint that did not come to be. Where the store does not answer within `patience`
/// it goes on trying behind the caller's back: a record without an interface would attract traffic
/// for ever.
pub async fn withdraw_surely(
    context: &Arc<Context>,
    network: &NetworkName,
    id: &EndpointId,
    patience: Duration,
) {
    let (context, network, id) = (Arc::clone(context), network.clone(), id.clone());
    let attempts = tokio::spawn(async move {
        let withdraw = || context.store.remove_endpoint(&network, &id);
        let withdrawn = withdraw
            .retry(ExponentialBuilder::default().without_max_times().with_jitter())
            .when(|error| matches!(error, StoreError::Unreachable(_)))
            .notify(|error, _| tracing::warn!(endpoint = %id, %error, "its record is not withdrawn yet"))
            .await;
        if let Err(error) = withdrawn {
            tracing::error!(endpoint = %id, %error, "its record is left behind");
        }
    });
    // Letting go of the handle leaves the task to itself.
    let _ = tokio::time::timeout(patience, attempts).await;
}
