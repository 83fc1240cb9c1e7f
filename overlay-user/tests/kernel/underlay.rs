//! Finding and following the uplink.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use overlay_user::{
    datapath::Underlay,
    underlay::{Selector, UnderlayFollower, follow_prefixes},
};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::netns::Netns;

/// Two nodes on a wire: `eth0` of each, 192.0.2.1 and .2, and a default route of the first by .254.
struct Wire {
    a: Netns,
    b: Netns,
}

impl Wire {
    fn new() -> Self {
        let wire = Self { a: Netns::new("a"), b: Netns::new("b") };
        wire.a.ip(&format!("link add eth0 type veth peer name eth0 netns {}", wire.b.name()));
        for (node, addr) in [(&wire.a, "192.0.2.1/24"), (&wire.b, "192.0.2.2/24")] {
            node.ip(&format!("addr add {addr} dev eth0"));
            node.ip("link set eth0 up");
        }
        wire.a.ip("route add default via 192.0.2.254");
        wire
    }

    fn mac_of_b(&self) -> String {
        self.b.exec("cat /sys/class/net/eth0/address").trim().to_owned()
    }
}

async fn follow(selector: Selector) -> Result<UnderlayFollower, String> {
    let started = UnderlayFollower::start(selector, 4789, CancellationToken::new()).await;
    started.map_err(|error| error.to_string())
}

async fn until(current: &mut watch::Receiver<Underlay>, what: impl Fn(&Underlay) -> bool) -> Underlay {
    let reached = timeout(Duration::from_secs(3), async {
        current.wait_for(|underlay| what(underlay)).await.expect("the follower goes on").clone()
    });
    let Ok(underlay) = reached.await else {
        panic!("not within 3 s; the underlay is {:?}", *current.borrow());
    };
    underlay
}

fn peers(addresses: &[&str]) -> BTreeSet<IpAddr> {
    addresses.iter().map(|addr| addr.parse().unwrap()).collect()
}

#[test]
fn the_uplink_is_found_by_route_name_and_address() {
    let wire = Wire::new();
    wire.a.ip("addr add 192.0.2.77/24 dev eth0");
    let find = |selector| {
        wire.a.run(async || follow(selector).await.map(|follower| follower.current().borrow().clone()))
    };
    let by_route = find(Selector::DefaultRoute).unwrap();
    assert_eq!((by_route.name.as_str(), by_route.driver.as_str()), ("eth0", "veth"));
    assert_eq!((by_route.addr.to_string(), by_route.mtu, by_route.port), ("192.0.2.1".into(), 1500, 4789));
    let mac = wire.a.exec("cat /sys/class/net/eth0/address");
    assert_eq!(by_route.mac.to_string(), mac.trim());
    assert_eq!(find("eth0".parse().unwrap()).unwrap(), by_route);
    let by_address = find("192.0.2.77".parse().unwrap()).unwrap();
    assert_eq!(by_address.addr.to_string(), "192.0.2.77");

    wire.a.ip("link add mv0 link eth0 type macvlan mode bridge");
    wire.a.ip("addr add 192.0.2.9/24 dev mv0");
    assert_eq!(find("mv0".parse().unwrap()).unwrap().driver, "macvlan");
}

#[test]
fn a_route_by_a_gateway_of_the_other_family_is_none() {
    let wire = Wire::new();
    wire.a.ip("route add 198.51.100.0/24 via inet6 fe80::2 dev eth0");
    let wanted = peers(&["198.51.100.7", "192.0.2.2"]);
    let found = wire.a.run(async || {
        let follower = follow("eth0".parse().unwrap()).await.unwrap();
        follower.set_peers(wanted.clone());
        until(&mut follower.current(), |underlay| underlay.peers == wanted).await
    });
    assert_eq!(found.routes.keys().copied().collect::<BTreeSet<_>>(), peers(&["192.0.2.2"]));
}

