//! The rows of every map for a plan: a pure function, so that what the programs will see can be
//! tested without a kernel.

use std::collections::{BTreeMap, BTreeSet};

use overlay_ebpf::{
    abi::{
        Addr, Bucket, Config, ENDPOINT_REDIRECT, Endpoint, FloodKey, MAX_FLOOD_VTEPS, Member, MemberKey,
        NETWORK_DROPS_BROADCAST, NETWORK_DROPS_MULTICAST, NETWORK_FLOODS_UNKNOWN, NETWORK_HAS_PORTS,
        NETWORK_TRUNK, Network, PORT_FULL, Port, SELF_VTEP, VTEP_RESOLVED, VTEP_V6, Vtep,
    },
    wire::ecn::OuterClass,
};

use super::{index::Indices, ports::LocalPort, row};
use crate::{
    Vni,
    datapath::{Mode, Underlay},
    plan::{self, Plan},
    state::{Dscp, EndpointId, Flooding, NodeName, Vlan},
};

/// Rows by map, of all maps but those that have rows for every endpoint wherever it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// `config`.
    pub config: Config,
    /// `ports`.
    pub ports: BTreeMap<u32, Port>,
    /// `locals`: this node's own endpoints by their slots. All hosts behind a gateway port have its slot, and
    /// rows that differ in nothing that is asked for there.
    pub locals: BTreeMap<u32, Endpoint>,
    /// `members`.
    pub members: BTreeMap<MemberKey, Member>,
    /// `vtep_addrs`.
    pub vtep_addrs: BTreeMap<Addr, Member>,
    /// `vteps`.
    pub vteps: BTreeMap<u32, Vtep>,
    /// `networks`.
    pub networks: BTreeMap<u32, Network>,
    /// `bum_buckets`: those that must be there, whatever is in them.
    pub bum_buckets: BTreeMap<u32, Bucket>,
    /// `slow_devices`.
    pub slow_devices: BTreeMap<u32, u32>,
    /// `flood_vteps`.
    pub flood_vteps: BTreeMap<FloodKey, u32>,
    /// `flood_ports`.
    pub flood_ports: BTreeMap<FloodKey, u32>,
    /// `redirect_targets`.
    pub redirect_targets: BTreeSet<u32>,
}

/// What rows depend on besides the plan and the underlay: what is on this node.
#[derive(Clone)]
pub struct Local {
    /// Which way in is used.
    pub mode: Mode,
    /// Reserved bits of the VXLAN header are ignored.
    pub ignore_reserved_bits: bool,
    /// The kernel takes the mark of a tunnel off what is stripped.
    pub decap_clears_tunnel: bool,
    /// Interface indices of this node's endpoints; one without is left out.
    pub devices: BTreeMap<EndpointId, u32>,
    /// Those among them that XDP redirects to.
    pub redirected: BTreeSet<u32>,
    /// This node's gateway ports; one without is left out.
    pub ports: BTreeMap<EndpointId, LocalPort>,
    /// Interfaces that gateway ports redirect to on the way to other nodes.
    pub ways_out: BTreeSet<u32>,
    /// Interface indices of the kernel's VXLAN devices.
    pub slow: BTreeMap<Vni, u32>,
    /// Rows of `fdb` less one.
    pub fdb_mask: u32,
    /// Rows of nodes in `vteps`.
    pub vteps: Indices<NodeName>,
    /// Rows of this node's endpoints in `endpoint_stats`.
    pub slots: Indices<EndpointId>,
}

impl Rows {
    /// Computes all rows but those of `endpoints`, `neighbours` and `fdb`, which there may be a million of.
    #[must_use]
    pub fn of(plan: &Plan, underlay: &Underlay, local: &Local) -> Self {
        let mut rows = Self { config: row::config(underlay, local), ..Self::default() };
        for addr in &plan.protected {
            rows.vtep_addrs.insert((*addr).into(), Member { vtep: SELF_VTEP });
        }
        for (node, vtep) in &plan.vteps {
            let Some(index) = local.vteps.get(node) else { continue };
            rows.vtep_addrs.insert(vtep.addr.into(), Member { vtep: index });
            rows.vteps.insert(index, row::vtep(vtep.addr, underlay));
        }
        for (vni, network) in &plan.networks {
            rows.add_network(*vni, network, plan, local);
        }
        rows.redirect_targets.extend(&local.ways_out);
        rows
    }

