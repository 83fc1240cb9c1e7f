//! Which state to forward by: the followed one, or while the store has never answered, the one kept
//! from before the restart.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};
use tokio_util::task::TaskTracker;

use crate::{
    state::State,
    store::{Followed, StoreHealth},
};

/// How long the store may take to answer before the kept state is used.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a store that has said nothing at all is waited for before the log says so.
const SILENCE: Duration = Duration::from_secs(5);

/// Publishes the state to forward by. Revision 0 means that there is none yet.
pub fn follow(
    tasks: &TaskTracker,
    mut followed: watch::Receiver<Followed>,
    kept: Option<State>,
) -> watch::Receiver<Arc<State>> {
    let (state, seen) = watch::channel(Arc::default());
    tasks.spawn(async move {
        let mut kept = kept;
        let start = Instant::now();
        let mut logged = None;
        loop {
            let now = followed.borrow_and_update().clone();
            if logged.as_ref() != Some(&now.health) {
                log(&now.health);
                logged = Some(now.health.clone());
            }
            let unread = matches!(now.health, StoreHealth::Connecting(_));
            if let StoreHealth::Synced | StoreHealth::Lost(_) = now.health {
                kept = None;
                state.send_if_modified(|old: &mut Arc<State>| {
                    let changed = **old != *now.state;
                    *old = now.state;
                    changed
                });
            }
            tokio::select! {
                changed = followed.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(start + PATIENCE), if unread && kept.is_some() => {
                    if let Some(kept) = kept.take() {
                        tracing::warn!(revision = kept.revision, "forwarding by the state kept from the last run: etcd does not answer");
                        let _ = state.send(Arc::new(kept));
                    }
                }
                () = tokio::time::sleep_until(start + SILENCE), if logged == Some(StoreHealth::Connecting(None)) => {
                    let silent = StoreHealth::Connecting(Some("no answer yet".to_owned()));
                    log(&silent);
                    logged = Some(silent);
                }
            }
        }
    });
    seen
}

fn log(health: &StoreHealth) {
    match health {
        StoreHealth::Connecting(None) => tracing::debug!("connecting to etcd"),
        StoreHealth::Connecting(Some(reason)) => {
            tracing::warn!(reason, "etcd cannot be read: trying on; is it running, and is --etcd right?");
        }
        StoreHealth::Synced => tracing::info!("in step with etcd"),
        StoreHealth::Lost(reason) => {
            tracing::warn!(reason, "etcd is away: forwarding goes on with the last state, trying on");
        }
        StoreHealth::Frozen(reason) => {
            tracing::error!(reason, "this is not the etcd it was: nothing is applied");
        }
    }
}