#[test]
fn an_uplink_that_is_not_there_is_explained() {
    let wire = Wire::new();
    wire.a.ip("link add bare type bridge");
    let error = |selector: &str| {
        let selector = selector.parse().unwrap();
        wire.a.run(async || follow(selector).await.err().unwrap())
    };
    let text = error("eth9");
    assert!(text.contains("no interface eth9; there are") && text.contains("eth0"), "{text}");
    let text = error("bare");
    assert!(text.contains("bare has no address") && text.contains("eth0 (192.0.2.1)"), "{text}");
    let text = error("lo");
    assert!(text.contains("lo has no address"), "only host scope: {text}");
    let text = error("192.0.2.200");
    assert!(text.contains("no interface has the address 192.0.2.200"), "{text}");
    wire.a.ip("route del default");
    let text = wire.a.run(async || follow(Selector::DefaultRoute).await.err().unwrap());
    assert!(text.contains("--underlay") && text.contains("eth0 (192.0.2.1)"), "{text}");
}

#[test]
fn changes_of_the_link_and_its_address_are_seen() {
    let wire = Wire::new();
    wire.a.run(async || {
        let follower = follow(Selector::DefaultRoute).await.unwrap();
        let mut current = follower.current();
        wire.a.ip("link set eth0 mtu 9000");
        until(&mut current, |underlay| underlay.mtu == 9000).await;
        wire.a.ip("link set eth0 address 02:00:00:00:00:77");
        until(&mut current, |underlay| underlay.mac.to_string() == "02:00:00:00:00:77").await;

        // A further address moves nothing; the loss of the one in use does.
        wire.a.ip("addr add 192.0.2.5/24 dev eth0");
        wire.a.ip("link set eth0 mtu 1500");
        let underlay = until(&mut current, |underlay| underlay.mtu == 1500).await;
        assert_eq!(underlay.addr.to_string(), "192.0.2.1");
        wire.a.exec("sysctl -q net.ipv4.conf.eth0.promote_secondaries=1");
        wire.a.ip("addr del 192.0.2.1/24 dev eth0");
        until(&mut current, |underlay| underlay.addr.to_string() == "192.0.2.5").await;

        wire.a.ip("link set eth0 down");
        wire.a.ip("link set eth0 name wan0");
        wire.a.ip("link set wan0 up");
        until(&mut current, |underlay| underlay.name == "wan0").await;
    });
}

#[test]
fn an_uplink_made_anew_under_its_name_is_found() {
    let wire = Wire::new();
    wire.a.run(async || {
        let follower = follow(Selector::DefaultRoute).await.unwrap();
        let mut current = follower.current();
        let before = current.borrow().clone();
        wire.a.ip("link del eth0");
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(*current.borrow(), before, "the last underlay stands");
        wire.a.ip(&format!("link add eth0 index 77 type veth peer name eth0 netns {}", wire.b.name()));
        wire.a.ip("addr add 192.0.2.1/24 dev eth0");
        wire.a.ip("link set eth0 up");
        until(&mut current, |underlay| underlay.ifindex == 77).await;
    });
}