    fn add_network(&mut self, vni: Vni, network: &plan::Network, plan: &Plan, local: &Local) {
        let slow = local.slow.get(&vni).copied().unwrap_or(0);
        if slow != 0 {
            self.slow_devices.insert(slow, vni.get());
        }
        let class = match network.policy.dscp {
            Dscp::Inherit => OuterClass::INHERIT,
            Dscp::Fixed(dscp) => OuterClass::fixed(dscp),
        };
        let mut ports = BTreeSet::new();
        for (mac, endpoint) in &network.local {
            let Some(row) = row::endpoint(&network.station(endpoint), local) else { continue };
            self.locals.insert(row.slot.into(), row);
            ports.insert(row.ifindex);
            if row.flags & ENDPOINT_REDIRECT != 0 {
                self.redirect_targets.insert(row.ifindex);
            }
            let Endpoint { ifindex, slot, addr4, addr6, .. } = row;
            let port = Port {
                vni: vni.get(),
                slot: slot.into(),
                mac: *mac,
                class,
                addr4,
                addr6,
                mtu: network.mtu.unwrap_or(u16::MAX),
                ..Port::default()
            };
            self.ports.insert(ifindex, port);
        }
        for host in network.learned.keys().filter_map(|mac| network.endpoint(*mac)) {
            let row = row::endpoint(&host, local).filter(|row| row.vtep == SELF_VTEP);
            self.locals.extend(row.map(|row| (row.slot.into(), row)));
        }
        for (id, port) in &network.ports {
            let (Some(found), Some(stats)) = (local.ports.get(id), local.slots.get(id)) else { continue };
            ports.insert(found.ifindex);
            if found.takes_redirects {
                self.redirect_targets.insert(found.ifindex);
            }
            let flags = if port.full { PORT_FULL } else { 0 };
            self.ports.insert(
                found.ifindex,
                Port {
                    vni: vni.get(),
                    slot: stats,
                    class,
                    flags,
                    mtu: network.mtu.unwrap_or(u16::MAX),
                    ..Port::default()
                },
            );
        }
        let flood: Vec<u32> = network.members.iter().filter_map(|node| local.vteps.get(node)).collect();
        for node in &network.members {
            if let (Some(vtep), Some(index)) = (plan.vteps.get(node), local.vteps.get(node)) {
                self.members
                    .insert(MemberKey { vni: vni.get(), addr: vtep.addr.into() }, Member { vtep: index });
            }
        }
        // A copy for a node whose neighbour entry is unknown, or over IPv6, cannot be sent by the program:
        // then the kernel's device, which can wait for the neighbour, makes all of them.
        let can_be_sent = |vtep: &Vtep| vtep.flags & (VTEP_RESOLVED | VTEP_V6) == VTEP_RESOLVED;
        let all_can = flood.iter().all(|index| self.vteps.get(index).is_some_and(can_be_sent));
        let flood_vteps = if all_can { len(flood.len()) } else { MAX_FLOOD_VTEPS + 1 };
        // Of more, the programs send to none.
        let sent_to = if flood.len() <= MAX_FLOOD_VTEPS as usize { &flood[..] } else { &[] };
        for (slot, index) in (0..).zip(sent_to) {
            self.flood_vteps.insert(FloodKey { vni: vni.get(), slot }, *index);
        }
        for (slot, ifindex) in (0..).zip(&ports) {
            self.flood_ports.insert(FloodKey { vni: vni.get(), slot }, *ifindex);
        }
        // What the ways to all of them carry. One that is not there yet is no reason to refuse a frame.
        let carried = flood.iter().filter_map(|index| self.vteps.get(index)).filter(|v| v.ifindex != 0);
        let flood_mtu = carried.map(|vtep| vtep.mtu).chain(network.mtu.map(u32::from)).min();
        let row = Network {
            slow_ifindex: slow,
            flood_vteps,
            flood_ports: len(ports.len()),
            flags: flags(network),
            bum_rate: network.policy.bum_rate,
            flood_mtu: flood_mtu.unwrap_or(u16::MAX.into()),
        };
        self.networks.insert(vni.get(), row);
        self.bum_buckets.insert(vni.get(), Bucket::default());
    }
}

