//! Clusters that mix every data path with a third party's VTEP.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use overlay_ebpf::abi::MacAddr;
use overlay_tests::{
    cluster::{Cluster, Network},
    container::Container,
    node::Datapath::{Auto, Kernel, Tc, Xdp},
    probe::{ping, ping_all, transfer},
    third_party::ThirdParty,
    wire::Card,
};

const BLUE: Network<'_> = Network { name: "blue", vni: 4242, subnet: "10.1.0.0/24" };

/// What is moved by TCP from each to each.
const BYTES: u64 = 2_000_000;

/// Everything one container must be able to do with another.
fn talk(from: &Container, to: &Container) -> Result<()> {
    ping_all(from, to)?;
    // The largest packet, unfragmented: IPv4 and ICMP headers are 28 bytes.
    let size = (from.mtu - 28).to_string();
    let loss = ping(&from.netns, to.addr, 3, &["-M", "do", "-s", &size])?;
    ensure!(loss.lost() == 0, "packets of {} bytes from {} to {}: {loss}", from.mtu, from.name, to.name);
    transfer(&from.netns, &to.netns, to.addr, BYTES)
        .with_context(|| format!("TCP from {} to {}", from.name, to.name))?;
    Ok(())
}

/// Has everyone talk to everyone and reports all that fail.
fn all_talk(containers: &[Container]) {
    let pairs = containers.iter().flat_map(|from| containers.iter().map(move |to| (from, to)));
    let failures: Vec<_> = pairs
        .filter(|(from, to)| from.addr != to.addr)
        .filter_map(|(from, to)| talk(from, to).err())
        .map(|error| format!("{error:#}\n"))
        .collect();
    assert!(failures.is_empty(), "{}", failures.concat());
}

#[test]
fn every_pair_of_data_paths_and_a_third_party_forward_both_ways() {
    let cluster = Cluster::start(&[Xdp, Tc, Kernel, Xdp, Tc, Kernel]).unwrap();
    cluster.create_network(BLUE).unwrap();
    let mut containers: Vec<_> = ["xdp1", "tc1", "kernel1", "xdp2", "tc2", "kernel2"]
        .into_iter()
        .zip(&cluster.nodes)
        .map(|(name, node)| Container::attach(node, BLUE.name, name, &[]).unwrap())
        .collect();

    let vtep = ThirdParty::plug(&cluster.wire, "other").unwrap();
    vtep.join(BLUE.vni).unwrap();
    for (container, node) in containers.iter().zip(&cluster.nodes) {
        vtep.flood_to(BLUE.vni, node.addr()).unwrap();
        vtep.learn(BLUE.vni, container.mac, node.addr()).unwrap();
    }
    let (addr, mac) = (Ipv4Addr::new(10, 1, 0, 200), MacAddr([2, 0, 0, 0, 0, 0xc8]));
    let (vtep_addr, ip) = (vtep.addr().to_string(), addr.to_string());
    let node = &cluster.nodes[0];
    node.ctl(&["node", "add-static", "other", "--vtep", &vtep_addr]).unwrap();
    let add =
        ["endpoint", "add-static", BLUE.name, "--node", "other", "--ip", &ip, "--mac", &mac.to_string()];
    node.ctl(&add).unwrap();
    containers.push(vtep.container(BLUE.vni, "other1", addr, mac).unwrap());

    all_talk(&containers);
    for (node, mode) in cluster.nodes.iter().zip(["xdp", "tc", "kernel"].into_iter().cycle()) {
        assert_eq!(node.status().unwrap()["datapath"]["mode"], mode);
    }
}

#[test]
fn containers_of_one_node_reach_each_other_on_every_data_path() {
    let cluster = Cluster::start(&[Xdp, Tc, Kernel]).unwrap();
    cluster.create_network(BLUE).unwrap();
    for node in &cluster.nodes {
        let containers = ["a", "b"].map(|name| {
            let name = format!("{name}{}", node.name());
            Container::attach(node, BLUE.name, &name, &[]).unwrap()
        });
        all_talk(&containers);
    }
}

#[test]
fn a_card_without_native_xdp_gets_tc_and_status_says_why() {
    let cluster = Cluster::start_with(&[("n1", Card::Macvlan, Auto), ("n2", Card::Veth, Xdp)]).unwrap();
    cluster.create_network(BLUE).unwrap();
    let containers: Vec<_> = cluster
        .nodes
        .iter()
        .map(|node| Container::attach(node, BLUE.name, node.name(), &[]).unwrap())
        .collect();
    all_talk(&containers);

    let datapath = &cluster.nodes[0].status().unwrap()["datapath"];
    assert_eq!(datapath["mode"], "tc", "{datapath}");
    let reason = datapath["reason"].as_str().unwrap();
    assert!(reason.contains("XDP") && reason.contains("macvlan"), "{reason}");
}

#[test]
fn every_choice_of_data_path_has_a_reason() {
    let cluster = Cluster::start(&[Auto, Xdp, Tc, Kernel]).unwrap();
    for (node, asked) in cluster.nodes.iter().zip(["auto", "xdp", "tc", "kernel"]) {
        let datapath = &node.status().unwrap()["datapath"];
        let reason = datapath["reason"].as_str().unwrap();
        assert!(!reason.is_empty());
        if asked != "auto" {
            assert_eq!(datapath["mode"], asked);
            assert!(reason.contains("--datapath"), "{reason}");
        }
    }
}

#[test]
fn native_xdp_that_is_demanded_of_a_card_without_it_is_refused_in_one_line() {
    let cluster = Cluster::start(&[Tc]).unwrap();
    let mut node = overlay_tests::node::Node::plug(&cluster.wire, "n9", Card::Macvlan, Xdp, &[]).unwrap();
    node.launch().unwrap();
    let status = node.daemon().unwrap().wait(std::time::Duration::from_secs(10)).unwrap();
    let log = node.log();
    assert!(!status.success(), "{log}");
    let last = log.lines().last().unwrap();
    assert!(last.contains("XDP") && last.contains("--datapath"), "{last}");
}

#[test]
fn endpoints_that_come_and_go_are_forwarded_to_and_forgotten() {
    let cluster = Cluster::start(&[Xdp, Tc, Kernel]).unwrap();
    cluster.create_network(BLUE).unwrap();
    let stay: Vec<_> = cluster
        .nodes
        .iter()
        .map(|node| Container::attach(node, BLUE.name, node.name(), &[]).unwrap())
        .collect();
    for node in &cluster.nodes {
        let guest = Container::attach(node, BLUE.name, "guest", &[]).unwrap();
        for other in &stay {
            talk(other, &guest).unwrap();
        }
        node.ctl(&["endpoint", "detach", &guest.id]).unwrap();
        for other in &stay {
            let silent = || {
                let loss = ping(&other.netns, guest.addr, 1, &[])?;
                ensure!(loss.received == 0, "{} still reaches an endpoint that is gone", other.name);
                Ok(())
            };
            overlay_tests::exec::eventually(std::time::Duration::from_secs(5), silent).unwrap();
        }
    }
    all_talk(&stay);
}
