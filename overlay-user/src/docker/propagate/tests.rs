use std::sync::Arc;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    docker::{NETWORK, engine::EngineSubnet},
    state::{NetworkRecord, Policy, PoolId},
};

const OURS: &str = "overlayd";

/// Everything that a round of propagation looks at and changes.
#[derive(Clone, Debug, Default)]
struct World {
    state: State,
    engine: Vec<EngineNetwork>,
    registry: BTreeMap<DockerNetworkId, DockerNetwork>,
    removed: BTreeSet<DockerNetworkId>,
    gone: BTreeSet<DockerNetworkId>,
    shared: bool,
}

impl World {
    fn to_do(&self) -> Vec<Action> {
        let Self { state, engine, registry, removed, gone, shared } = self;
        propagate(Scene { state, engine, registry, removed, gone, driver: OURS, shared: *shared })
    }

    fn with_network(mut self, name: &str, what: Network) -> Self {
        self.state.networks.insert(name.parse().unwrap(), what);
        self
    }

    fn with_engine(mut self, network: EngineNetwork) -> Self {
        self.engine.push(network);
        self
    }

    fn known(mut self, number: u8, name: &str) -> Self {
        self.registry.insert(id(number), DockerNetwork::Known(name.parse().unwrap()));
        self
    }

    fn pending(mut self, number: u8, pending: PendingNetwork) -> Self {
        self.registry.insert(id(number), DockerNetwork::Pending(pending));
        self
    }

    fn removed(mut self, number: u8) -> Self {
        self.removed.insert(id(number));
        self
    }

    fn gone(mut self, number: u8) -> Self {
        self.gone.insert(id(number));
        self
    }
}

fn id(number: u8) -> DockerNetworkId {
    format!("{number:064x}").parse().unwrap()
}

fn subnet(third: u8) -> String {
    format!("10.0.{third}.0/24")
}

fn network(third: u8, pools: &[PoolId]) -> Network {
    Network::from_record(&NetworkRecord {
        vni: u32::from(third) + 1,
        subnet: subnet(third).parse().unwrap(),
        gateway: format!("10.0.{third}.1").parse().unwrap(),
        range: None,
        dual: None,
        mtu: None,
        internal: false,
        policy: Policy::default(),
        aux: BTreeMap::new(),
        pools: pools.to_vec(),
        docker: None,
    })
    .unwrap()
}

fn engine(number: u8, name: &str, third: u8) -> EngineNetwork {
    let subnet = EngineSubnet {
        net: subnet(third).parse().unwrap(),
        gateway: None,
        range: None,
        aux: BTreeMap::new(),
    };
    EngineNetwork {
        id: id(number),
        name: name.to_owned(),
        driver: OURS.to_owned(),
        internal: false,
        subnets: vec![subnet],
        options: BTreeMap::new(),
        containers: Vec::new(),
    }
}

fn made_for(network: EngineNetwork, name: &str) -> EngineNetwork {
    EngineNetwork { options: [(NETWORK.to_owned(), name.to_owned())].into(), ..network }
}

fn other_driver(number: u8, name: &str) -> EngineNetwork {
    EngineNetwork { driver: "bridge".to_owned(), ..engine(number, name, 99) }
}

fn create(name: &str, what: Network) -> Action {
    Action::Create { network: name.parse().unwrap(), what }
}

fn remove(number: u8, name: &str, why: &'static str) -> Action {
    Action::Remove { id: id(number), name: name.to_owned(), why }
}

const GONE: &str = "the cluster does not have it any more";

#[test]
fn a_network_of_the_cluster_is_made_in_docker_once() {
    let world = World::default().with_network("a", network(1, &[]));
    assert_eq!(world.to_do(), [create("a", network(1, &[]))]);
    let made = world.with_engine(made_for(engine(1, "a", 1), "a")).known(1, "a");
    assert_eq!(made.to_do(), []);
}