fn flags(network: &plan::Network) -> u32 {
    let flooding = network.flooding();
    [
        (flooding.broadcast == Flooding::Drop, NETWORK_DROPS_BROADCAST),
        (flooding.multicast == Flooding::Drop, NETWORK_DROPS_MULTICAST),
        (flooding.unknown_unicast == Flooding::Flood, NETWORK_FLOODS_UNKNOWN),
        (network.policy.vlan == Vlan::Trunk, NETWORK_TRUNK),
        (network.has_ports, NETWORK_HAS_PORTS),
    ]
    .into_iter()
    .filter_map(|(set, flag)| set.then_some(flag))
    .sum()
}

fn len(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use overlay_ebpf::abi::{UDP6_ZERO_CHECKSUM, UNDERLAY_V6, VTEP_CHECKSUM};

    use imbl::OrdMap;

    use super::*;
    use crate::{
        MacAddr,
        datapath::Route,
        state::{self, Delivery, Policy},
    };

    fn mac(last: u8) -> MacAddr {
        MacAddr([2, 0x42, 10, 0, 9, last])
    }

    fn addr6(last: u8) -> IpAddr {
        IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 9, last.into()])
    }

    fn plan() -> Plan {
        let endpoint = |id: &str, last: u8, node: &NodeName| state::Endpoint {
            id: id.parse().unwrap(),
            node: node.clone(),
            mac: mac(last),
            addresses: vec![IpAddr::from([10, 0, 9, last]), addr6(last)].into(),
            delivery: Delivery::Xdp,
            words: state::Words::default(),
        };
        let (here, node): (NodeName, NodeName) = ("node1".parse().unwrap(), "node2".parse().unwrap());
        let mut network = plan::Network::new("net".parse().unwrap(), here.clone(), None, Policy::default());
        network.insert(endpoint("00000000000a", 2, &here).into());
        network.insert(endpoint("00000000000b", 3, &node).into());
        let addr = IpAddr::from([192, 0, 2, 2]);
        Plan {
            vteps: OrdMap::unit(node, plan::Vtep { addr }),
            networks: [(Vni::new(42).unwrap(), network)].into(),
            protected: [addr, IpAddr::from([192, 0, 2, 1])].into_iter().collect(),
        }
    }

    fn underlay(neighbour: Option<MacAddr>) -> Underlay {
        let addr = IpAddr::from([192, 0, 2, 2]);
        let route = Route { ifindex: 7, source_mac: mac(0xf1), next_hop: addr, neighbour, mtu: 1500 };
        Underlay {
            ifindex: 7,
            name: "eth0".into(),
            driver: "veth".into(),
            addr: [192, 0, 2, 1].into(),
            mac: mac(0xf1),
            mtu: 1500,
            port: 4789,
            udp6_zero_checksum: false,
            peers: [addr].into(),
            routes: [(addr, route)].into(),
        }
    }

    fn rows(plan: &Plan, underlay: &Underlay) -> Rows {
        Rows::of(plan, underlay, &local(&BTreeSet::new(), plan))
    }

    /// The row of an endpoint by its MAC address.
    fn endpoint(plan: &Plan, local: &Local, last: u8) -> Endpoint {
        let network = plan.networks.values().next().unwrap();
        row::endpoint(&network.endpoint(mac(last)).unwrap(), local).unwrap()
    }

    fn local(redirected: &BTreeSet<u32>, plan: &Plan) -> Local {
        let mut vteps = Indices::new(1, 16);
        let mut slots = Indices::new(0, 16);
        vteps.assign(plan.vteps.keys());
        let ids: Vec<EndpointId> = vec!["00000000000a".parse().unwrap()];
        slots.assign(&ids);
        Local {
            mode: Mode::Tc,
            ignore_reserved_bits: false,
            decap_clears_tunnel: false,
            devices: [(ids[0].clone(), 11)].into(),
            redirected: redirected.clone(),
            ports: BTreeMap::new(),
            ways_out: BTreeSet::new(),
            slow: [(Vni::new(42).unwrap(), 21)].into(),
            vteps,
            fdb_mask: 7,
            slots,
        }
    }

    #[test]
    fn a_plan_becomes_rows_that_agree_with_each_other() {
        let rows = rows(&plan(), &underlay(Some(mac(0xf2))));
        let [local, remote] = [2, 3].map(|last| endpoint(&plan(), &local(&BTreeSet::new(), &plan()), last));
        assert_eq!((local.vtep, local.ifindex, local.addr4), (SELF_VTEP, 11, [10, 0, 9, 2]));
        assert_eq!((rows.ports[&11].mac, IpAddr::from(Addr(rows.ports[&11].addr6))), (mac(2), addr6(2)));
        assert_eq!(IpAddr::from(Addr(remote.addr6)), addr6(3));
        assert_eq!(rows.members.values().map(|m| m.vtep).collect::<Vec<_>>(), [remote.vtep]);
        assert_eq!(rows.vteps[&remote.vtep].flags, VTEP_RESOLVED);
        assert_eq!(rows.flood_vteps[&FloodKey { vni: 42, slot: 0 }], remote.vtep);
        let network = Network {
            slow_ifindex: 21,
            flood_vteps: 1,
            flood_ports: 1,
            flags: 0,
            bum_rate: 1000,
            flood_mtu: 1450,
        };
        assert_eq!(rows.networks[&42], network);
        assert!(rows.bum_buckets.contains_key(&42));
        assert_eq!(rows.slow_devices[&21], 42);
        assert_eq!(rows.vtep_addrs.len(), 2);
        let plan = plan();
        let endpoints = plan.networks.values().flat_map(plan::Network::endpoints);
        let neighbours = endpoints.flat_map(|(mac, it)| row::addresses_with_row(mac, it.addresses));
        assert_eq!(neighbours.count(), 2);
    }

    #[test]
    fn an_address_that_the_mac_address_tells_has_no_row() {
        let [one, two] = [[10, 0, 9, 2], [10, 0, 9, 3]].map(Ipv4Addr::from);
        let with_row =
            |mac, addresses: &[IpAddr]| -> Vec<IpAddr> { row::addresses_with_row(mac, addresses).collect() };
        let addresses = [one.into(), two.into(), addr6(2)];
        assert_eq!(with_row(mac(2), &addresses), addresses[1..]);
        // Its row in `endpoints` has the first one.
        assert_eq!(with_row(mac(3), &addresses), addresses);
        assert_eq!(with_row(MacAddr([2, 0, 0, 0, 0, 1]), &addresses), addresses);
    }

    #[test]
    fn frames_are_redirected_to_who_takes_them_only() {
        let [by_tc, by_xdp] = [[].into(), [11].into()].map(|redirected| local(&redirected, &plan()));
        let targets = |local: &Local| Rows::of(&plan(), &underlay(None), local).redirect_targets;
        assert_eq!((targets(&by_tc), targets(&by_xdp)), ([].into(), [11].into()));
        assert_eq!(endpoint(&plan(), &by_tc, 2).flags, 0);
        assert_eq!(endpoint(&plan(), &by_xdp, 2).flags, ENDPOINT_REDIRECT);
        assert_eq!(endpoint(&plan(), &by_xdp, 3).flags, 0);
    }

    #[test]
    fn what_an_owner_decides_is_in_the_rows() {
        let mut plan = plan();
        let network = plan.networks.values_mut().next().unwrap();
        network.mtu = Some(1300);
        network.policy = Policy {
            dscp: Dscp::Fixed(46),
            broadcast: Flooding::Drop,
            unknown_unicast: Flooding::Flood,
            bum_rate: 7,
            vlan: Vlan::Trunk,
            ..Policy::default()
        };
        let of = |plan: &Plan| rows(plan, &underlay(Some(mac(0xf2))));
        let Rows { networks, ports, .. } = of(&plan);
        let row = networks[&42];
        assert_eq!(row.flags, NETWORK_DROPS_BROADCAST | NETWORK_FLOODS_UNKNOWN | NETWORK_TRUNK);
        assert_eq!((row.bum_rate, row.flood_mtu), (7, 1300));
        assert_eq!((ports[&11].class, ports[&11].mtu), (OuterClass::fixed(46), 1300));

        // On as many nodes as its cap it floods, on one more nothing.
        let policy = &mut plan.networks.values_mut().next().unwrap().policy;
        *policy = Policy { flood_cap: Some(1), ..Policy::default() };
        assert_eq!(of(&plan).networks[&42].flags, 0);
        plan.networks.values_mut().next().unwrap().members.insert("node3".parse().unwrap());
        let drops = NETWORK_DROPS_BROADCAST | NETWORK_DROPS_MULTICAST;
        assert_eq!(of(&plan).networks[&42].flags, drops);
    }

    #[test]
    fn without_a_neighbour_the_kernel_floods_and_without_a_route_nothing_is_sent() {
        let unresolved = rows(&plan(), &underlay(None));
        assert!(unresolved.networks[&42].flood_vteps > MAX_FLOOD_VTEPS);
        assert_eq!(unresolved.vteps[&1].flags, 0);
        let unreachable = rows(&plan(), &Underlay { routes: BTreeMap::new(), ..underlay(None) });
        assert_eq!(unreachable.vteps[&1].ifindex, 0);
    }

    #[test]
    fn over_ipv6_headers_are_longer_and_a_node_of_the_other_family_is_not_reached() {
        let (here, there): (IpAddr, IpAddr) =
            ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
        let mut plan = plan();
        let mut underlay = Underlay { addr: here, ..underlay(Some(mac(0xf2))) };
        assert_eq!(rows(&plan, &underlay).vteps[&1].ifindex, 0, "the route is there, but to IPv4");
        let said: Vec<_> = underlay.of_other_family(&plan).collect();
        assert!(said.len() == 1 && said[0].starts_with("node2's tunnel address is IPv4"), "{said:?}");

        plan.vteps.insert("node2".parse().unwrap(), plan::Vtep { addr: there });
        plan.protected = [here, there].into_iter().collect();
        let route = underlay.routes.values().next().unwrap().clone();
        underlay.routes = [(there, Route { next_hop: there, ..route })].into();
        assert_eq!(underlay.of_other_family(&plan).count(), 0);
        let told = rows(&plan, &underlay);
        assert_eq!((told.config.addr4, told.config.flags), ([0; 4], UNDERLAY_V6));
        assert!(told.networks[&42].flood_vteps > MAX_FLOOD_VTEPS, "the kernel floods");
        assert_eq!(told.vteps[&1].flags, VTEP_RESOLVED | VTEP_V6 | VTEP_CHECKSUM);
        assert_eq!(told.vteps[&1].header[38..54], Addr::from(there).0);
        assert!(told.members.contains_key(&MemberKey { vni: 42, addr: there.into() }));
        assert!(told.vtep_addrs.contains_key(&Addr::from(here)));
        underlay.udp6_zero_checksum = true;
        let zero = rows(&plan, &underlay);
        assert_eq!(zero.config.flags, UNDERLAY_V6 | UDP6_ZERO_CHECKSUM);
        assert_eq!(zero.vteps[&1].flags, VTEP_RESOLVED | VTEP_V6);
    }
}
