//! Docker's networks are ours: the driver that Docker calls, and what Docker has of ours.
//!
//! A front door like `api`: it writes intent to the store and never touches the data path.

mod id;
mod registry;

pub use id::{DockerEndpointId, DockerNetworkId, ParseIdError};
pub use registry::{Content, DockerEndpoint, DockerNetwork, PendingNetwork, Registry};