#[test]
fn what_the_plugin_knows_and_docker_does_not_list_yet_is_on_its_way() {
    let world = World::default().with_network("a", network(1, &[])).known(1, "a");
    assert_eq!(world.to_do(), []);
    let lost = world.gone(1);
    assert_eq!(lost.to_do(), [Action::Forget(id(1)), create("a", network(1, &[]))]);
    let pending = World::default().pending(1, PendingNetwork::default());
    assert_eq!(pending.to_do(), []);
    assert_eq!(pending.gone(1).to_do(), [Action::Forget(id(1))]);
}

#[test]
fn a_network_made_in_docker_is_published_and_then_stays() {
    let pools = vec![PoolId::random()];
    let pending = PendingNetwork { pools: pools.clone(), ..PendingNetwork::default() };
    let world = World::default().with_engine(engine(1, "a", 1)).pending(1, pending.clone());
    assert_eq!(
        world.to_do(),
        [Action::Publish { id: id(1), name: "a".to_owned(), pending: pending.clone() }]
    );
    // It was published, but nobody could note that.
    let published = world.clone().with_network("a", network(1, &pools));
    assert_eq!(published.to_do(), [Action::Adopt { id: id(1), network: "a".parse().unwrap() }]);
    // Somebody else was first: the store will say so.
    let taken = world.with_network("a", network(1, &[PoolId::random()]));
    assert_eq!(taken.to_do(), [Action::Publish { id: id(1), name: "a".to_owned(), pending }]);
}

#[test]
fn a_network_removed_in_docker_is_withdrawn_and_one_that_is_merely_missing_is_not() {
    let world = World::default().with_network("a", network(1, &[])).known(1, "a").removed(1);
    assert_eq!(world.to_do(), [Action::Withdraw { id: id(1), network: "a".parse().unwrap() }]);
    // It is not the cluster's any more either.
    let gone = World::default().known(1, "a").removed(1);
    assert_eq!(gone.to_do(), [Action::Forget(id(1))]);
    // It was made again meanwhile.
    let again = world.with_engine(made_for(engine(2, "a", 1), "a")).known(2, "a");
    assert_eq!(again.to_do(), [Action::Forget(id(1))]);
}

#[test]
fn what_the_cluster_has_no_more_or_otherwise_is_removed_from_docker() {
    let world = World::default().with_engine(made_for(engine(1, "a", 1), "a"));
    assert_eq!(world.to_do(), [remove(1, "a", GONE)], "also if nothing is known of it");
    let world = world.known(1, "a");
    assert_eq!(world.to_do(), [remove(1, "a", GONE)]);
    let another = world.clone().with_network("a", network(2, &[]));
    assert_eq!(another.to_do(), [remove(1, "a", ANOTHER)]);
    let internal = Network { internal: true, ..network(1, &[]) };
    assert_eq!(world.clone().with_network("a", internal).to_do(), [remove(1, "a", ANOTHER)]);
    // A record of a newer version's is no reason.
    let mut unread = world;
    unread.state.rejected = Arc::new([("networks/a".to_owned(), "unknown".to_owned())].into());
    assert_eq!(unread.to_do(), []);
}

#[test]
fn what_the_plugin_has_forgotten_is_known_again_by_what_it_was_made_for() {
    let adopt = [Action::Adopt { id: id(1), network: "a".parse().unwrap() }];
    let propagated =
        World::default().with_network("a", network(1, &[])).with_engine(made_for(engine(1, "a", 1), "a"));
    assert_eq!(propagated.to_do(), adopt);
    let alias =
        World::default().with_network("a", network(1, &[])).with_engine(made_for(engine(1, "other", 1), "a"));
    assert_eq!(alias.to_do(), adopt);
    let pools = [PoolId::random()];
    let published = World::default().with_network("a", network(1, &pools)).with_engine(engine(1, "a", 1));
    assert_eq!(published.to_do(), adopt);
    // Its pools are nobody's.
    let useless = World::default().with_network("a", network(1, &[])).with_engine(engine(1, "a", 1));
    assert_eq!(useless.to_do(), [remove(1, "a", ANOTHER)]);
}

