//! Detaching an endpoint: the record first, so that nobody sends to an interface that is going.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State as Shared};
use backon::{ExponentialBuilder, Retryable};

use super::{
    ApiError, Context, EndpointRef, Kind, Named,
    reference::Found,
    request::{Name, to_the_end},
};
use crate::{
    daemon::InTheMaking,
    device,
    state::{EndpointId, NetworkName, NodeName},
    store::{Reservation, StoreError},
};

pub async fn detach(
    Shared(context): Shared<Arc<Context>>,
    Name(reference): Name<EndpointRef>,
) -> Result<Json<Named>, ApiError> {
    to_the_end(async move { withdraw(&context, &reference).await }).await
}

/// Where an endpoint is.
struct Place {
    network: NetworkName,
    id: EndpointId,
    /// Not known of a record that cannot be read.
    node: Option<NodeName>,
}

async fn withdraw(context: &Context, reference: &EndpointRef) -> Result<Json<Named>, ApiError> {
    let state = context.state();
    let place = match reference.find(&state) {
        Ok(Found { network, endpoint }) => {
            let (id, node) = (endpoint.id.clone(), Some(endpoint.node.clone()));
            Place { network: network.clone(), id, node }
        }
        Err(error) => {
            // One that is left out of the state can be given up too, by its whole identity.
            let Some(id) = reference.full_id() else { return Err(error) };
            let Some((network, node)) = context.store.find_endpoint(&id).await? else {
                // Detached twice is no error: whoever asks wants it gone.
                device::remove(&id.host_device()).await?;
                return Ok(Json(Named { name: id.into() }));
            };
            Place { network, id, node }
        }
    };
    let Place { network, id, node } = place;
    let elsewhere = node.filter(|node| *node != context.node);
    if let Some(node) = &elsewhere
        && state.nodes.get(node).is_some_and(|node| !node.is_static)
    {
        let error = format!(
            "{reference} is on {node}: detach it there, or, if that node is gone for good, `overlayctl node rm {node}`"
        );
        return Err(ApiError::new(Kind::Conflict, error));
    }
    take_off(context, &network, &id, elsewhere.is_none()).await?;
    Ok(Json(Named { name: id.into() }))
}

/// Withdraws an endpoint, and removes its interface if it is `here`.
pub async fn take_off(
    context: &Context,
    network: &NetworkName,
    id: &EndpointId,
    here: bool,
) -> Result<(), ApiError> {
    let revision = context.store.remove_endpoint(network, id).await?;
    // The data path lets go of the interface before it goes.
    context.applied(revision).await;
    if here {
        device::remove(&id.host_device()).await?;
    }
    tracing::info!(endpoint = %id, %network, "endpoint detached");
    Ok(())
}

/// Gives up an endpoint that did not come to be, and notes that it is no longer in the making. Where the store does not answer within `patience`
/// it goes on trying behind the caller's back: a record without an interface would attract traffic
/// for ever.
pub async fn abandon_surely(
    context: &Arc<Context>,
    reservation: Reservation,
    making: Option<InTheMaking>,
    patience: Duration,
) {
    let context = Arc::clone(context);
    let attempts = tokio::spawn(async move {
        let _making = making;
        let id = &reservation.endpoint;
        let abandon = || context.store.abandon(&reservation);
        let abandoned = abandon
            .retry(ExponentialBuilder::default().without_max_times().with_jitter())
            .when(|error| matches!(error, StoreError::Unreachable(_)))
            .notify(|error, _| tracing::warn!(endpoint = %id, %error, "its record is not withdrawn yet"))
            .await;
        if let Err(error) = abandoned {
            tracing::error!(endpoint = %id, %error, "its record is left behind");
        }
    });
    // Letting go of the handle leaves the task to itself.
    let _ = tokio::time::timeout(patience, attempts).await;
}
