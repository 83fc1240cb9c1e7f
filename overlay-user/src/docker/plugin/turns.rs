//! One request about an endpoint at a time: Docker repeats requests while the first is still under way.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

use crate::docker::DockerEndpointId;

/// Whose turn it is, by endpoint.
#[derive(Default)]
pub struct Turns(Mutex<HashMap<DockerEndpointId, Weak<Turn<()>>>>);

impl Turns {
    /// Waits until no other request about the endpoint is under way. The turn lasts until what is returned is
    /// dropped.
    pub async fn wait(&self, id: &DockerEndpointId) -> OwnedMutexGuard<()> {
        let turn = {
            // Nothing panics while it is held.
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| turn.strong_count() > 0);
            if let Some(turn) = turns.get(id).and_then(Weak::upgrade) {
                turn
            } else {
                let turn = Arc::default();
                turns.insert(id.clone(), Arc::downgrade(&turn));
                turn
            }
        };
        turn.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn one_waits_for_the_other_and_for_no_one_else() {
        let turns = Turns::default();
        let [one, other] = ["1", "2"].map(|digit| digit.repeat(64).parse().unwrap());
        let first = turns.wait(&one).await;
        let _elsewhere = turns.wait(&other).await;
        assert!(timeout(Duration::from_millis(20), turns.wait(&one)).await.is_err());
        drop(first);
        drop(turns.wait(&one).await);
        drop(turns.wait(&one).await);
        assert_eq!(turns.0.lock().unwrap().len(), 2, "turns that are over are forgotten with the next");
    }
}