#[test]
fn what_others_made_is_left_alone_and_named() {
    let told = |world: &World| match &world.to_do()[..] {
        [Action::Tell(clash)] => clash.to_string(),
        other => panic!("{other:?}"),
    };
    let clash = World::default().with_network("a", network(1, &[])).with_engine(other_driver(7, "a"));
    assert!(told(&clash).contains("a network a of the driver bridge"), "{}", told(&clash));
    assert!(told(&clash).contains("`docker network rm 000000000000`"), "{}", told(&clash));
    let stranger = World::default().with_engine(engine(1, "a", 1));
    assert!(told(&stranger).contains("the cluster has none of that name"), "{}", told(&stranger));
    assert_eq!(World::default().with_engine(other_driver(7, "a")).to_do(), []);
}

#[test]
fn of_dockers_that_share_a_store_a_node_removes_only_what_it_knows() {
    let shared = World { shared: true, ..World::default() };
    let told = |world: &World| matches!(&world.to_do()[..], [Action::Tell(_)]);
    // Another node may have made it a moment ago.
    let news = shared.clone().with_engine(made_for(engine(1, "a", 1), "a"));
    assert!(told(&news), "{:?}", news.to_do());
    assert_eq!(news.known(1, "a").to_do(), [remove(1, "a", GONE)]);
    let another = shared.with_engine(engine(1, "a", 1)).with_network("a", network(2, &[PoolId::random()]));
    assert!(told(&another), "{:?}", another.to_do());
    assert_eq!(another.known(1, "a").to_do(), [remove(1, "a", ANOTHER)]);
}

#[test]
fn of_two_networks_made_at_once_in_a_shared_store_all_nodes_keep_the_same() {
    let twice = World { shared: true, ..World::default() }
        .with_engine(made_for(engine(2, "a", 1), "a"))
        .with_engine(made_for(engine(1, "a", 1), "a"));
    for known in [1, 2] {
        let world = twice.clone().known(known, "a").with_network("a", network(1, &[]));
        assert!(world.to_do().contains(&remove(2, "a", TWICE)), "{:?}", world.to_do());
        assert!(!world.to_do().contains(&remove(1, "a", TWICE)), "{:?}", world.to_do());
        // One of them was made by Docker's user.
        let published = Network { docker: Some(id(2).as_str().into()), ..network(1, &[]) };
        let world = twice.clone().known(known, "a").with_network("a", published);
        assert!(world.to_do().contains(&remove(1, "a", TWICE)), "{:?}", world.to_do());
    }
}

/// Carries out actions as they would be if dockerd and the store did what they are asked for.
fn carry_out(world: &mut World, actions: Vec<Action>, next: &mut u8) {
    for action in actions {
        match action {
            Action::Publish { id, name, pending } => {
                let name: NetworkName = name.parse().unwrap();
                if world.state.networks.contains_key(&name) {
                    world.engine.retain(|network| network.id != id);
                    world.registry.remove(&id);
                } else {
                    let third = world.engine.iter().find(|network| network.id == id).unwrap().subnets[0].net;
                    let third = third.to_string().split('.').nth(2).unwrap().parse().unwrap();
                    world.state.networks.insert(name.clone(), network(third, &pending.pools));
                    world.registry.insert(id, DockerNetwork::Known(name));
                }
            }
            Action::Withdraw { id, network } => {
                assert!(world.removed.contains(&id), "only what somebody removed");
                world.state.networks.remove(&network);
                world.registry.remove(&id);
            }
            Action::Adopt { id, network } => drop(world.registry.insert(id, DockerNetwork::Known(network))),
            Action::Forget(id) => drop(world.registry.remove(&id)),
            Action::Remove { id, .. } => {
                world.engine.retain(|network| network.id != id);
                world.registry.remove(&id);
            }
            Action::Create { network: name, what } => {
                assert!(world.engine.iter().all(|network| network.name != name.as_str()), "its name is free");
                let third = what.subnet.net.to_string().split('.').nth(2).unwrap().parse().unwrap();
                *next += 1;
                world.engine.push(made_for(engine(*next, name.as_str(), third), name.as_str()));
                world.registry.insert(id(*next), DockerNetwork::Known(name));
            }
            Action::Tell(_) => {}
        }
    }
}

