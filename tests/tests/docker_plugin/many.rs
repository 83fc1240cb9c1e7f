//! Many at once.

use std::{collections::BTreeSet, thread, time::Instant};

use overlay_tests::{
    cluster::Cluster,
    docker_plugin::{Caller, docker_id},
    node::Datapath::Tc,
};
use serde_json::json;

use crate::stage::{BLUE, address, endpoints, with_blue};

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
