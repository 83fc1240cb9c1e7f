use proptest::prelude::*;

use super::*;

fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

/// Which nodes, networks and endpoints there are; an endpoint is its network, its node and a number
/// its identity, MAC and address are made from.
fn state_of(nodes: &[u8], networks: &[u8], endpoints: &[(u8, u8, u8)]) -> State {
    let mut state = State::default();
    for n in nodes {
        let vtep = IpAddr::from([192, 0, 2, *n]);
        let (datapath, reason) = (String::new(), String::new());
        let node = state::Node { vtep, mtu: None, datapath, reason, is_static: false, drained: false };
        state.nodes.insert(name(&format!("node{n}")), node);
    }
    for n in networks {
        let network = state::Network {
            vni: Vni::new(100 + u32::from(*n)).unwrap(),
            subnet: state::Subnet {
                net: "10.0.9.0/24".parse().unwrap(),
                gateway: "10.0.9.1".parse().unwrap(),
                range: "10.0.9.0/24".parse().unwrap(),
            },
            dual: None,
            mtu: Some(1400),
            internal: false,
            policy: Policy { bum_rate: 7, ..Policy::default() },
            aux: BTreeMap::new(),
            pools: Vec::new(),
            docker: None,
        };
        state.networks.insert(name(&format!("net{n}")), network);
    }
    for (network, node, n) in endpoints {
        let endpoint = state::Endpoint {
            id: name(&format!("{network:06x}{n:06x}")),
            created: 0,
            node: name(&format!("node{node}")),
            mac: MacAddr([2, 0, 0, 0, 0, *n]),
            addresses: [IpAddr::from([10, 0, 9, *n])].into(),
            names: [].into(),
            delivery: Delivery::Tc,
            container: "".into(),
        };
        // As a record set does, which leaves those of unknown nodes out.
        if nodes.contains(node) {
            state.endpoints.insert(&name(&format!("net{network}")), Arc::new(endpoint));
        }
    }
    state
}

#[test]
fn a_node_carries_the_networks_it_has_endpoints_in() {
    let state = state_of(&[1, 2, 3], &[1, 2], &[(1, 1, 10), (1, 2, 11), (2, 2, 12), (2, 3, 13)]);
    let plan = plan(&state, &name("node1"));
    assert_eq!(plan.networks.len(), 1);
    let network = &plan.networks[&Vni::new(101).unwrap()];
    assert_eq!((network.name.as_str(), network.mtu), ("net1", Some(1400)));
    assert_eq!(network.members, OrdSet::unit(name("node2")));
    let location = |last| network.endpoint(MacAddr([2, 0, 0, 0, 0, last])).unwrap().location;
    assert_eq!(location(10), Location::Local);
    assert_eq!(location(11), Location::Remote(&name("node2")));
    assert_eq!(plan.vteps, OrdMap::unit(name("node2"), Vtep { addr: [192, 0, 2, 2].into() }));
    assert_eq!(plan.protected.len(), 3);
}

#[test]
fn a_node_that_is_not_known_carries_nothing_but_protects_all() {
    let state = state_of(&[2], &[1], &[(1, 1, 10), (1, 2, 11)]);
    let plan = plan(&state, &name("node1"));
    assert!(plan.networks.is_empty() && plan.vteps.is_empty());
    assert_eq!(plan.protected, OrdSet::unit(IpAddr::from([192, 0, 2, 2])));
}

/// The plan by its definition, one question at a time over all endpoints.
fn naive(state: &State, node: &NodeName) -> Plan {
    let all: Vec<_> =
        state.endpoints.iter().filter(|(network, _)| state.networks.contains_key(*network)).collect();
    let is_in =
        |node: &NodeName, network: &NetworkName| all.iter().any(|(of, e)| *of == network && e.node == *node);
    let carried = || state.networks.iter().filter(|(name, _)| is_in(node, name));
    let members = |network: &NetworkName| -> OrdSet<_> {
        state.nodes.keys().filter(|&other| other != node && is_in(other, network)).cloned().collect()
    };
    let those = |network: &NetworkName, local: bool| {
        let wanted = all.iter().filter(|(of, e)| *of == network && (!local || e.node == *node));
        wanted.map(|(_, e)| (e.mac, Arc::clone(e))).collect::<OrdMap<_, _>>()
    };
    Plan {
        vteps: carried()
            .flat_map(|(name, _)| members(name))
            .map(|member: NodeName| (member.clone(), Vtep { addr: state.nodes[&member].vtep }))
            .collect(),
        networks: carried()
            .map(|(name, network)| {
                let (members, stations, local) = (members(name), those(name, false), those(name, true));
                let empty = Network::new(name.clone(), node.clone(), network.mtu, network.policy);
                (network.vni, Network { members, stations, local, ..empty })
            })
            .collect(),
        protected: state.nodes.values().map(|n| n.vtep).collect(),
    }
}

/// Which nodes, networks and endpoints there are.
type World = (Vec<u8>, Vec<u8>, Vec<(u8, u8, u8)>);

fn any_world() -> impl Strategy<Value = World> {
    (
        prop::collection::vec(1..6_u8, 0..6),
        prop::collection::vec(1..5_u8, 0..5),
        prop::collection::vec((1..5_u8, 1..7_u8, 2..30_u8), 0..40),
    )
}

proptest! {
    #[test]
    fn it_is_what_the_definition_says((nodes, networks, endpoints) in any_world()) {
        let state = state_of(&nodes, &networks, &endpoints);
        for n in 1..7 {
            let node = name(&format!("node{n}"));
            prop_assert_eq!(plan(&state, &node), naive(&state, &node));
        }
    }

    #[test]
    fn what_went_before_makes_no_difference(worlds in prop::collection::vec(any_world(), 1..5)) {
        for n in 1..4 {
            let node: NodeName = name(&format!("node{n}"));
            let mut planner = Planner::new(node.clone());
            for (nodes, networks, endpoints) in &worlds {
                let state = state_of(nodes, networks, endpoints);
                prop_assert_eq!(planner.plan(&state), naive(&state, &node));
            }
        }
    }
}
