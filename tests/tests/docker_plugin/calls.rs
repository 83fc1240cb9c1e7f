//! What Docker calls for a container, from the handshake to the end.

use std::net::IpAddr;

use anyhow::ensure;
use overlay_tests::{
    cluster::Cluster,
    docker_plugin::{Caller, Connected, docker_id},
    exec::eventually,
    node::Datapath::{Kernel, Tc, Xdp},
};
use serde_json::{Value, json};

use crate::stage::{BLUE, SOON, address, endpoints, has_no_endpoints, make_known, reaches, with_blue};

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
