//! For how long nodes have not lived, by this node's own clock.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, interval},
};
use tokio_util::task::TaskTracker;

use super::Known;
use crate::state::{NodeName, State};

/// How often it is looked at who lives.
const LOOK: Duration = Duration::from_secs(1);

/// How long a node is taken to be only out of reach of the store.
const SUSPECT: Duration = Duration::from_mins(1);

/// Since when each node that does not live has been seen not to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Absences(BTreeMap<NodeName, Instant>);

impl Absences {
    /// Whether a node has been away for so long that it is taken to be down. It is forwarded to all the same.
    #[must_use]
    pub fn is_down(&self, node: &NodeName) -> bool {
        self.0.get(node).is_some_and(|since| since.elapsed() >= SUSPECT)
    }

    /// Takes in who lives now. Returns whether that is news.
    fn update(&mut self, state: &State) -> bool {
        let absent = |name: &NodeName| {
            state.nodes.get(name).is_some_and(|node| !node.is_static) && !state.alive.contains(name)
        };
        let before = self.0.len();
        self.0.retain(|name, _| absent(name));
        let mut changed = self.0.len() != before;
        for name in state.nodes.keys().filter(|name| absent(name)) {
            if !self.0.contains_key(name) {
                self.0.insert(name.clone(), Instant::now());
                changed = true;
            }
        }
        changed
    }
}

/// Keeps count until nobody wants to know any more.
pub fn follow(tasks: &TaskTracker, known: watch::Receiver<Known>) -> watch::Receiver<Absences> {
    let (absences, seen) = watch::channel(Absences::default());
    tasks.spawn(async move {
        let mut ticks = interval(LOOK);
        let mut last: Option<Arc<State>> = None;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = absences.closed() => return,
            }
            if known.has_changed().is_err() {
                return;
            }
            let state = Arc::clone(&known.borrow().state);
            if last.as_ref().is_none_or(|last| !Arc::ptr_eq(last, &state)) {
                absences.send_if_modified(|absences| absences.update(&state));
                last = Some(state);
            }
        }
    });
    seen
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::state::{RawRecord, RecordSet};

    fn state(alive: &[&str]) -> State {
        let mut records = RecordSet::default();
        let mut put = |key: &str, value: &str| {
            assert!(records.put(RawRecord {
                key: key.as_bytes(),
                value: value.as_bytes(),
                create_revision: 1
            }));
        };
        put("nodes/n1", r#"{"vtep":"192.0.2.1","port":4789}"#);
        put("nodes/n2", r#"{"vtep":"192.0.2.2","port":4789}"#);
        put("nodes/switch", r#"{"vtep":"192.0.2.3","port":4789,"static":true}"#);
        for node in alive {
            put(&format!("alive/{node}"), r#"{"incarnation":1}"#);
        }
        records.state(1)
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_stays_away_is_down_until_it_is_back() {
        let mut absences = Absences::default();
        let node = |name: &str| name.parse().unwrap();
        assert!(!absences.update(&state(&["n1", "n2"])));
        assert!(absences.update(&state(&["n1"])));
        advance(SUSPECT / 2).await;
        assert!(!absences.update(&state(&["n1"])));
        assert!(!absences.is_down(&node("n2")));
        advance(SUSPECT / 2).await;
        assert!(absences.is_down(&node("n2")));
        assert!(!absences.is_down(&node("n1")) && !absences.is_down(&node("switch")));
        assert!(absences.update(&state(&["n1", "n2"])));
        assert!(!absences.is_down(&node("n2")));
    }
}
