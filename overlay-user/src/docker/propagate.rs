//! What has to be done so that the networks of the cluster are Docker's, and Docker's the cluster's: a pure
//! function of both and of which are known to be the same.

use std::collections::{BTreeMap, BTreeSet};

use super::{DockerNetwork, DockerNetworkId, PendingNetwork, engine::EngineNetwork};
use crate::state::{Network, NetworkName, RecordKey, State};

/// What there is.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// The cluster's networks.
    pub state: &'a State,
    /// Docker's networks, of whichever driver.
    pub engine: &'a [EngineNetwork],
    /// Which of Docker's networks the plugin knows.
    pub registry: &'a BTreeMap<DockerNetworkId, DockerNetwork>,
    /// Networks that Docker said were removed from it by somebody.
    pub removed: &'a BTreeSet<DockerNetworkId>,
    /// Networks the plugin knows that Docker has not listed for so long that they are not being made.
    pub gone: &'a BTreeSet<DockerNetworkId>,
    /// The driver's name in Docker.
    pub driver: &'a str,
    /// Docker has a store of its own, so that its networks are the same on all nodes that have it.
    pub shared: bool,
}

/// Something that has to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A network was made in Docker by its user: make it the cluster's.
    Publish {
        /// Which.
        id: DockerNetworkId,
        /// Its name.
        name: String,
        /// What the plugin knows of it.
        pending: PendingNetwork,
    },
    /// A network was removed from Docker by its user: remove it from the cluster.
    Withdraw {
        /// Which.
        id: DockerNetworkId,
        /// Its name in the cluster.
        network: NetworkName,
    },
    /// One of Docker's networks is one of the cluster's, and the plugin does not know it any more.
    Adopt {
        /// Which.
        id: DockerNetworkId,
        /// Its name in the cluster.
        network: NetworkName,
    },
    /// The plugin knows a network that Docker does not have.
    Forget(DockerNetworkId),
    /// Docker has a network that the cluster has not, or has otherwise.
    Remove {
        /// Which.
        id: DockerNetworkId,
        /// Its name in Docker.
        name: String,
        /// In one clause.
        why: &'static str,
    },
    /// The cluster has a network that Docker has not.
    Create {
        /// Its name.
        network: NetworkName,
        /// What it is.
        what: Network,
    },
    /// Nothing can be done but by the operator, who is told so.
    Tell(Clash),
}

/// Two networks of one name, or one that nobody knows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Clash {
    /// Another driver's network has the name of one of the cluster's.
    #[error(
        "Docker on this node has a network {network} of the driver {driver}, so the cluster's network of that name \
         is not to be had in Docker here: remove Docker's with `docker network rm {id}`"
    )]
    OtherDriver {
        /// The name.
        network: NetworkName,
        /// The other's driver.
        driver: String,
        /// The other's id.
        id: String,
    },
    /// Docker's network has another subnet or gateway than the cluster's, and it is all nodes'.
    #[error(
        "Docker's network {network} is another one than the cluster's of that name: remove one of them, this with \
         `docker network rm {id}`"
    )]
    Otherwise {
        /// The name.
        network: NetworkName,
        /// Docker's id.
        id: String,
    },
    /// A network of our driver that is none of the cluster's.
    #[error(
        "Docker's network {name} is of this driver, but the cluster has none of that name, so no container gets an \
         address on it: remove it with `docker network rm {id}`"
    )]
    Stranger {
        /// The name.
        name: String,
        /// Its id.
        id: String,
    },
}

/// Why one of Docker's networks is removed from it.
const ANOTHER: &str = "the cluster's network of that name is another one";
const TWICE: &str = "two nodes have made it in Docker's store at once";

/// What becomes of one of Docker's networks of our driver.
#[derive(Clone)]
enum Verdict {
    /// It is this network of the cluster, and stays.
    Is(NetworkName),
    /// This has to be done first; its name in Docker is not free.
    Do(Box<Action>),
}

impl Verdict {
    fn first(action: Action) -> Self {
        Self::Do(Box::new(action))
    }
}

