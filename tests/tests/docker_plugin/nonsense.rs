//! What is no request at all.

use std::time::Instant;

use overlay_tests::{
    cluster::Cluster,
    docker_plugin::{Caller, Connected, docker_id},
    node::Datapath::Tc,
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use serde_json::{Value, json};

use crate::stage::{BLUE, IN_TIME, make_known, with_blue};

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
    // It is the same daemon, and it does what it did; the network may have been among what was deleted.
    assert!(cluster.nodes[0].daemon().unwrap().ended().unwrap().is_none());
    make_known(&caller, BLUE, "blue", "10.1.0.0/24", "10.1.0.1");
    let run = Connected::run(&cluster.nodes[0], &docker_id(BLUE), &[&pool], 1).unwrap();
    assert!(run.addresses[0].starts_with("10.1.0."));
}