#[test]
fn routes_and_neighbours_of_peers_are_followed() {
    let wire = Wire::new();
    let near: IpAddr = "192.0.2.2".parse().unwrap();
    let far: IpAddr = "198.51.100.9".parse().unwrap();
    wire.a.run(async || {
        let follower = follow(Selector::DefaultRoute).await.unwrap();
        let mut current = follower.current();
        follower.set_peers(peers(&["192.0.2.2", "198.51.100.9", "192.0.2.1", "2001:db8::1"]));

        // The kernel resolves the next hop because it was asked to: nothing is sent to it.
        let mac = wire.mac_of_b();
        let resolved = |underlay: &Underlay| {
            underlay.routes.get(&near).and_then(|route| route.neighbour).map(|mac| mac.to_string())
        };
        let underlay = until(&mut current, |underlay| resolved(underlay).as_ref() == Some(&mac)).await;
        assert_eq!(underlay.routes.keys().collect::<Vec<_>>(), [&near, &far], "not ourselves, not IPv6");
        let (one, other) = (&underlay.routes[&near], &underlay.routes[&far]);
        assert_eq!((one.ifindex, one.source_mac, one.mtu), (underlay.ifindex, underlay.mac, 1500));
        assert_eq!(one.next_hop, near);
        assert_eq!(other.next_hop.to_string(), "192.0.2.254", "by the gateway");
        assert_eq!(other.neighbour, None, "nobody has the gateway's address");
        assert!(wire.a.ip("neigh show 192.0.2.2").contains("managed"), "kept resolved");

        // As when the peer announces a new card.
        wire.a.ip("neigh replace 192.0.2.2 lladdr 02:00:00:00:00:99 dev eth0 nud reachable");
        until(&mut current, |underlay| resolved(underlay).as_deref() == Some("02:00:00:00:00:99")).await;

        wire.a.ip("route add 198.51.100.0/24 via 192.0.2.2 mtu 1400");
        let via_b = |underlay: &Underlay| {
            underlay.routes.get(&far).is_some_and(|route| route.next_hop == near && route.mtu == 1400)
        };
        until(&mut current, via_b).await;
        wire.a.ip("route del default");
        wire.a.ip("route del 198.51.100.0/24");
        until(&mut current, |underlay| !underlay.routes.contains_key(&far)).await;

        follower.set_peers(BTreeSet::new());
        until(&mut current, |underlay| underlay.routes.is_empty()).await;
        assert!(!wire.a.ip("neigh show 192.0.2.2").contains("managed"), "no longer kept resolved");
    });
}

#[test]
fn the_prefixes_that_a_host_has_routes_to_are_followed() {
    let wire = Wire::new();
    wire.a.ip("route add 10.20.0.0/16 via 192.0.2.2");
    wire.a.ip("route add 10.30.0.0/16 via 192.0.2.2 table 100");
    wire.a.run(async || {
        let mut prefixes = follow_prefixes(CancellationToken::new()).await.unwrap();
        let shown = |prefixes: &[ipnet::IpNet]| prefixes.iter().map(ToString::to_string).collect::<Vec<_>>();
        // Neither the default route nor what every link has.
        assert_eq!(shown(&prefixes.borrow_and_update()), ["10.20.0.0/16", "10.30.0.0/16", "192.0.2.0/24"]);
        wire.a.ip("route add 10.20.5.0/24 via 192.0.2.2");
        wire.a.ip("route add fd00:7::/32 dev eth0");
        wire.a.ip("route del 10.20.0.0/16");
        let now = ["10.20.5.0/24", "10.30.0.0/16", "192.0.2.0/24", "fd00:7::/32"];
        let reached = prefixes.wait_for(|prefixes| shown(prefixes) == now);
        assert!(timeout(Duration::from_secs(10), reached).await.is_ok_and(|reached| reached.is_ok()));
    });
}

#[test]
fn a_flood_of_events_loses_nothing() {
    let wire = Wire::new();
    wire.a.run(async || {
        let follower = follow(Selector::DefaultRoute).await.unwrap();
        let mut current = follower.current();
        // More announcements than the socket holds, none of them read meanwhile, ours among them.
        let script: String = (0..3000)
            .map(|i| format!("addr add 10.{}.{}.1/32 dev lo\n", i / 250, i % 250))
            .chain(["link set eth0 mtu 1300\n".to_owned()])
            .chain((0..3000).map(|i| format!("addr del 10.{}.{}.1/32 dev lo\n", i / 250, i % 250)))
            .collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), script).unwrap();
        wire.a.ip(&format!("-b {}", file.path().display()));
        until(&mut current, |underlay| underlay.mtu == 1300).await;
    });
}
