//! The network and IPAM driver, called as Docker calls it, without Docker: in order, twice, out of order, with
//! nonsense, many at once, and without etcd.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{
    collections::BTreeSet,
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use overlay_tests::{
    cluster::Cluster,
    docker_plugin::{Caller, Connected, docker_id},
    etcd::Etcd,
    exec::eventually,
    node::{
        Datapath::{Kernel, Tc, Xdp},
        Node,
    },
    probe::ping,
    wire::Card,
};
use overlay_user::state::EndpointId;
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use serde_json::{Value, json};

/// As long as a request may take.
const IN_TIME: Duration = Duration::from_secs(10);

const SOON: Duration = Duration::from_secs(15);

const BLUE: u32 = 0xb1;

/// Every method there is.
const METHODS: [&str; 20] = [
    "Plugin.Activate",
    "NetworkDriver.GetCapabilities",
    "NetworkDriver.GwAllocCheck",
    "NetworkDriver.AllocateNetwork",
    "NetworkDriver.FreeNetwork",
    "NetworkDriver.CreateNetwork",
    "NetworkDriver.DeleteNetwork",
    "NetworkDriver.CreateEndpoint",
    "NetworkDriver.EndpointOperInfo",
    "NetworkDriver.DeleteEndpoint",
    "NetworkDriver.Join",
    "NetworkDriver.Leave",
    "NetworkDriver.DiscoverNew",
    "NetworkDriver.DiscoverDelete",
    "IpamDriver.GetCapabilities",
    "IpamDriver.GetDefaultAddressSpaces",
    "IpamDriver.RequestPool",
    "IpamDriver.ReleasePool",
    "IpamDriver.RequestAddress",
    "IpamDriver.ReleaseAddress",
];

/// What Docker calls when it makes a network that is there already, with the answers it gets.
fn make_known(caller: &Caller, id: u32, network: &str, subnet: &str, gateway: &str) -> String {
    let options = json!({ "overlayd.net": network });
    let pool = json!({ "AddressSpace": "overlayd", "Pool": subnet, "SubPool": "", "Options": options,
                       "V6": subnet.contains(':') });
    let pool = caller.call("IpamDriver.RequestPool", &pool).unwrap();
    assert_eq!(pool["Pool"], subnet);
    let pool = pool["PoolID"].as_str().unwrap().to_owned();
    let request = json!({ "PoolID": pool, "Address": gateway,
                          "Options": { "RequestAddressType": "com.docker.network.gateway" } });
    let given = caller.call("IpamDriver.RequestAddress", &request).unwrap();
    let with_length = format!("{gateway}/{}", subnet.rsplit('/').next().unwrap());
    assert_eq!(given, json!({ "Address": with_length, "Data": {} }));
    let data = json!([{ "AddressSpace": "overlayd", "Pool": subnet, "Gateway": with_length }]);
    let (four, six) = if subnet.contains(':') { (json!([]), data) } else { (data, json!(null)) };
    let request = json!({
        "NetworkID": docker_id(id), "IPv4Data": four, "IPv6Data": six,
        "Options": { "com.docker.network.enable_ipv4": true, "com.docker.network.generic": options },
    });
    assert_eq!(caller.call("NetworkDriver.CreateNetwork", &request).unwrap(), json!({}));
    pool
}

/// Two nodes with a network that both their Dockers have.
fn with_blue(cluster: &Cluster) -> String {
    cluster.nodes[0].ctl(&["network", "create", "blue", "--subnet", "10.1.0.0/24"]).unwrap();
    let pools = cluster
        .nodes
        .iter()
        .map(|node| make_known(&Caller::of(node), BLUE, "blue", "10.1.0.0/24", "10.1.0.1"));
    let pools: BTreeSet<_> = pools.collect();
    assert_eq!(pools.len(), 1, "{pools:?}");
    pools.into_iter().next().unwrap()
}

