//! The store against a real etcd: following it, changing it, and what happens to it meanwhile.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as the test does")]

mod allocation;
mod docker;
mod endpoints;
#[path = "../etcd/mod.rs"]
mod etcd;
mod follow;
mod networks;
mod nodes;
mod reach;
mod relay;

use overlay_user::store::{NewNetwork, StoreError};

#[track_caller]
fn assert_conflict<T: std::fmt::Debug>(result: Result<T, StoreError>, says: &str) {
    match result {
        Err(StoreError::Conflict(text)) if text.contains(says) => {}
        other => panic!("no conflict that says {says:?}: {other:?}"),
    }
}

#[track_caller]
fn assert_invalid<T: std::fmt::Debug>(result: Result<T, StoreError>, says: &str) {
    match result {
        Err(StoreError::Invalid(text)) if text.contains(says) => {}
        other => panic!("not invalid with {says:?}: {other:?}"),
    }
}

fn subnet(name: &str, cidr: &str) -> NewNetwork {
    NewNetwork { subnets: vec![cidr.parse().unwrap()], ..etcd::new_network(name) }
}
