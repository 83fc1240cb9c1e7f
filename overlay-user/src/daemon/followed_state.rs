//! Which state to forward by: the followed one, or the one kept from before a restart while the store
//! has not answered yet, or is not the one it was.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::task::TaskTracker;

use crate::{
    state::State,
    store::{Followed, StoreHealth},
};

/// How long the store may take to answer before the kept state is used.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a store that has said nothing at all is waited for before the log says so.
const SILENCE: Duration = Duration::from_secs(5);

/// The state to forward by, and how the store is.
pub struct FollowedState {
    /// The state; revision 0 means that there is none yet.
    pub state: watch::Receiver<Arc<State>>,
    /// What is followed.
    pub followed: watch::Receiver<Followed>,
}

/// Follows on top of `source`. `kept` is the state applied before a restart.
pub fn follow(
    tasks: &TaskTracker,
    mut source: watch::Receiver<Followed>,
    kept: Option<State>,
) -> FollowedState {
    let first = source.borrow_and_update().clone();
    let (state, state_seen) = watch::channel(Arc::default());
    let (followed, followed_seen) = watch::channel(first.clone());
    let mut publisher = Publisher { state, followed, kept: kept.map(Arc::new), logged: None };
    tasks.spawn(async move {
        let start = Instant::now();
        publisher.take(first);
        loop {
            tokio::select! {
                changed = source.changed() => match changed {
                    Ok(()) => publisher.take(source.borrow_and_update().clone()),
                    Err(_) => return,
                },
                () = sleep_until(start + PATIENCE), if publisher.could_use_kept() => publisher.use_kept(),
                () = sleep_until(start + SILENCE), if publisher.is_silent() => {
                    publisher.log(&StoreHealth::Connecting(Some("no answer yet".to_owned())));
                }
            }
        }
    });
    FollowedState { state: state_seen, followed: followed_seen }
}

struct Publisher {
    state: watch::Sender<Arc<State>>,
    followed: watch::Sender<Followed>,
    /// Until the store has shown that it is the one this is from.
    kept: Option<Arc<State>>,
    logged: Option<StoreHealth>,
}

impl Publisher {
    fn take(&mut self, mut now: Followed) {
        if let StoreHealth::Synced | StoreHealth::Lost(_) = now.health {
            match self.kept.take_if(|kept| kept.revision <= now.state.revision) {
                None if self.kept.is_some() => self.freeze(&mut now),
                _ => {
                    self.state.send_if_modified(|old| {
                        let changed = **old != *now.state;
                        old.clone_from(&now.state);
                        changed
                    });
                }
            }
        }
        self.log(&now.health);
        self.followed.send_replace(now);
    }

    /// The store has fewer changes than were applied from it before: it is not believed.
    fn freeze(&mut self, now: &mut Followed) {
        self.use_kept();
        let (here, seen) = (now.state.revision, self.state.borrow().revision);
        now.health = StoreHealth::Frozen(format!(
            "etcd is at revision {here}, but {seen} was applied from it before: it was wiped, or restored from \
             an older copy. If that was meant, stop overlayd, remove state.json from its --state-dir and start it"
        ));
    }

    fn could_use_kept(&self) -> bool {
        self.kept.is_some() && self.state.borrow().revision == 0
    }

    fn use_kept(&self) {
        if let Some(kept) = &self.kept
            && self.could_use_kept()
        {
            tracing::warn!(revision = kept.revision, "forwarding by the state kept from the last run");
            self.state.send_replace(kept.clone());
        }
    }

    fn is_silent(&self) -> bool {
        self.logged == Some(StoreHealth::Connecting(None))
    }

    /// One line each time something is new.
    fn log(&mut self, health: &StoreHealth) {
        if self.logged.as_ref() == Some(health) {
            return;
        }
        self.logged = Some(health.clone());
        match health {
            StoreHealth::Connecting(None) => tracing::debug!("connecting to etcd"),
            StoreHealth::Connecting(Some(reason)) => {
                tracing::warn!(reason, "etcd cannot be read, trying on: is it running, and is --etcd right?");
            }
            StoreHealth::Synced => tracing::info!("in step with etcd"),
            StoreHealth::Lost(reason) => {
                tracing::warn!(reason, "etcd is away, trying on: forwarding goes on with the last state");
            }
            StoreHealth::Frozen(reason) => {
                tracing::error!(reason, "this is not the etcd it was: nothing is applied");
            }
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

    async fn revision(state: &mut watch::Receiver<Arc<State>>) -> i64 {
        state.changed().await.unwrap();
        state.borrow_and_update().revision
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_answers_in_time_goes_before_what_was_kept() {
        let (store, source) = connecting();
        let mut seen = follow(&TaskTracker::new(), source, Some(kept(7)));
        advance(PATIENCE / 2).await;
        store.send_replace(at(9, StoreHealth::Synced));
        assert_eq!(revision(&mut seen.state).await, 9);
        store.send_replace(at(9, StoreHealth::Lost("gone".into())));
        store.send_replace(at(11, StoreHealth::Synced));
        assert_eq!(revision(&mut seen.state).await, 11);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_kept_serves_until_the_store_answers() {
        let (store, source) = connecting();
        let mut seen = follow(&TaskTracker::new(), source, Some(kept(7)));
        store.send_replace(at(0, StoreHealth::Connecting(Some("refused".into()))));
        assert!(timeout(PATIENCE / 2, seen.state.changed()).await.is_err());
        assert_eq!(revision(&mut seen.state).await, 7);
        store.send_replace(at(8, StoreHealth::Synced));
        assert_eq!(revision(&mut seen.state).await, 8);
    }

    #[tokio::test(start_paused = true)]
    async fn without_anything_kept_there_is_no_state_until_the_store_answers() {
        let (store, source) = connecting();
        let mut seen = follow(&TaskTracker::new(), source, None);
        assert!(timeout(SILENCE * 2, seen.state.changed()).await.is_err());
        store.send_replace(at(3, StoreHealth::Synced));
        assert_eq!(revision(&mut seen.state).await, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_went_back_is_not_believed() {
        let (store, source) = connecting();
        let mut seen = follow(&TaskTracker::new(), source, Some(kept(7)));
        store.send_replace(at(2, StoreHealth::Synced));
        assert_eq!(revision(&mut seen.state).await, 7);
        let frozen = seen.followed.wait_for(|f| matches!(f.health, StoreHealth::Frozen(_))).await.unwrap();
        assert_eq!(frozen.state.revision, 2);
        drop(frozen);
        store.send_replace(at(3, StoreHealth::Synced));
        assert!(timeout(SILENCE, seen.state.changed()).await.is_err());
    }
}
