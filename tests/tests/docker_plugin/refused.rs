//! What cannot be done, and what is said about it.

use overlay_tests::{
    cluster::Cluster,
    docker_plugin::{Caller, docker_id},
    exec::eventually,
    node::Datapath::Tc,
};
use serde_json::{Value, json};

use crate::stage::{BLUE, SOON, has_no_endpoints, with_blue};

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
