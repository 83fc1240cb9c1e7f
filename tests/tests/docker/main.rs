//! Real dockerds, one on each node, and their networks and containers by overlayd's plugin.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

mod alone;
mod cluster_store;
mod faults;
mod import;
mod journey;
mod many;
mod matrix;
mod setup;
mod stage;
