//! What the tests do again and again.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use anyhow::{Result, ensure};
use overlay_tests::{
    cluster::Cluster,
    docker_plugin::{Caller, Connected, docker_id},
    node::Node,
    probe::ping,
};
use overlay_user::state::EndpointId;
use serde_json::json;

/// As long as a request may take.
pub const IN_TIME: Duration = Duration::from_secs(10);

pub const SOON: Duration = Duration::from_secs(15);

pub const BLUE: u32 = 0xb1;

/// What Docker calls when it makes a network that is there already, with the answers it gets.
pub fn make_known(caller: &Caller, id: u32, network: &str, subnet: &str, gateway: &str) -> String {
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
pub fn with_blue(cluster: &Cluster) -> String {
    cluster.nodes[0].ctl(&["network", "create", "blue", "--subnet", "10.1.0.0/24"]).unwrap();
    let pools = cluster
        .nodes
        .iter()
        .map(|node| make_known(&Caller::of(node), BLUE, "blue", "10.1.0.0/24", "10.1.0.1"));
    let pools: BTreeSet<_> = pools.collect();
    assert_eq!(pools.len(), 1, "{pools:?}");
    pools.into_iter().next().unwrap()
}

pub fn address(with_length: &str) -> IpAddr {
    with_length.split('/').next().unwrap().parse().unwrap()
}

/// Nothing that one container sends another is lost.
pub fn reaches(from: &Connected, to: &Connected) {
    for to in &to.addresses {
        let loss = ping(&from.netns, address(to), 10, &[]).unwrap();
        assert_eq!((loss.sent, loss.lost()), (10, 0), "{to}");
    }
}

pub fn endpoints(node: &Node) -> Result<usize> {
    Ok(node.json(&["endpoint", "ls"])?.as_array().map_or(0, Vec::len))
}

pub fn has_no_endpoints(node: &Node) -> Result<()> {
    let left = endpoints(node)?;
    ensure!(left == 0, "{left} endpoints are left");
    let links = node.netns().exec("ip -brief link")?;
    let mut names = links.lines().filter_map(|line| line.split([' ', '@']).next());
    let of_endpoint = |name: &str| name.starts_with("ovp") || EndpointId::of_host_device(name).is_some();
    ensure!(!names.any(of_endpoint), "interfaces are left: {links}");
    Ok(())
}
