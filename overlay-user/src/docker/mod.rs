//! Docker's networks are ours: the driver that Docker calls, and what Docker has of ours.
//!
//! A front door like `api`: it writes intent to the store and never touches the data path.

pub mod engine;
mod id;
mod names;
mod networks;
pub mod propagate;
mod registry;
mod report;
mod sync;

pub use id::{DockerEndpointId, DockerNetworkId, ParseIdError};
pub use registry::{Content, DockerEndpoint, DockerNetwork, PendingNetwork, Registry};
pub use report::{EngineReport, Problem, Reach, View};
pub use sync::{Sync, follow_docker};
