//! How a node is.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use super::Liveness;
use crate::{
    datapath::{Count, Mode, Traffic},
    state::NodeName,
};

/// How a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// `healthy`, or `degraded` for the reasons in `degraded`.
    pub health: Health,
    /// What is wrong, one sentence each.
    pub degraded: Vec<String>,
    /// This node's name.
    pub node: NodeName,
    /// It takes no new endpoints.
    pub drained: bool,
    /// Version of overlayd.
    pub version: String,
    /// The cluster's name.
    pub cluster: String,
    /// The interface that is tunnelled from.
    pub uplink: Uplink,
    /// What forwards packets.
    pub datapath: DatapathStatus,
    /// The store.
    pub store: StoreStatus,
    /// How many networks the cluster has.
    pub networks: usize,
    /// How many of the endpoints are on this node.
    pub endpoints_local: usize,
    /// How many are elsewhere.
    pub endpoints_remote: usize,
    /// The other nodes.
    pub peers: Vec<Peer>,
    /// What the data path could not do, and why.
    pub problems: Vec<String>,
    /// Docker on this node; `null` if it is nothing to overlayd.
    #[serde(default)]
    pub docker: Option<DockerStatus>,
    /// Keys of the store that were left out, and why.
    pub rejected: BTreeMap<String, String>,
    /// How many more keys were left out.
    pub rejected_more: usize,
    /// Who answers containers' names; `null` if nobody does.
    #[serde(default)]
    pub dns: Option<DnsStatus>,
    /// What became of packets: every outcome that is not zero.
    pub counters: Vec<Counter>,
}

/// Whether all is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// It is.
    Healthy,
    /// Something is not as it should be.
    Degraded,
}

/// The interface that is tunnelled from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uplink {
    /// Its name.
    pub name: String,
    /// This node's tunnel address.
    pub address: IpAddr,
    /// Its driver as the kernel names it.
    pub driver: String,
    /// MTU in bytes.
    pub mtu: u16,
    /// UDP port of VXLAN.
    pub port: u16,
}

/// What forwards packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatapathStatus {
    /// Which one.
    pub mode: Mode,
    /// Why that one.
    pub reason: String,
    /// How long it took to bring it to the newest state, in milliseconds.
    pub apply_ms: Option<u64>,
    /// Rows and kernel objects changed since overlayd started: none if it found all as it should be.
    pub rows_changed: u64,
}

/// What answers containers' names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsStatus {
    /// Its address in every container.
    pub address: Ipv4Addr,
    /// How many containers it serves.
    pub containers: usize,
    /// Queries it has answered.
    pub answered: u64,
    /// Those that another server has answered.
    pub forwarded: u64,
    /// Those that no other server has answered.
    pub unanswered: u64,
    /// Those that were none for it, or too many.
    pub refused: u64,
}

/// The store as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// How it is.
    pub state: StoreState,
    /// Why it is not synced, if so.
    pub reason: Option<String>,
    /// The newest revision read.
    pub revision: i64,
    /// The newest revision that is forwarded by.
    pub applied: Option<i64>,
}

/// How the store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreState {
    /// Not read since the start.
    Connecting,
    /// Current.
    Synced,
    /// Away.
    Lost,
    /// Another one than it was: nothing is applied.
    Frozen,
}

/// Docker as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DockerStatus {
    /// The socket of its API.
    pub socket: PathBuf,
    /// The socket it finds the driver at.
    pub plugin: PathBuf,
    /// Whether it answers.
    pub state: DockerState,
    /// Its version, if it answers.
    pub version: Option<String>,
    /// The version of its API that is spoken with it.
    pub api: Option<String>,
    /// Why it does not answer.
    pub reason: Option<String>,
    /// For how many seconds it has not.
    pub away_seconds: Option<u64>,
    /// What is not as it should be, one sentence each.
    pub problems: Vec<String>,
}

/// Whether Docker answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DockerState {
    /// There was none yet.
    None,
    /// It does.
    Followed,
    /// It does not: its containers run on, and it is brought up to date when it is back.
    Away,
}

/// Another node as this one sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name.
    pub name: NodeName,
    /// Its tunnel address.
    pub address: IpAddr,
    /// Its data path; empty for a third party's VTEP.
    pub datapath: String,
    /// Whether it lives.
    pub state: Liveness,
    /// It takes no new endpoints.
    pub drained: bool,
    /// Whether this node has a route to it; `null` if they share no network.
    pub routed: Option<bool>,
    /// Packets and bytes.
    pub traffic: Traffic,
}

/// How often something became of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// Where the packet entered.
    pub hook: String,
    /// What became of it.
    pub outcome: String,
    /// What kind of outcome that is: `received`, `forwarded`, `passed`, `slowpath`, `drop`; `other`
    /// if this version does not know it.
    pub class: String,
    /// Packets and bytes.
    #[serde(flatten)]
    pub count: Count,
    /// What it means.
    pub explanation: String,
}
