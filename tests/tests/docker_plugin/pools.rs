//! Subnets that Docker is given before it says what for.

use std::{collections::BTreeSet, time::Instant};

use overlay_tests::{
    cluster::Cluster,
    docker_plugin::{Caller, docker_id},
    etcd::Etcd,
    node::Datapath::Tc,
    wire::Card,
};
use serde_json::{Value, json};

use crate::stage::IN_TIME;

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