fn address(with_length: &str) -> IpAddr {
    with_length.split('/').next().unwrap().parse().unwrap()
}

/// Nothing that one container sends another is lost.
fn reaches(from: &Connected, to: &Connected) {
    for to in &to.addresses {
        let loss = ping(&from.netns, address(to), 10, &[]).unwrap();
        assert_eq!((loss.sent, loss.lost()), (10, 0), "{to}");
    }
}

fn endpoints(node: &Node) -> Result<usize> {
    Ok(node.json(&["endpoint", "ls"])?.as_array().map_or(0, Vec::len))
}

fn has_no_endpoints(node: &Node) -> Result<()> {
    let left = endpoints(node)?;
    ensure!(left == 0, "{left} endpoints are left");
    let links = node.netns().exec("ip -brief link")?;
    let mut names = links.lines().filter_map(|line| line.split([' ', '@']).next());
    let of_endpoint = |name: &str| name.starts_with("ovp") || EndpointId::of_host_device(name).is_some();
    ensure!(!names.any(of_endpoint), "interfaces are left: {links}");
    Ok(())
}

#[test]
fn the_calls_of_docker_connect_containers_and_may_come_twice() {
    let mut cluster = Cluster::start(&[Tc, Xdp, Kernel]).unwrap();
    let caller = Caller::of(&cluster.nodes[0]);
    let call = |method: &str, request: Value| caller.call(method, &request).unwrap();
    let handshake = json!({ "Implements": ["NetworkDriver", "IpamDriver"] });
    assert_eq!(call("Plugin.Activate", json!({})), handshake);
    assert_eq!(
        caller.post("Plugin.Activate", b"").unwrap().0,
        200,
        "Docker sends no body where there is nothing to say"
    );
    let capabilities = json!({ "Scope": "local", "ConnectivityScope": "global" });
    assert_eq!(call("NetworkDriver.GetCapabilities", json!(null)), capabilities);
    let capabilities = json!({ "RequiresMACAddress": false, "RequiresRequestReplay": false });
    assert_eq!(call("IpamDriver.GetCapabilities", json!({})), capabilities);
    let spaces = call("IpamDriver.GetDefaultAddressSpaces", json!({}));
    assert_eq!(spaces["LocalDefaultAddressSpace"], spaces["GlobalDefaultAddressSpace"]);
    for optional in ["NetworkDriver.ProgramExternalConnectivity", "NetworkDriver.RevokeExternalConnectivity"]
    {
        assert_eq!(caller.post(optional, b"{}").unwrap().0, 404, "{optional}");
    }

    let pool = with_blue(&cluster);
    assert_eq!(with_blue_again(&caller), pool);
    let runs: Vec<_> = (1..)
        .zip(&cluster.nodes)
        .map(|(n, node)| Connected::run(node, &docker_id(BLUE), &[&pool], n).unwrap())
        .collect();
    for (from, to) in [(0, 1), (1, 0), (2, 0), (1, 2)] {
        reaches(&runs[from], &runs[to]);
    }
    let run = &runs[0];
    let interface = run.netns.exec("ip link show eth0").unwrap();
    assert!(interface.contains("mtu 1450") && interface.contains(&run.mac), "{interface}");
    let facts = call("NetworkDriver.EndpointOperInfo", run.request());
    let node = &cluster.nodes[0];
    assert_eq!(
        (&facts["Value"]["mtu"], &facts["Value"]["vtep"], &facts["Value"]["datapath"]),
        (&json!(1450), &json!(node.addr()), &json!("tc"))
    );
    // The namespace is noted, so that the interface can follow its network's MTU.
    node.ctl(&["network", "set", "blue", "--mtu", "1400"]).unwrap();
    eventually(SOON, || {
        let shown = run.netns.exec("ip link show eth0")?;
        ensure!(shown.contains("mtu 1400"), "{shown}");
        Ok(())
    })
    .unwrap();

    // Docker repeats what it is not sure of.
    let mut again = run.request();
    again["Interface"] = json!({ "Address": run.addresses[0], "AddressIPv6": "", "MacAddress": "" });
    let answer = call("NetworkDriver.CreateEndpoint", again.clone());
    assert_eq!(answer, json!({ "Interface": { "MacAddress": run.mac } }));
    again["Interface"]["MacAddress"] = json!(run.mac);
    let answer = call("NetworkDriver.CreateEndpoint", again);
    assert_eq!(answer, json!({ "Interface": {} }), "a field that was set must not come back");
    let mut again = run.request();
    again["SandboxKey"] = json!(run.netns.path());
    call("NetworkDriver.Join", again);
    assert_eq!(endpoints(node).unwrap(), 3);

    let other = caller.refusal(
        "IpamDriver.RequestAddress",
        &json!({ "PoolID": pool, "Address": address(&runs[1].addresses[0]) }),
    );
    let said = other.unwrap();
    assert!(said.contains("is used by") && said.contains("on n2"), "{said}");

    // An overlayd that is killed knows them again.
    cluster.nodes[0].kill().unwrap();
    cluster.nodes[0].launch().unwrap();
    cluster.nodes[0].wait_ready().unwrap();
    reaches(&runs[1], &runs[0]);
    let node = &cluster.nodes[0];
    let facts =
        eventually(SOON, || caller.call("NetworkDriver.EndpointOperInfo", &runs[0].request())).unwrap();
    assert!(facts["Value"]["vni"].is_u64(), "{facts}");

    for (run, node) in runs.iter().zip(&cluster.nodes) {
        let caller = Caller::of(node);
        for _ in 0..2 {
            assert_eq!(caller.call("NetworkDriver.Leave", &run.request()).unwrap(), json!({}));
            assert_eq!(caller.call("NetworkDriver.DeleteEndpoint", &run.request()).unwrap(), json!({}));
            let request = json!({ "PoolID": pool, "Address": address(&run.addresses[0]) });
            assert_eq!(caller.call("IpamDriver.ReleaseAddress", &request).unwrap(), json!({}));
        }
    }
    eventually(SOON, || has_no_endpoints(node)).unwrap();
    for _ in 0..2 {
        call("NetworkDriver.DeleteNetwork", json!({ "NetworkID": docker_id(BLUE) }));
        call("IpamDriver.ReleasePool", json!({ "PoolID": pool }));
    }
    let findings = node.doctor(&[]).unwrap();
    assert!(findings.iter().all(|finding| !finding.what.contains("addresses/")), "{findings:?}");
}

