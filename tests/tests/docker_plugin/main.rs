//! The network and IPAM driver, called as Docker calls it, without Docker: in order, twice, out of order, with
//! nonsense, many at once, and without etcd.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

mod calls;
mod many;
mod nonsense;
mod pools;
mod refused;
mod stage;
mod without_etcd;
