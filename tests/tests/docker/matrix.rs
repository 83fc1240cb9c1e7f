//! What networks and containers can be asked to be, with each Docker.

use std::net::Ipv4Addr;

use overlay_tests::docker::{DockerCluster, DockerNode, Release, World};

use crate::stage::{RESOLVER, can, create, has, has_not, once};

const SERVE: [&str; 4] = ["httpd", "-f", "-h", "/www"];

fn options(release: Release) {
    let mut cluster = DockerCluster::start(&[release; 2], &RESOLVER).unwrap();
    let world = World::new(&cluster.wire).unwrap();
    let [one, two] = [0, 1].map(|index| &cluster.nodes[index]);
    addresses_are_given_as_asked(one, two);
    ipv6_is_beside_ipv4(one, two);
    a_mac_address_is_the_containers(one, two);
    options_are_the_networks(one, two);
    ports_are_published(one, &world);
    refused_by_name(one);
    a_node_that_joins_later_has_all_networks(&mut cluster);
}

#[test]
#[ignore = "every option with each Docker: cargo xtask test --full"]
fn every_option_is_done_by_each_docker() {
    Release::ALL.into_iter().for_each(options);
}

fn addresses_are_given_as_asked(one: &DockerNode, two: &DockerNode) {
    let ipam = ["--subnet", "10.1.0.0/16", "--ip-range", "10.1.5.0/24", "--gateway", "10.1.5.200"];
    let aux = ["--aux-address", "router=10.1.5.1", "--aux-address", "printer=10.1.5.2"];
    create(one, "ranged", &[&ipam[..], &aux].concat());
    has(two, "ranged", "10.1.0.0/16");
    for field in ["10.1.5.0/24", "10.1.5.200", "10.1.5.2"] {
        assert!(two.docker.inspect("ranged", "json .IPAM.Config").unwrap().contains(field), "{field}");
    }
    let shown = two.node.ctl(&["network", "inspect", "ranged"]).unwrap();
    assert!(shown.contains("printer=10.1.5.2, router=10.1.5.1"), "{shown}");
    let kept = ["10.1.5.1", "10.1.5.2", "10.1.5.200"].map(|addr| addr.parse::<Ipv4Addr>().unwrap());
    for (node, name) in [(one, "first"), (two, "second"), (one, "third"), (two, "fourth")] {
        node.docker.idle(name, "ranged", &[]).unwrap();
        let addr: Ipv4Addr = node.docker.addr(name, "ranged").unwrap();
        assert!(addr.octets()[..3] == [10, 1, 5] && !kept.contains(&addr), "{name} has {addr}");
    }
    // Outside the range, but of the subnet.
    once(two, "ranged", &["--ip", "10.1.77.7"], "true").unwrap();
    let run = ["run", "--rm", "--network", "ranged", "--ip", "10.1.5.2", "box", "true"];
    let said = two.docker.refused(&run).unwrap();
    assert!(said.contains("printer"), "{said}");
    one.docker.docker(&["rm", "-f", "first", "third"]).unwrap();
    two.docker.docker(&["rm", "-f", "second", "fourth"]).unwrap();
    one.docker.docker(&["network", "rm", "ranged"]).unwrap();
    has_not(two, "ranged");
}

fn ipv6_is_beside_ipv4(one: &DockerNode, two: &DockerNode) {
    create(one, "dual", &["--ipv6", "--subnet", "10.2.0.0/24", "--subnet", "fd00:2::/64"]);
    has(two, "dual", "fd00:2::/64");
    one.docker.idle("alpha", "dual", &[]).unwrap();
    two.docker.idle("beta", "dual", &["--ip6", "fd00:2::77"]).unwrap();
    can(one, "alpha", "ping6 -c1 -W1 fd00:2::77");
    can(one, "alpha", "ping -c1 -W1 beta");
    can(one, "alpha", "ping6 -c1 -W1 beta");
    one.docker.docker(&["rm", "-f", "alpha"]).unwrap();
    two.docker.docker(&["rm", "-f", "beta"]).unwrap();
    two.docker.docker(&["network", "rm", "dual"]).unwrap();
    has_not(one, "dual");
}