/// Makes the network once more, under the same identity.
fn with_blue_again(caller: &Caller) -> String {
    make_known(caller, BLUE, "blue", "10.1.0.0/24", "10.1.0.1")
}

#[test]
fn a_network_of_both_families_gives_an_address_of_each() {
    let cluster = Cluster::start(&[Tc, Xdp]).unwrap();
    let create = ["network", "create", "both", "--subnet", "10.2.0.0/24", "--subnet", "fd00:2::/64"];
    cluster.nodes[0].ctl(&create).unwrap();
    let runs: Vec<_> = (1..).zip(&cluster.nodes).map(|(n, node)| {
        let caller = Caller::of(node);
        let pools = [("10.2.0.0/24", "10.2.0.1"), ("fd00:2::/64", "fd00:2::1")]
            .map(|(subnet, gateway)| make_pool(&caller, "both", subnet, gateway));
        let data = |subnet: &str| json!([{ "AddressSpace": "overlayd", "Pool": subnet }]);
        let request = json!({
            "NetworkID": docker_id(BLUE), "IPv4Data": data("10.2.0.0/24"), "IPv6Data": data("fd00:2::/64"),
            "Options": { "com.docker.network.enable_ipv6": true,
                         "com.docker.network.generic": { "overlayd.net": "both" } },
        });
        caller.call("NetworkDriver.CreateNetwork", &request).unwrap();
        let pools: Vec<_> = pools.iter().map(String::as_str).collect();
        Connected::run(node, &docker_id(BLUE), &pools, n).unwrap()
    }).collect();
    reaches(&runs[0], &runs[1]);
    reaches(&runs[1], &runs[0]);
}

