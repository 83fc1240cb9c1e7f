//! What a user does with two machines, from the first network to the last.

use std::{
    net::{IpAddr, Ipv4Addr},
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;
use ipnet::Ipv4Net;
use overlay_tests::{
    docker::{DockerCluster, DockerNode, Release, World, interface},
    exec::eventually,
};

use crate::stage::{
    HEARD, RESOLVER, can, cannot, create, created, endpoints, has, has_endpoints, has_not, once,
};

const NET: &str = "my-net";
const SUBNET: &str = "10.0.9.0/24";
const SERVE: [&str; 4] = ["httpd", "-f", "-h", "/www"];

/// Everything of the two nodes, in the order in which a user would come to it.
fn journey(release: Release) {
    let cluster = DockerCluster::start(&[release; 2], &RESOLVER).unwrap();
    let world = World::new(&cluster.wire).unwrap();
    let [one, two] = [0, 1].map(|index| &cluster.nodes[index]);
    a_network_is_everywhere(one, two);
    containers_find_each_other(one, two, &world);
    an_address_that_is_taken_names_its_holder(one, two);
    names_follow(one, two);
    containers_are_on_several_networks(one, two);
    an_internal_network_leads_nowhere(one, two, &world);
    a_network_in_use_stays(one, two);
    one_of_two_networks_of_a_name_wins(one, two);
    the_tool_and_docker_make_the_same_networks(one, two);
}

#[test]
fn the_newest_docker_has_networks_and_names_on_all_nodes() {
    journey(Release::Newest);
}

#[test]
#[ignore = "the same with Docker 20.10: cargo xtask test --full"]
fn docker_20_10_has_networks_and_names_on_all_nodes() {
    journey(Release::V20_10);
}

fn a_network_is_everywhere(one: &DockerNode, two: &DockerNode) {
    create(one, NET, &["--subnet", SUBNET]);
    has(two, NET, SUBNET);
    let took = created(two, NET).unwrap().saturating_sub(created(one, NET).unwrap());
    eprintln!("{}: a network was on the other node after {took:?}", one.docker.release());
    assert!(took < Duration::from_secs(2), "it took {took:?}");
}

fn containers_find_each_other(one: &DockerNode, two: &DockerNode, world: &World) {
    one.docker.run("web", NET, &[], &SERVE).unwrap();
    // By name, first try.
    assert_eq!(once(two, NET, &[], "timeout 5 wget -q -O- http://web").unwrap(), "it works");
    let pinged = once(two, NET, &[], "ping -c1 -W1 web").unwrap();
    assert!(pinged.contains("1 packets received"), "{pinged}");

    let addr: Ipv4Addr = one.docker.addr("web", NET).unwrap();
    assert!(SUBNET.parse::<Ipv4Net>().unwrap().contains(&addr), "{addr} is not of {SUBNET}");
    let link = one.docker.exec("web", "ip link show eth0").unwrap();
    assert!(link.contains("mtu 1450"), "{link}");
    let web = one.docker.netns("web").unwrap();
    assert_eq!(interface(&web, addr.into()).unwrap(), "eth0");
    // The way out is Docker's own, by a second interface.
    let routes = one.docker.exec("web", "ip route").unwrap();
    let way_out = routes.lines().find(|line| line.starts_with("default"));
    assert!(way_out.is_some_and(|line| line.contains("dev eth1")), "{routes}");
    one.docker.exec("web", &world.ask()).unwrap();
    let shown = one.node.json(&["endpoint", "ls"]).unwrap().to_string();
    assert!(shown.contains("\"web\""), "{shown}");
}

fn an_address_that_is_taken_names_its_holder(one: &DockerNode, two: &DockerNode) {
    let taken: IpAddr = one.docker.addr("web", NET).unwrap();
    let run =
        ["run", "--rm", "--network", NET, "--ip", &taken.to_string(), overlay_tests::docker::IMAGE, "true"];
    for node in [one, two] {
        let said = node.docker.refused(&run).unwrap();
        assert!(said.contains("used by web on node1"), "{said}");
    }
    let free = "10.0.9.77";
    let shown = once(two, NET, &["--ip", free], "ip address show eth0").unwrap();
    assert!(shown.contains(&format!("{free}/24")), "{shown}");
}

fn names_follow(one: &DockerNode, two: &DockerNode) {
    two.docker.idle("client", NET, &["--network-alias", "customer", "--network-alias", "guest"]).unwrap();
    for name in ["client", "customer", "guest", "client.my-net"] {
        can(one, "web", &format!("ping -c1 -W1 {name}"));
    }
    let id = two.docker.inspect("client", ".Id").unwrap();
    can(one, "web", &format!("ping -c1 -W1 {}", &id[..12]));
    two.docker.exec("client", "ping -c1 -W1 web").unwrap();
    cannot(two, "client", "nslookup nobody");

    one.docker.docker(&["rename", "web", "shop"]).unwrap();
    can(two, "client", "timeout 5 wget -q -O /dev/null http://shop");
    cannot(two, "client", "ping -c1 -W1 web");
    one.docker.docker(&["rename", "shop", "web"]).unwrap();
    can(two, "client", "ping -c1 -W1 web");

    one.docker.docker(&["restart", "-t", "0", "web"]).unwrap();
    can(two, "client", "timeout 5 wget -q -O /dev/null http://web");
    one.docker.docker(&["kill", "web"]).unwrap();
    cannot(two, "client", "ping -c1 -W1 web");
    one.docker.docker(&["start", "web"]).unwrap();
    can(two, "client", "timeout 5 wget -q -O /dev/null http://web");

    let before = endpoints(one, NET).unwrap().len();
    let fixed = ["--ip", "10.0.9.50"];
    one.docker.idle("short", NET, &fixed).unwrap();
    can(two, "client", "ping -c1 -W1 short");
    one.docker.docker(&["restart", "-t", "0", "short"]).unwrap();
    can(two, "client", "ping -c1 -W1 short");
    // Made anew with the address it had, as Compose does.
    one.docker.docker(&["rm", "-f", "short"]).unwrap();
    one.docker.idle("short", NET, &fixed).unwrap();
    can(two, "client", "ping -c1 -W1 short");
    one.docker.docker(&["rm", "-f", "short"]).unwrap();
    // Or on another node, at once, and who knew it there finds it here.
    let begun = Instant::now();
    two.docker.idle("short", NET, &fixed).unwrap();
    one.docker.exec("web", "ping -c1 -W1 10.0.9.50").unwrap();
    two.docker.exec("client", "ping -c1 -W1 10.0.9.50").unwrap();
    eprintln!("{}: an address moved to the other node in {:?}", one.docker.release(), begun.elapsed());
    two.docker.docker(&["rm", "-f", "short"]).unwrap();
    has_endpoints(two, NET, before);
    cannot(two, "client", "nslookup short");
}

fn containers_are_on_several_networks(one: &DockerNode, two: &DockerNode) {
    create(two, "back", &["--subnet", "10.0.10.0/24"]);
    has(one, "back", "10.0.10.0/24");
    two.docker.idle("store", "back", &[]).unwrap();
    cannot(one, "web", "nslookup store");
    // Live, and back again.
    one.docker.docker(&["network", "connect", "back", "web"]).unwrap();
    can(one, "web", "ping -c1 -W1 store");
    can(two, "store", "ping -c1 -W1 web");
    can(two, "client", "ping -c1 -W1 web");
    one.docker.docker(&["network", "disconnect", "back", "web"]).unwrap();
    cannot(one, "web", "nslookup store");
    cannot(two, "store", "nslookup web");
    can(two, "client", "ping -c1 -W1 web");
    two.docker.docker(&["rm", "-f", "store"]).unwrap();
    one.docker.docker(&["network", "rm", "back"]).unwrap();
    has_not(two, "back");
}

fn an_internal_network_leads_nowhere(one: &DockerNode, two: &DockerNode, world: &World) {
    create(one, "cellar", &["--internal", "--subnet", "10.0.11.0/24"]);
    has(two, "cellar", "10.0.11.0/24");
    assert_eq!(two.docker.inspect("cellar", ".Internal").unwrap(), "true");
    one.docker.idle("barrel", "cellar", &[]).unwrap();
    two.docker.idle("bottle", "cellar", &[]).unwrap();
    can(two, "bottle", "ping -c1 -W1 barrel");
    let routes = one.docker.exec("barrel", "ip route").unwrap();
    assert!(!routes.contains("default") && !routes.contains("eth1"), "{routes}");
    one.docker.exec("barrel", &world.ask()).unwrap_err();
    one.docker.docker(&["rm", "-f", "barrel"]).unwrap();
    two.docker.docker(&["rm", "-f", "bottle"]).unwrap();
    two.docker.docker(&["network", "rm", "cellar"]).unwrap();
    has_not(one, "cellar");
}

fn a_network_in_use_stays(one: &DockerNode, two: &DockerNode) {
    two.docker.docker(&["rm", "-f", "client"]).unwrap();
    has_endpoints(one, NET, 1);
    // This Docker has nobody on it, and lets it go; the other node's has.
    let before = two.docker.inspect(NET, ".Id").unwrap();
    two.docker.docker(&["network", "rm", NET]).unwrap();
    has(two, NET, SUBNET);
    assert_ne!(two.docker.inspect(NET, ".Id").unwrap(), before);
    let log = two.node.log();
    assert!(log.lines().any(|line| line.contains(NET) && line.contains("in use by web on node1")), "{log}");
    once(two, NET, &[], "timeout 5 wget -q -O /dev/null http://web").unwrap();

    one.docker.docker(&["rm", "-f", "web"]).unwrap();
    two.docker.docker(&["network", "rm", NET]).unwrap();
    has_not(one, NET);
    has_endpoints(one, NET, 0);
}

fn one_of_two_networks_of_a_name_wins(one: &DockerNode, two: &DockerNode) {
    let subnets = ["10.0.21.0/24", "10.0.22.0/24"];
    thread::scope(|scope| {
        for (node, subnet) in [one, two].into_iter().zip(subnets) {
            scope.spawn(move || create(node, "twin", &["--subnet", subnet]));
        }
    });
    let both = || {
        [one, two].map(|node| {
            node.docker.inspect("twin", "range .IPAM.Config}}{{.Subnet}}{{end").unwrap_or_default()
        })
    };
    let subnet = eventually(HEARD, || {
        let [a, b] = both();
        ensure!(a == b && subnets.contains(&a.as_str()), "{a:?} and {b:?}");
        Ok(a)
    })
    .unwrap();
    let loser = if subnet == subnets[0] { two } else { one };
    let told = loser.node.ctl(&["status"]).unwrap();
    assert!(told.contains("twin exists already"), "{told}");
    // It is one network.
    one.docker.idle("left", "twin", &[]).unwrap();
    two.docker.idle("right", "twin", &[]).unwrap();
    can(one, "left", "ping -c1 -W1 right");
    one.docker.docker(&["rm", "-f", "left"]).unwrap();
    two.docker.docker(&["rm", "-f", "right"]).unwrap();
    one.docker.docker(&["network", "rm", "twin"]).unwrap();
    has_not(two, "twin");
}

fn the_tool_and_docker_make_the_same_networks(one: &DockerNode, two: &DockerNode) {
    one.node.ctl(&["network", "create", "tool", "--subnet", "10.0.31.0/24"]).unwrap();
    for node in [one, two] {
        has(node, "tool", "10.0.31.0/24");
        assert_eq!(node.docker.inspect("tool", ".Driver").unwrap(), "overlayd");
    }
    one.docker.idle("alpha", "tool", &[]).unwrap();
    two.docker.idle("beta", "tool", &[]).unwrap();
    can(one, "alpha", "ping -c1 -W1 beta");
    let begun = Instant::now();
    let said = two.node.try_ctl(&["network", "rm", "tool"]).unwrap();
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("on node1") || said.contains("on node2"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(10));
    one.docker.docker(&["rm", "-f", "alpha"]).unwrap();
    two.docker.docker(&["rm", "-f", "beta"]).unwrap();
    two.node.ctl(&["network", "rm", "tool"]).unwrap();
    has_not(one, "tool");
    has_not(two, "tool");
}
