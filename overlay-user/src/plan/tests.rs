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
        };
        state.networks.insert(name(&format!("net{n}")), network);
    }
    for (network, node, n) in endpoints {
        let endpoint = state::Endpoint {
            node: name(&format!("node{node}")),
            mac: MacAddr([2, 0, 0, 0, 0, *n]),
            addresses: [IpAddr::from([10, 0, 9, *n])].into(),
            names: Vec::new(),
            delivery: Delivery::Tc,
            container: String::new(),
        };
        let key = (name(&format!("net{network}")), name(&format!("{network:06x}{n:06x}")));
        state.endpoints.insert(key, endpoint);
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
    assert_eq!(network.members, [name("node2")].into());
    assert_eq!(network.endpoints[&MacAddr([2, 0, 0, 0, 0, 10])].location, Location::Local);
    assert_eq!(network.endpoints[&MacAddr([2, 0, 0, 0, 0, 11])].location, Location::Remote(name("node2")));
    assert_eq!(plan.vteps, [(name("node2"), Vtep { addr: [192, 0, 2, 2].into() })].into());
    assert_eq!(plan.protected.len(), 3);
}

#[test]
fn endpoints_of_nodes_that_are_not_known_are_left_out() {
    let state = state_of(&[1], &[1], &[(1, 1, 10), (1, 2, 11)]);
    let plan = plan(&state, &name("node1"));
    let network = &plan.networks[&Vni::new(101).unwrap()];
    assert_eq!((network.endpoints.len(), network.members.len(), plan.vteps.len()), (1, 0, 0));
}

#[test]
fn a_node_that_is_not_known_carries_nothing_but_protects_all() {
    let state = state_of(&[2], &[1], &[(1, 1, 10), (1, 2, 11)]);
    let plan = plan(&state, &name("node1"));
    assert!(plan.networks.is_empty() && plan.vteps.is_empty());
    assert_eq!(plan.protected, [IpAddr::from([192, 0, 2, 2])].into());
}

/// The plan by its definition, one question at a time over all endpoints.
fn naive(state: &State, node: &NodeName) -> Plan {
    let usable: Vec<_> = state
        .endpoints
        .iter()
        .filter(|((network, _), e)| state.networks.contains_key(network) && state.nodes.contains_key(&e.node))
        .collect();
    let is_in = |node: &NodeName, network: &NetworkName| {
        usable.iter().any(|((of, _), e)| of == network && e.node == *node)
    };
    let carried = || state.networks.iter().filter(|(name, _)| is_in(node, name));
    let members = |network: &NetworkName| -> BTreeSet<_> {
        state.nodes.keys().filter(|&other| other != node && is_in(other, network)).cloned().collect()
    };
    let endpoints = |network: &NetworkName| {
        usable
            .iter()
            .filter(|((of, _), _)| of == network)
            .map(|((_, id), e)| {
                let location =
                    if e.node == *node { Location::Local } else { Location::Remote(e.node.clone()) };
                (
                    e.mac,
                    Endpoint {
                        id: id.clone(),
                        addresses: e.addresses.clone(),
                        location,
                        delivery: e.delivery,
                        learned: false,
                    },
                )
            })
            .collect()
    };
    Plan {
        vteps: carried()
            .flat_map(|(name, _)| members(name))
            .map(|member| (member.clone(), Vtep { addr: state.nodes[&member].vtep }))
            .collect(),
        networks: carried()
            .map(|(name, network)| {
                let (members, endpoints) = (members(name), endpoints(name));
                let (ports, has_ports, policy) = (BTreeMap::new(), false, network.policy);
                let (name, mtu) = (name.clone(), network.mtu);
                (network.vni, Network { name, mtu, policy, members, endpoints, ports, has_ports })
            })
            .collect(),
        protected: state.nodes.values().map(|n| n.vtep).collect(),
    }
}

proptest! {
    #[test]
    fn it_is_what_the_definition_says(
        nodes in prop::collection::vec(1..6_u8, 0..6),
        networks in prop::collection::vec(1..5_u8, 0..5),
        endpoints in prop::collection::vec((1..5_u8, 1..7_u8, 2..30_u8), 0..40),
    ) {
        let state = state_of(&nodes, &networks, &endpoints);
        for n in 1..7 {
            let node = name(&format!("node{n}"));
            prop_assert_eq!(plan(&state, &node), naive(&state, &node));
        }
    }
}