fn make_pool(caller: &Caller, network: &str, subnet: &str, gateway: &str) -> String {
    let request = json!({ "AddressSpace": "overlayd", "Pool": subnet, "Options": { "overlayd.net": network },
                          "V6": subnet.contains(':') });
    let pool =
        caller.call("IpamDriver.RequestPool", &request).unwrap()["PoolID"].as_str().unwrap().to_owned();
    let request = json!({ "PoolID": pool, "Address": "",
                          "Options": { "RequestAddressType": "com.docker.network.gateway" } });
    let given = caller.call("IpamDriver.RequestAddress", &request).unwrap();
    assert_eq!(address(given["Address"].as_str().unwrap()), gateway.parse::<IpAddr>().unwrap());
    pool
}

#[test]
fn many_who_ask_at_once_get_different_addresses() {
    let cluster = Cluster::start(&[Tc, Tc]).unwrap();
    let pool = with_blue(&cluster);
    let begun = Instant::now();
    let given: Vec<String> = thread::scope(|scope| {
        let ask = |index: usize| {
            let (caller, pool) = (Caller::of(&cluster.nodes[index % 2]), &pool);
            scope.spawn(move || {
                let request = json!({ "PoolID": pool, "Address": "", "Options": null });
                let answer = caller.call("IpamDriver.RequestAddress", &request).unwrap();
                answer["Address"].as_str().unwrap().to_owned()
            })
        };
        let threads: Vec<_> = (0..50).map(ask).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    println!("50 addresses on two nodes at once: {:?}", begun.elapsed());
    let distinct: BTreeSet<_> = given.iter().collect();
    assert_eq!(distinct.len(), 50, "{given:?}");

    // And so do endpoints, made with some of them.
    thread::scope(|scope| {
        for (number, address) in (1..).zip(given.iter().take(20)) {
            let caller = Caller::of(&cluster.nodes[(number as usize - 1) % 2]);
            scope.spawn(move || {
                let request = json!({ "NetworkID": docker_id(BLUE), "EndpointID": docker_id(number),
                                      "Interface": { "Address": address } });
                caller.call("NetworkDriver.CreateEndpoint", &request).unwrap();
            });
        }
    });
    assert_eq!(endpoints(&cluster.nodes[0]).unwrap(), 20);
    // What was reserved and not used can be given back at once.
    let caller = Caller::of(&cluster.nodes[1]);
    let unused = address(&given[21]);
    caller.call("IpamDriver.ReleaseAddress", &json!({ "PoolID": pool, "Address": unused })).unwrap();
    let request = json!({ "PoolID": pool, "Address": unused });
    assert_eq!(
        address(caller.call("IpamDriver.RequestAddress", &request).unwrap()["Address"].as_str().unwrap()),
        unused
    );
}

/// Requests to the network driver that cannot be met, and what is said about them.
fn unmeetable(network: &str, unknown: &str) -> Vec<(&'static str, Value, &'static str)> {
    vec![
        (
            "NetworkDriver.CreateEndpoint",
            json!({ "NetworkID": unknown, "EndpointID": unknown, "Interface": { "Address": "10.1.0.9/24" } }),
            "does not know Docker's network",
        ),
        (
            "NetworkDriver.CreateEndpoint",
            json!({ "NetworkID": network, "EndpointID": unknown, "Interface": null }),
            "--ipam-driver overlayd",
        ),
        (
            "NetworkDriver.CreateEndpoint",
            json!({ "NetworkID": network, "EndpointID": unknown, "Interface": { "Address": "10.9.0.9/24" } }),
            "10.9.0.9 is not in the subnet",
        ),
        (
            "NetworkDriver.CreateEndpoint",
            json!({ "NetworkID": network, "EndpointID": unknown, "Interface": { "Address": "10.1.0.1/24" } }),
            "is the gateway",
        ),
        (
            "NetworkDriver.CreateEndpoint",
            json!({ "NetworkID": network, "EndpointID": unknown, "Interface": { "Address": "10.1.0.9/24", "MacAddress": "ff:ff:ff:ff:ff:ff" } }),
            "not the MAC address of one interface",
        ),
        (
            "NetworkDriver.Join",
            json!({ "NetworkID": network, "EndpointID": unknown, "SandboxKey": "/var/run/docker/netns/x" }),
            "has no endpoint",
        ),
        (
            "NetworkDriver.Join",
            json!({ "NetworkID": network, "EndpointID": unknown, "SandboxKey": "x" }),
            "not the path of a sandbox",
        ),
        ("NetworkDriver.AllocateNetwork", json!({}), "Swarm"),
        (
            "NetworkDriver.CreateNetwork",
            json!({ "NetworkID": unknown, "IPv4Data": [{ "AddressSpace": "LocalDefault", "Pool": "10.1.0.0/24" }] }),
            "--ipam-driver overlayd",
        ),
        (
            "NetworkDriver.CreateNetwork",
            json!({ "NetworkID": unknown, "IPv4Data": [{ "Pool": "10.9.0.0/24" }], "Options": { "com.docker.network.generic": { "overlayd.net": "blue" } } }),
            "has the subnet 10.1.0.0/24, not 10.9.0.0/24",
        ),
        (
            "NetworkDriver.CreateNetwork",
            json!({ "NetworkID": unknown, "IPv4Data": [{ "Pool": "10.1.0.0/24" }], "Options": { "com.docker.network.generic": { "overlayd.net": "red" } } }),
            "there is no network red",
        ),
        (
            "NetworkDriver.CreateNetwork",
            json!({ "NetworkID": unknown, "IPv4Data": [{ "Pool": "10.1.0.0/24" }], "Options": { "com.docker.network.generic": { "fast": "yes" } } }),
            "-o fast: overlayd has no such option",
        ),
    ]
}

/// The same to the IPAM driver.
fn unmeetable_ipam(pool: &str) -> Vec<(&'static str, Value, &'static str)> {
    vec![
        (
            "IpamDriver.RequestPool",
            json!({ "AddressSpace": "overlayd", "Pool": "10.9.0.0/24" }),
            "overlayctl network create",
        ),
        ("IpamDriver.RequestPool", json!({ "AddressSpace": "other" }), "not overlayd's address space"),
        ("IpamDriver.RequestPool", json!({ "SubPool": "10.1.0.0/25" }), "give --subnet as well"),
        (
            "IpamDriver.RequestPool",
            json!({ "Pool": "10.9.0.0/24", "Options": { "overlayd.net": "blue" } }),
            "has the subnet 10.1.0.0/24",
        ),
        (
            "IpamDriver.RequestPool",
            json!({ "V6": true, "Options": { "overlayd.net": "blue" } }),
            "has no IPv6 subnet",
        ),
        (
            "IpamDriver.RequestAddress",
            json!({ "PoolID": pool, "Address": "10.1.0.255" }),
            "broadcast address",
        ),
        ("IpamDriver.RequestAddress", json!({ "PoolID": pool, "Address": "fd00::1" }), "no IPv6 subnet"),
        (
            "IpamDriver.RequestAddress",
            json!({ "PoolID": pool, "Address": "10.1.0.2", "Options": { "RequestAddressType": "com.docker.network.gateway" } }),
            "the gateway of network blue is 10.1.0.1",
        ),
        ("IpamDriver.RequestAddress", json!({ "PoolID": "overlayd/net:blue/6" }), "no IPv6 subnet"),
        ("IpamDriver.RequestAddress", json!({ "PoolID": "x" }), "is no pool of overlayd's"),
    ]
}

#[test]
fn requests_that_make_no_sense_are_answered_with_a_sentence() {
    let cluster = Cluster::start(&[Tc]).unwrap();
    let caller = Caller::of(&cluster.nodes[0]);
    let pool = with_blue(&cluster);
    let (network, unknown) = (docker_id(BLUE), docker_id(99));
    let unmeetable = unmeetable(&network, &unknown).into_iter().chain(unmeetable_ipam(&pool));
    for (method, request, says) in unmeetable {
        let said = caller.refusal(method, &request).unwrap();
        assert!(said.contains(says), "{method} {request}: {said}");
    }
    // Whoever wants to be rid of something that is not there has what it wants.
    let of_unknown = json!({ "NetworkID": unknown, "EndpointID": unknown });
    for method in
        ["Leave", "DeleteEndpoint", "DeleteNetwork", "EndpointOperInfo", "DiscoverNew", "DiscoverDelete"]
    {
        caller.call(&format!("NetworkDriver.{method}"), &of_unknown).unwrap();
    }
    for pool in ["overlayd/0123456789ab/4", "overlayd/net:red/4", "x", ""] {
        let request = json!({ "PoolID": pool, "Address": "10.1.0.9" });
        caller.call("IpamDriver.ReleaseAddress", &request).unwrap();
        caller.call("IpamDriver.ReleasePool", &request).unwrap();
    }
    // Docker up to 26 would ask for ever for a subnet that its host has a route to.
    let node = &cluster.nodes[0];
    node.netns().exec("ip route add 10.1.0.0/16 dev eth0").unwrap();
    let request = json!({ "Pool": "", "Options": { "overlayd.net": "blue" } });
    let said = eventually(SOON, || caller.refusal("IpamDriver.RequestPool", &request)).unwrap();
    assert!(said.contains("10.1.0.0/16") && said.contains("--subnet 10.1.0.0/24"), "{said}");
    eventually(SOON, || has_no_endpoints(node)).unwrap();
}

#[test]
fn nonsense_is_refused_and_harms_nothing() {
    let cluster = Cluster::start(&[Tc]).unwrap();
    let caller = Caller::of(&cluster.nodes[0]);
    let pool = with_blue(&cluster);
    let large = vec![b' '; 65 << 10];
    for method in METHODS {
        let (status, body) = caller.post(method, &large).unwrap();
        assert_eq!(status, 413, "{method}: {}", String::from_utf8_lossy(&body));
    }
    let scalar = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        Just(json!(docker_id(BLUE))),
        Just(json!(pool)),
        Just(json!("10.1.0.0/24")),
        Just(json!("10.1.0.9")),
        Just(json!("overlayd")),
    ];
    let value = scalar.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("[a-zA-Z.]{0,12}", inner, 0..4)
                .prop_map(|map| Value::from(map.into_iter().collect::<serde_json::Map<_, _>>())),
        ]
    });
    let field = prop::sample::select(vec![
        "NetworkID",
        "EndpointID",
        "Options",
        "IPv4Data",
        "IPv6Data",
        "Interface",
        "SandboxKey",
        "PoolID",
        "Pool",
        "SubPool",
        "V6",
        "Address",
        "AddressSpace",
    ]);
    let object = prop::collection::hash_map(field, value, 0..8).prop_map(|map| {
        json!(map.into_iter().collect::<std::collections::BTreeMap<_, _>>()).to_string().into_bytes()
    });
    let body = prop_oneof![2 => object, 1 => prop::collection::vec(any::<u8>(), 0..200)];
    let mut runner = TestRunner::new(Config { cases: 400, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&(prop::sample::select(METHODS.to_vec()), body), |(method, body)| {
        let begun = Instant::now();
        let (status, answer) =
            caller.post(method, &body).map_err(|e| TestCaseError::fail(format!("{e:#}")))?;
        prop_assert!([200, 400].contains(&status), "{method}: {status}");
        let answer: Value =
            serde_json::from_slice(&answer).map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert!(answer.is_object(), "{method}: {answer}");
        prop_assert!(status == 200 || answer["Err"].is_string(), "{method}: {answer}");
        prop_assert!(begun.elapsed() < IN_TIME, "{method} took {:?}", begun.elapsed());
        Ok(())
    });
    outcome.unwrap();
    // It is the same daemon, and it does what it did.
    assert!(cluster.nodes[0].daemon().unwrap().ended().unwrap().is_none());
    let run = Connected::run(&cluster.nodes[0], &docker_id(BLUE), &[&pool], 1).unwrap();
    assert!(run.addresses[0].starts_with("10.1.0."));
}

