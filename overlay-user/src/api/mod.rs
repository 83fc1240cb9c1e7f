//! The control interface: HTTP and JSON over a Unix socket.
//!
//! It writes intent to the store and reads what the daemon has come to; it never touches the data
//! path. Requests are untrusted: bounded in size, checked field by field, and each has a deadline.

mod attach;
mod client;
mod context;
pub(crate) mod detach;
mod doctor;
mod endpoints;
mod error;
pub(crate) mod mac;
pub(crate) mod making;
mod message;
mod networks;
mod nodes;
mod ports;
mod reference;
mod repair;
pub(crate) mod request;
mod server;
mod socket;
mod status;

use std::time::Duration;

pub use client::{Client, ClientError};
pub use context::Context;
pub use doctor::{Area, Examine, Finding, Report, Severity};
pub use error::{ApiError, Kind};
pub use message::{
    AddStaticEndpoint, AddStaticNode, Attach, AttachPort, Attached, Counter, CreateNetwork, DEFAULT_AGE,
    DEFAULT_MAX_MACS, DatapathStatus, DnsStatus, DockerState, DockerStatus, DrainNode, Drained, Endpoint,
    EndpointDetail, Health, Liveness, Named, Namespace, Network, NetworkDetail, Node, Peer, Port, SetNetwork,
    Status, StoreState, StoreStatus, Subnet, Uplink,
};
pub use ports::PortRef;
pub use reference::EndpointRef;
pub use server::{router, serve};
pub use socket::{Claim, ControlSocket, SocketError};

/// How long a handler may take.
const HANDLER_DEADLINE: Duration = Duration::from_secs(9);

/// How long a client waits for the answer: longer than any handler takes, and not so long that a command
/// takes ten seconds.
const CLIENT_DEADLINE: Duration = Duration::from_millis(9500);

/// How long a client waits for what compares everything with everything.
const EXAMINATION_DEADLINE: Duration = Duration::from_mins(5);

/// The largest request body in bytes.
const MAX_BODY: usize = 64 * 1024;

#[cfg(test)]
mod tests;