/// What the plugin has noted of one of Docker's networks.
#[derive(Clone, Debug)]
enum Noted {
    Nothing,
    Known(&'static str),
    Pending,
}

/// What a network of Docker's or of the plugin's notes can be like.
#[derive(Clone, Debug)]
struct Thing {
    name: &'static str,
    third: u8,
    is_ours: bool,
    made_for: Option<&'static str>,
    is_listed: bool,
    noted: Noted,
    is_removed: bool,
}

fn thing() -> impl Strategy<Value = Thing> {
    let name = || prop::sample::select(vec!["a", "b", "c"]);
    let noted = prop_oneof![Just(Noted::Nothing), name().prop_map(Noted::Known), Just(Noted::Pending)];
    (name(), 1..3u8, prop::bool::weighted(0.8), prop::option::of(name()), any::<bool>(), noted, any::<bool>())
        .prop_map(|(name, third, is_ours, made_for, is_listed, noted, is_removed)| Thing {
            name,
            third,
            is_ours,
            made_for,
            is_listed,
            noted,
            is_removed,
        })
}

fn world() -> impl Strategy<Value = World> {
    let networks = prop::collection::btree_map(prop::sample::select(vec!["a", "b", "c"]), 1..3u8, 0..4);
    (networks, vec(thing(), 0..6)).prop_map(|(networks, things)| {
        let mut world = World::default();
        for (name, third) in networks {
            world = world.with_network(name, network(third, &[]));
        }
        for (number, thing) in (0..).zip(things) {
            // What is noted of another driver's network, or is listed and removed, cannot be.
            let mut made = engine(number, thing.name, thing.third);
            if let Some(name) = thing.made_for {
                made = made_for(made, name);
            }
            if !thing.is_ours {
                made = other_driver(number, thing.name);
            }
            // Names are given once.
            let is_listed = thing.is_listed && world.engine.iter().all(|network| network.name != thing.name);
            if is_listed {
                world = world.with_engine(made);
            }
            if thing.is_ours {
                world = match thing.noted {
                    Noted::Known(name) => world.known(number, name),
                    Noted::Pending => {
                        let pools = vec![PoolId::random()];
                        world.pending(number, PendingNetwork { pools, ..PendingNetwork::default() })
                    }
                    Noted::Nothing => world,
                };
            }
            if !is_listed {
                world = if thing.is_removed { world.removed(number) } else { world.gone(number) };
            }
        }
        world
    })
}

proptest! {
    #[test]
    fn it_comes_to_rest_with_each_network_in_both(mut world in world()) {
        let mut next = 100;
        let begun = world.clone();
        let before = &begun.state.networks;
        for _ in 0..8 {
            let actions = world.to_do();
            carry_out(&mut world, actions, &mut next);
        }
        let rest = world.to_do();
        prop_assert!(rest.iter().all(|action| matches!(action, Action::Tell(_))), "{rest:?}");
        let told = |name: &str| rest.iter().any(|action| {
            matches!(action, Action::Tell(Clash::OtherDriver { network, .. }) if network.as_str() == name)
        });
        let is_of = |network: &EngineNetwork, name: &NetworkName| {
            world.registry.get(&network.id) == Some(&DockerNetwork::Known(name.clone()))
        };
        for (name, what) in &world.state.networks {
            let there = world.engine.iter().filter(|network| is_of(network, name));
            prop_assert!(told(name.as_str()) != (there.clone().count() > 0), "{name}");
            prop_assert!(there.clone().all(|network| network.is_like(what)));
        }
        for (id, known) in &world.registry {
            prop_assert!(world.engine.iter().any(|network| network.id == *id), "{id} is not Docker's");
            let name = known.name();
            prop_assert!(name.is_some_and(|name| world.state.networks.contains_key(name)), "{known:?}");
        }
        // Nothing is taken from the cluster but by who removed it.
        for name in before.keys().filter(|name| !world.state.networks.contains_key(*name)) {
            let known = DockerNetwork::Known(name.clone());
            let removed = begun.registry.iter().any(|(id, was)| *was == known && begun.removed.contains(id));
            prop_assert!(removed, "{name}");
        }
    }
}
