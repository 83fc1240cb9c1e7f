//! Which state to forward by: the followed one, or the one kept from before a restart while the store
//! has not answered yet or is not the one it was.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::task::TaskTracker;

use super::{Known, Source};
use crate::{
    state::State,
    store::{Followed, StoreHealth},
};

/// How long the store may take to answer before the kept state is used.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a store that has said nothing at all is waited for before the log says so.
const SILENCE: Duration = Duration::from_secs(5);

/// Publishes the state to forward by; revision 0 means that there is none yet. `kept` is the state
/// applied before a restart.
pub fn follow(
    tasks: &TaskTracker,
    mut followed: watch::Receiver<Followed>,
    kept: Option<State>,
) -> watch::Receiver<Known> {
    let (known, seen) = watch::channel(Known::default());
    let mut publisher = Publisher { known, kept: kept.map(Arc::new) };
    tasks.spawn(async move {
        let start = Instant::now();
        let mut silent = true;
        followed.mark_changed();
        loop {
            tokio::select! {
                changed = followed.changed() => match changed {
                    Ok(()) => publisher.take(followed.borrow_and_update().clone()),
                    Err(_) => return,
                },
                () = sleep_until(start + PATIENCE), if publisher.kept.is_some() => publisher.use_kept(),
                () = sleep_until(start + SILENCE), if silent => {
                    silent = false;
                    if followed.borrow().health == StoreHealth::Connecting(None) {
                        tracing::warn!("etcd has not answered yet, trying on: is it running, and is --etcd right?");
                    }
                }
            }
        }
    });
    seen
}

struct Publisher {
    known: watch::Sender<Known>,
    /// Until the store has answered.
    kept: Option<Arc<State>>,
}

impl Publisher {
    fn take(&mut self, now: Followed) {
        match now.health {
            StoreHealth::Synced | StoreHealth::Lost(_) => {
                self.kept = None;
                let new = Known { state: now.state, source: Source::Store };
                self.known.send_if_modified(|old| {
                    let changed = *old != new;
                    *old = new;
                    changed
                });
            }
            StoreHealth::Frozen(_) => self.use_kept(),
            StoreHealth::Connecting(_) => {}
        }
    }

    fn use_kept(&mut self) {
        if let Some(kept) = self.kept.take() {
            tracing::warn!(revision = kept.revision, "forwarding by the state kept from the last run");
            self.known.send_replace(Known { state: kept, source: Source::LastRun });
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, timeout};

    use super::*;

    fn at(revision: i64, health: StoreHealth) -> Followed {
        Followed { state: Arc::new(State { revision, ..State::default() }), health }
    }

    fn connecting() -> (watch::Sender<Followed>, watch::Receiver<Followed>) {
        watch::channel(at(0, StoreHealth::Connecting(None)))
    }

    fn kept(revision: i64) -> State {
        State { revision, ..State::default() }
    }

    async fn next(known: &mut watch::Receiver<Known>) -> (i64, Source) {
        known.changed().await.unwrap();
        let known = known.borrow_and_update();
        (known.state.revision, known.source)
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_answers_in_time_goes_before_what_was_kept() {
        let (store, source) = connecting();
        let mut state = follow(&TaskTracker::new(), source, Some(kept(7)));
        advance(PATIENCE / 2).await;
        store.send_replace(at(9, StoreHealth::Synced));
        assert_eq!(next(&mut state).await, (9, Source::Store));
        store.send_replace(at(9, StoreHealth::Lost("gone".into())));
        store.send_replace(at(11, StoreHealth::Synced));
        assert_eq!(next(&mut state).await, (11, Source::Store));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_kept_serves_until_the_store_answers() {
        let (store, source) = connecting();
        let mut state = follow(&TaskTracker::new(), source, Some(kept(7)));
        store.send_replace(at(0, StoreHealth::Connecting(Some("refused".into()))));
        assert!(timeout(PATIENCE / 2, state.changed()).await.is_err());
        assert_eq!(next(&mut state).await, (7, Source::LastRun));
        // The same again, but now it is sure.
        store.send_replace(at(7, StoreHealth::Synced));
        assert_eq!(next(&mut state).await, (7, Source::Store));
    }

    #[tokio::test(start_paused = true)]
    async fn without_anything_kept_there_is_no_state_until_the_store_answers() {
        let (store, source) = connecting();
        let mut state = follow(&TaskTracker::new(), source, None);
        assert!(timeout(SILENCE * 2, state.changed()).await.is_err());
        store.send_replace(at(3, StoreHealth::Synced));
        assert_eq!(next(&mut state).await, (3, Source::Store));
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_not_the_one_it_was_is_not_believed() {
        let (store, source) = connecting();
        let mut state = follow(&TaskTracker::new(), source, Some(kept(7)));
        store.send_replace(at(0, StoreHealth::Frozen("it was wiped".into())));
        assert_eq!(timeout(PATIENCE / 2, next(&mut state)).await, Ok((7, Source::LastRun)));
        store.send_replace(at(2, StoreHealth::Frozen("it was wiped".into())));
        assert!(timeout(SILENCE, state.changed()).await.is_err());
    }
}