fn a_mac_address_is_the_containers(one: &DockerNode, two: &DockerNode) {
    const MAC: &str = "02:00:00:00:00:42";
    create(one, "wired", &["--subnet", "10.3.0.0/24"]);
    has(two, "wired", "10.3.0.0/24");
    one.docker.idle("alpha", "wired", &["--mac-address", MAC]).unwrap();
    two.docker.idle("beta", "wired", &[]).unwrap();
    assert!(one.docker.exec("alpha", "ip link show eth0").unwrap().contains(MAC));
    can(two, "beta", "ping -c1 -W1 alpha");
    one.docker.docker(&["rm", "-f", "alpha"]).unwrap();
    two.docker.docker(&["rm", "-f", "beta"]).unwrap();
    one.docker.docker(&["network", "rm", "wired"]).unwrap();
    has_not(two, "wired");
}

fn options_are_the_networks(one: &DockerNode, two: &DockerNode) {
    create(one, "tuned", &["--subnet", "10.4.0.0/24", "-o", "mtu=1300", "-o", "vni=77777"]);
    has(two, "tuned", "10.4.0.0/24");
    let shown = two.node.json(&["network", "inspect", "tuned"]).unwrap().to_string();
    assert!(shown.contains("77777") && shown.contains("1300"), "{shown}");
    let link = once(two, "tuned", &[], "ip link show eth0").unwrap();
    assert!(link.contains("mtu 1300"), "{link}");
    one.docker.docker(&["network", "rm", "tuned"]).unwrap();
    has_not(two, "tuned");
}

fn ports_are_published(one: &DockerNode, world: &World) {
    create(one, "front", &["--subnet", "10.5.0.0/24"]);
    one.docker.run("web", "front", &["-p", "8080:80"], &SERVE).unwrap();
    let url = format!("http://{}:8080", one.node.addr());
    assert_eq!(world.get(&url).unwrap(), "it works\n");
    one.docker.docker(&["rm", "-f", "web"]).unwrap();
    one.docker.docker(&["network", "rm", "front"]).unwrap();
}

fn refused_by_name(one: &DockerNode) {
    let create = ["network", "create", "-d", "overlayd"];
    let said = one.docker.refused(&[&create[..], &["--subnet", "10.6.0.0/24", "bare"]].concat()).unwrap();
    assert!(said.contains("--ipam-driver overlayd"), "{said}");
    let ours = [&create[..], &["--ipam-driver", "overlayd"]].concat();
    let said =
        one.docker.refused(&[&ours[..], &["--subnet", "10.6.0.0/24", "-o", "colour=red", "odd"]].concat());
    assert!(said.unwrap().contains("colour"));
    one.node.ctl(&["network", "create", "first", "--subnet", "10.6.0.0/16"]).unwrap();
    let said = one.docker.refused(&[&ours[..], &["--subnet", "10.6.1.0/24", "second"]].concat()).unwrap();
    assert!(said.contains("first"), "{said}");
    one.node.ctl(&["network", "rm", "first"]).unwrap();
    has_not(one, "first");
}

fn a_node_that_joins_later_has_all_networks(cluster: &mut DockerCluster) {
    let release = cluster.nodes[0].docker.release();
    create(&cluster.nodes[0], "old", &["--subnet", "10.7.0.0/24"]);
    cluster.nodes[1].node.ctl(&["network", "create", "older", "--subnet", "10.8.0.0/24"]).unwrap();
    cluster.nodes[0].docker.run("web", "old", &[], &SERVE).unwrap();
    cluster.add(release, &RESOLVER, &[]).unwrap();
    cluster.wait_ready().unwrap();
    let joined = &cluster.nodes[2];
    has(joined, "old", "10.7.0.0/24");
    has(joined, "older", "10.8.0.0/24");
    assert_eq!(once(joined, "old", &[], "timeout 5 wget -q -O- http://web").unwrap(), "it works");
}
