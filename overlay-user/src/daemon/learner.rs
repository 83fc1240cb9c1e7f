//! Writes into the store which MAC addresses are behind this node's gateway ports: new ones as they are
//! heard, and those that are silent for long out of it. Nobody else touches them, so that a node that
//! is away loses nothing it had.

use std::{collections::BTreeMap, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{Known, SightingRequest, Source};
use crate::{
    MacAddr,
    datapath::Sighting,
    state::{EndpointId, LearnedRecord, NetworkName, NodeName, State},
    store::Store,
};

/// How often the data path is asked who was heard.
const LISTEN: Duration = Duration::from_secs(1);

/// Most changes written in one round: a storm of addresses must not become one of writes.
const AT_ONCE: usize = 64;

/// Keeps the learned MAC addresses of one node.
pub struct Learner {
    pub node: NodeName,
    pub store: Store,
    pub known: watch::Receiver<Known>,
    pub sightings: mpsc::Sender<SightingRequest>,
}

/// When each MAC address of this node's ports was heard last.
#[derive(Default)]
struct Memory(BTreeMap<(NetworkName, MacAddr), Instant>);

/// One change to make in the store.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    Learn(NetworkName, MacAddr, EndpointId),
    Forget(NetworkName, MacAddr, EndpointId),
}

impl Learner {
    /// Learns and forgets until `cancel`.
    pub async fn run(self, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.learn()).await;
    }

    async fn learn(self) {
        let mut memory = Memory::default();
        let mut ticks = interval(LISTEN);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Known { state, source } = self.known.borrow().clone();
            // What was kept from before may be old: by it nothing is written.
            let has_ports = state.ports.values().any(|port| port.node == self.node);
            if source != Source::Store || !has_ports {
                memory = Memory::default();
                continue;
            }
            let (reply, answer) = oneshot::channel();
            if self.sightings.send(reply).await.is_err() {
                return;
            }
            let sightings = match answer.await {
                Ok(Ok(sightings)) => sightings,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "who is behind the gateway ports cannot be read");
                    continue;
                }
                Err(_) => return,
            };
            for change in
                memory.round(&state, &self.node, &sightings, Instant::now()).into_iter().take(AT_ONCE)
            {
                self.write(change).await;
            }
        }
    }

    async fn write(&self, change: Change) {
        let (done, mac) = match &change {
            Change::Learn(network, mac, port) => {
                let record = LearnedRecord { node: self.node.clone(), port: port.clone() };
                (self.store.learn(network, *mac, &record).await.map(drop), mac)
            }
            Change::Forget(network, mac, port) => (self.store.forget(network, *mac, port).await, mac),
        };
        match done {
            Ok(()) => tracing::debug!(?change, "learned MAC addresses changed"),
            // It is heard, or silent, in the next round too.
            Err(error) => tracing::debug!(%mac, %error, "a learned MAC address was not written"),
        }
    }
}

impl Memory {
    /// Takes in who was heard, and says what is to change.
    fn round(&mut self, state: &State, node: &NodeName, sightings: &[Sighting], now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        let networks: BTreeMap<_, _> = state.networks.iter().map(|(name, n)| (n.vni, name)).collect();
        let mut counts: BTreeMap<&EndpointId, u32> = BTreeMap::new();
        for learned in state.learned.values() {
            *counts.entry(&learned.port).or_default() += 1;
        }
        for Sighting { vni, mac, port: id } in sightings {
            let Some(&network) = networks.get(vni) else { continue };
            let Some(port) = state.ports.get(&(network.clone(), id.clone())) else { continue };
            let key = (network.clone(), *mac);
            match state.learned.get(&key) {
                Some(learned) if learned.port == *id => drop(self.0.insert(key, now)),
                // Another port's: that is for its node to give up.
                Some(_) => {}
                None => {
                    let count = counts.entry(id).or_default();
                    if *count < port.max_macs {
                        *count += 1;
                        changes.push(Change::Learn(key.0.clone(), *mac, id.clone()));
                        self.0.insert(key, now);
                    }
                }
            }
        }
        for (key @ (network, mac), learned) in &state.learned {
            if learned.node != *node {
                continue;
            }
            let Some(port) = state.ports.get(&(network.clone(), learned.port.clone())) else { continue };
            // One that was known before this daemon was is taken for just heard.
            let heard = *self.0.entry(key.clone()).or_insert(now);
            if now.duration_since(heard) >= Duration::from_secs(port.age.into()) {
                changes.push(Change::Forget(network.clone(), *mac, learned.port.clone()));
            }
        }
        self.0
            .retain(|key, heard| state.learned.contains_key(key) || now.duration_since(*heard) < LISTEN * 5);
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Vni,
        state::{RawRecord, RecordSet},
    };

