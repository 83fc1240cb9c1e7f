//! While the store does not answer.

use std::time::{Duration, Instant};

use anyhow::ensure;
use overlay_tests::{
    cluster::Cluster,
    docker_plugin::{Caller, Connected, docker_id},
    exec::eventually,
    node::Datapath::{Tc, Xdp},
};
use serde_json::json;

use crate::stage::{BLUE, IN_TIME, endpoints, reaches, with_blue};

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
