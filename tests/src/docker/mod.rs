//! Real Docker in the lab: a dockerd for each node, of the versions that matter, without a registry.

mod cluster;
mod daemon;
mod image;
mod node;
mod release;
mod space;
mod world;

pub use self::{
    cluster::DockerCluster,
    daemon::{Dockerd, interface},
    image::IMAGE,
    node::DockerNode,
    release::{Release, unpacked},
    space::Space,
    world::World,
};