    const ID: &str = "0123456789ab";

    fn mac(last: u8) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, last])
    }

    fn state(learned: &[(u8, &str)]) -> State {
        let mut records = RecordSet::default();
        let mut put = |key: &str, value: &str| {
            let raw = RawRecord { key: key.as_bytes(), value: value.as_bytes(), create_revision: 1 };
            assert!(records.put(raw), "{key}");
        };
        put("networks/blue", r#"{"vni":7,"subnet":"10.0.9.0/24","gateway":"10.0.9.1"}"#);
        for (node, id) in [("n1", ID), ("n2", "ba9876543210")] {
            let last = &node[1..];
            put(&format!("nodes/{node}"), &format!(r#"{{"vtep":"192.0.2.{last}","port":4789}}"#));
            let port = format!(r#"{{"node":"{node}","device":"eth1","max_macs":2,"age":300}}"#);
            put(&format!("ports/blue/{id}"), &port);
        }
        for (last, node) in learned {
            let id = if *node == "n1" { ID } else { "ba9876543210" };
            let value = format!(r#"{{"node":"{node}","port":"{id}"}}"#);
            put(&format!("learned/blue/0200000000{last:02x}"), &value);
        }
        let state = records.state(1);
        assert!(state.rejected.is_empty(), "{:?}", state.rejected);
        state
    }

    fn heard(last: u8) -> Sighting {
        Sighting { vni: Vni::new(7).unwrap(), mac: mac(last), port: ID.parse().unwrap() }
    }

    fn round(memory: &mut Memory, state: &State, sightings: &[Sighting], now: Instant) -> Vec<String> {
        let changes = memory.round(state, &"n1".parse().unwrap(), sightings, now);
        let words = changes.into_iter().map(|change| match change {
            Change::Learn(_, mac, _) => format!("learn {}", mac.0[5]),
            Change::Forget(_, mac, _) => format!("forget {}", mac.0[5]),
        });
        words.collect()
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_new_is_learned_up_to_the_cap_and_no_other_ports() {
        let mut memory = Memory::default();
        let now = Instant::now();
        let all = [heard(1), heard(2), heard(3)];
        assert_eq!(round(&mut memory, &state(&[]), &all, now), ["learn 1", "learn 2"]);
        assert_eq!(round(&mut memory, &state(&[(1, "n1")]), &all, now), ["learn 2"]);
        assert!(round(&mut memory, &state(&[(1, "n1"), (2, "n1")]), &all, now).is_empty());
        let elsewhere = state(&[(1, "n2")]);
        assert!(round(&mut memory, &elsewhere, &[heard(1)], now).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_silent_is_forgotten_and_only_by_its_own_node() {
        let mut memory = Memory::default();
        let state = state(&[(1, "n1"), (2, "n1"), (3, "n2")]);
        let start = Instant::now();
        assert!(round(&mut memory, &state, &[], start).is_empty(), "known before this daemon was");
        let later = start + Duration::from_secs(200);
        assert!(round(&mut memory, &state, &[heard(1)], later).is_empty());
        assert_eq!(round(&mut memory, &state, &[], start + Duration::from_mins(5)), ["forget 2"]);
    }
}
