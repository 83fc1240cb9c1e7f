//! `overlayctl repair --republish`: what this node knows, written into a store that was lost.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use axum::{Json, extract::State as Shared};

use super::{ApiError, Context, Kind, request::to_the_end};
use crate::{
    daemon::{self, Membership},
    device,
    store::{Knowledge, Republished, StoreHealth},
};

/// How long the answer waits for the store to be followed again, and for that to outlive this process.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(5);

pub async fn republish(Shared(context): Shared<Arc<Context>>) -> Result<Json<Republished>, ApiError> {
    to_the_end(async move {
        let health = context.followed.borrow().health.clone();
        match health {
            StoreHealth::Frozen(_) => {}
            StoreHealth::Synced => {
                return Err(ApiError::new(
                    Kind::Conflict,
                    "the store is the one that is followed: there is nothing to republish",
                ));
            }
            StoreHealth::Connecting(why) => {
                return Err(ApiError::new(
                    Kind::Unavailable,
                    why.unwrap_or_else(|| "no answer yet".to_owned()),
                ));
            }
            StoreHealth::Lost(why) => return Err(ApiError::new(Kind::Unavailable, why)),
        }
        let knowledge = knowledge(&context).await?;
        let mut done = context.store.republish(&knowledge).await?;
        tracing::info!(
            written = done.written,
            conflicts = done.conflicts.len(),
            "this node's records were republished"
        );
        if done.conflicts.is_empty() {
            let mut followed = context.followed.clone();
            let synced = followed.wait_for(|followed| followed.health == StoreHealth::Synced);
            let kept = async {
                let _ = synced.await;
                context.store.until_kept().await;
            };
            let _ = tokio::time::timeout(FOLLOWED_WITHIN, kept).await;
            // Who was faster lives in what was read since.
            done.awaited = context.store.awaited();
        }
        Ok(Json(done))
    })
    .await
}

/// What this node knows, and what of it is really there.
async fn knowledge(context: &Context) -> Result<Knowledge, ApiError> {
    let state = context.state();
    if state.revision == 0 {
        let error = "this node knows nothing to write: it has not read the store since it began";
        return Err(ApiError::new(Kind::Conflict, error));
    }
    let mut present = BTreeSet::new();
    for (_, endpoint) in state.endpoints.iter().filter(|(_, endpoint)| endpoint.node == context.node) {
        if device::exists(&endpoint.id.host_device()).await? {
            present.insert(endpoint.id.clone());
        }
    }
    let incarnation = match &*context.membership.borrow() {
        Membership::Joined(incarnation) => Some(*incarnation),
        Membership::Joining(_) => None,
    };
    let records = daemon::records(&state, context.port)
        .map_err(|error| ApiError::new(Kind::Internal, format!("the records cannot be written: {error}")))?;
    Ok(Knowledge { node: context.node.clone(), incarnation, present, records })
}