/// What has to be done, in the order it can be done in.
#[must_use]
pub fn propagate(scene: Scene<'_>) -> Vec<Action> {
    let Scene { state, engine, registry, removed, gone, driver, shared } = scene;
    let mut actions = Vec::new();
    // Of these nothing is to be made: they are there, or on their way in or out.
    let mut settled: BTreeSet<NetworkName> = BTreeSet::new();
    let ours = || engine.iter().filter(|network| network.driver == driver);

    let listed: BTreeSet<_> = ours().map(|network| &network.id).collect();
    for (id, known) in registry.iter().filter(|(id, _)| !listed.contains(id)) {
        match known {
            DockerNetwork::Known(network) if removed.contains(id) => {
                // Another of Docker's networks may be the same: then this was none of the cluster's last.
                let other = |other: &EngineNetwork| registry.get(&other.id) == Some(known);
                if !state.networks.contains_key(network) || ours().any(other) {
                    actions.push(Action::Forget(id.clone()));
                } else {
                    settled.insert(network.clone());
                    actions.push(Action::Withdraw { id: id.clone(), network: network.clone() });
                }
            }
            DockerNetwork::Pending(_) if removed.contains(id) => actions.push(Action::Forget(id.clone())),
            _ if gone.contains(id) => actions.push(Action::Forget(id.clone())),
            DockerNetwork::Known(network) => {
                settled.insert(network.clone());
            }
            DockerNetwork::Pending(_) => {}
        }
    }
    let ours: Vec<_> =
        ours().map(|network| (network, judge(network, registry.get(&network.id), state, shared))).collect();
    let stays = |name: &NetworkName| {
        let same = ours.iter().filter(|(_, verdict)| matches!(verdict, Verdict::Is(is) if is == name));
        let published = state.networks.get(name).and_then(|network| network.docker.as_deref());
        // All nodes must come to the same of two.
        same.map(|(network, _)| &network.id).min_by_key(|id| (Some(id.as_str()) != published, *id))
    };
    for (network, verdict) in &ours {
        match verdict.clone() {
            Verdict::Is(name) if shared && stays(&name) != Some(&network.id) => {
                let (id, name) = (network.id.clone(), network.name.clone());
                actions.push(Action::Remove { id, name, why: TWICE });
            }
            Verdict::Is(name) => {
                if registry.get(&network.id) != Some(&DockerNetwork::Known(name.clone())) {
                    actions.push(Action::Adopt { id: network.id.clone(), network: name.clone() });
                }
                settled.insert(name);
            }
            Verdict::Do(action) => {
                settled.extend(network.name.parse::<NetworkName>());
                actions.push(*action);
            }
        }
    }
    for (name, what) in state.networks.iter().filter(|(name, _)| !settled.contains(*name)) {
        let other = engine.iter().find(|network| network.name == name.as_str());
        actions.push(match other {
            Some(EngineNetwork { id, driver, .. }) => Action::Tell(Clash::OtherDriver {
                network: name.clone(),
                driver: driver.clone(),
                id: short(id),
            }),
            None => Action::Create { network: name.clone(), what: what.clone() },
        });
    }
    actions
}

/// Judges one of Docker's networks of our driver.
fn judge(network: &EngineNetwork, known: Option<&DockerNetwork>, state: &State, shared: bool) -> Verdict {
    let stranger = || Clash::Stranger { name: network.name.clone(), id: short(&network.id) };
    // Of a store that others write to as well, a node removes only what it knows: what it has not heard of yet
    // may be news.
    let remove = |why, clash| match known {
        None if shared => Verdict::first(Action::Tell(clash)),
        _ => Verdict::first(Action::Remove { id: network.id.clone(), name: network.name.clone(), why }),
    };
    let another = |name: &NetworkName| {
        remove(ANOTHER, Clash::Otherwise { network: name.clone(), id: short(&network.id) })
    };
    let of_cluster = |name: &NetworkName| match state.networks.get(name) {
        Some(there) if network.is_like(there) => Verdict::Is(name.clone()),
        Some(_) => another(name),
        // A record that this version cannot read may be a newer one's.
        None if state.rejected.contains_key(&RecordKey::of_network(name)) => Verdict::Is(name.clone()),
        None => remove("the cluster does not have it any more", stranger()),
    };
    match known {
        Some(DockerNetwork::Known(name)) => of_cluster(name),
        Some(DockerNetwork::Pending(pending)) => match published(network, pending, state) {
            Some(name) => Verdict::Is(name),
            None => Verdict::first(Action::Publish {
                id: network.id.clone(),
                name: network.name.clone(),
                pending: pending.clone(),
            }),
        },
        None => match (network.made_for(), network.name.parse()) {
            (Some(name), _) => of_cluster(&name),
            (None, Ok(name)) if state.networks.contains_key(&name) => {
                // One that was published: by another node, or the plugin's notes of it are lost.
                let there = &state.networks[&name];
                let published = !there.pools.is_empty() && network.is_like(there);
                if published { Verdict::Is(name) } else { another(&name) }
            }
            (None, _) => Verdict::first(Action::Tell(stranger())),
        },
    }
}

/// The cluster's network that a pending one has become, if it has, but nobody could note it.
fn published(network: &EngineNetwork, pending: &PendingNetwork, state: &State) -> Option<NetworkName> {
    let name = network.name.parse().ok()?;
    let there = state.networks.get(&name)?;
    (!pending.pools.is_empty() && there.pools == pending.pools).then_some(name)
}

/// As much of an id as people write.
fn short(id: &DockerNetworkId) -> String {
    id.as_str().chars().take(12).collect()
}

#[cfg(test)]
mod tests;