#[test]
fn without_etcd_a_run_fails_soon_and_what_runs_goes_on() {
    let cluster = Cluster::start(&[Tc, Xdp]).unwrap();
    let pool = with_blue(&cluster);
    let runs: Vec<_> = (1..)
        .zip(&cluster.nodes)
        .map(|(n, node)| Connected::run(node, &docker_id(BLUE), &[&pool], n).unwrap())
        .collect();
    reaches(&runs[0], &runs[1]);
    let caller = Caller::of(&cluster.nodes[0]);
    let request = json!({ "PoolID": pool, "Address": "", "Options": null });
    let reserved = caller.call("IpamDriver.RequestAddress", &request).unwrap();

    cluster.etcd.freeze().unwrap();
    let create = json!({ "NetworkID": docker_id(BLUE), "EndpointID": docker_id(3), "Interface": reserved });
    for (method, request) in
        [("IpamDriver.RequestAddress", &request), ("NetworkDriver.CreateEndpoint", &create)]
    {
        let begun = Instant::now();
        let said = caller.refusal(method, request).unwrap();
        assert!(begun.elapsed() < IN_TIME, "{method} took {:?}: {said}", begun.elapsed());
        assert!(said.contains("etcd"), "{said}");
    }
    reaches(&runs[0], &runs[1]);
    // A container can end meanwhile; its endpoint is given up as soon as etcd is back.
    let begun = Instant::now();
    caller.call("NetworkDriver.Leave", &runs[0].request()).unwrap();
    caller.call("NetworkDriver.DeleteEndpoint", &runs[0].request()).unwrap();
    assert!(begun.elapsed() < IN_TIME, "{:?}", begun.elapsed());
    assert!(!runs[0].netns.exec("ip -brief link").unwrap().contains("eth0"));
    cluster.etcd.thaw().unwrap();
    cluster.wait_ready().unwrap();
    eventually(Duration::from_secs(40), || {
        let left = endpoints(&cluster.nodes[1])?;
        ensure!(left == 1, "{left} endpoints are left");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_subnet_that_docker_was_given_is_kept_until_its_network_has_a_name() {
    let mut cluster = Cluster::empty().unwrap();
    for name in ["n1", "n2"] {
        // A Docker that never comes: nobody tells the names.
        cluster.add(name, Card::Veth, Tc, &["--docker", "unix:///nonexistent/docker.sock"]).unwrap();
    }
    cluster.wait_ready().unwrap();
    let [caller, other] = [0, 1].map(|index| Caller::of(&cluster.nodes[index]));
    let wanted = |pool: &str, range: &str| json!({ "AddressSpace": "overlayd", "Pool": pool, "SubPool": range, "V6": false });
    let claim = |caller: &Caller, request: &Value| {
        let given = caller.call("IpamDriver.RequestPool", request).unwrap();
        (given["PoolID"].as_str().unwrap().to_owned(), given["Pool"].as_str().unwrap().to_owned())
    };
    // Never the same twice where none is named.
    let chosen: BTreeSet<_> =
        [&caller, &other, &caller].map(|caller| claim(caller, &wanted("", "")).1).into();
    assert_eq!(chosen.len(), 3, "{chosen:?}");
    let six = claim(&caller, &json!({ "AddressSpace": "overlayd", "V6": true }));
    assert!(six.0.ends_with("/6") && six.1.starts_with("fd") && six.1.ends_with("::/64"), "{six:?}");

    let (pool, _) = claim(&caller, &wanted("10.5.0.0/24", "10.5.0.128/25"));
    for caller in [&caller, &other] {
        let said = caller.refusal("IpamDriver.RequestPool", &wanted("10.5.0.0/25", "")).unwrap();
        assert!(said.contains("10.5.0.0/24") && said.contains("is being created on n1"), "{said}");
    }
    let refused = cluster.nodes[1].try_ctl(&["network", "create", "red", "--subnet", "10.5.0.0/16"]).unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("is being created on n1"), "{said}");

    // The gateway and what is kept are answered, as often as Docker asks.
    let gateway = json!({ "RequestAddressType": "com.docker.network.gateway" });
    for (address, options) in
        [("", &gateway), ("10.5.0.1", &gateway), ("10.5.0.9", &json!(null)), ("10.5.0.9", &json!(null))]
    {
        let request = json!({ "PoolID": pool, "Address": address, "Options": options });
        let given = caller.call("IpamDriver.RequestAddress", &request).unwrap();
        let expected = if address.is_empty() { "10.5.0.1" } else { address };
        assert_eq!(given["Address"], format!("{expected}/24"));
    }
    let create = |generic: Value, aux: &str| {
        json!({
            "NetworkID": docker_id(5), "Options": { "com.docker.network.generic": generic },
            "IPv4Data": [{ "AddressSpace": "overlayd", "Pool": "10.5.0.0/24", "Gateway": "10.5.0.1/24",
                           "AuxAddresses": { "router": aux } }],
        })
    };
    // What cannot be is said to who types, before the name is known.
    cluster.nodes[1].ctl(&["network", "create", "blue", "--subnet", "10.6.0.0/24", "--vni", "77"]).unwrap();
    for (generic, aux, says) in [
        (json!({ "vni": "77" }), "10.5.0.9/24", "VNI 77 is used by network blue"),
        (json!({ "mtu": "60" }), "10.5.0.9/24", "the MTU 60 is below 68"),
        (json!({}), "10.5.0.1/24", "the address kept for router is not usable"),
    ] {
        let said = caller.refusal("NetworkDriver.CreateNetwork", &create(generic, aux)).unwrap();
        assert!(said.contains(says), "{said}");
    }
    caller.call("NetworkDriver.CreateNetwork", &create(json!({ "mtu": "1400" }), "10.5.0.9/24")).unwrap();
    // A container has to wait for the name, and not for ever.
    let begun = Instant::now();
    let request = json!({ "PoolID": pool, "Address": "", "Options": null });
    let said = caller.refusal("IpamDriver.RequestAddress", &request).unwrap();
    assert!(said.contains("not known to the other nodes yet") && begun.elapsed() < IN_TIME, "{said}");

    // Docker gives it up: others can have it.
    caller.call("NetworkDriver.DeleteNetwork", &json!({ "NetworkID": docker_id(5) })).unwrap();
    caller.call("IpamDriver.ReleasePool", &json!({ "PoolID": pool })).unwrap();
    cluster.nodes[1].ctl(&["network", "create", "red", "--subnet", "10.5.0.0/24"]).unwrap();
    let kept =
        Etcd::ctl(&cluster.wire, &["get", "--prefix", "--keys-only", "/overlay/v1/default/pools/"]).unwrap();
    assert!(!kept.contains(pool.split('/').nth(1).unwrap()), "{kept}");
}
