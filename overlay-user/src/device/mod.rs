//! The interfaces of endpoints: a veth pair, one end moved into the container's namespace and
//! configured there.

use std::path::PathBuf;

use ipnet::IpNet;

use crate::MacAddr;

/// A container's network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Netns {
    /// A file bound to it, as under `/run/netns` or `/proc/<pid>/ns/net`.
    Path(PathBuf),
    /// That of a process.
    Pid(u32),
}

/// An endpoint's interface as it should be.
#[derive(Clone, Debug)]
pub struct EndpointDevice {
    /// Name of the host's end.
    pub host: String,
    /// Namespace of the other end.
    pub netns: Netns,
    /// Name of the other end.
    pub ifname: String,
    /// MAC address of the other end.
    pub mac: MacAddr,
    /// MTU of both ends in bytes.
    pub mtu: u16,
    /// Addresses of the other end, with the subnet's prefix length.
    pub addresses: Vec<IpNet>,
}

/// Why an interface could not be made or removed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DeviceError(pub String);

/// Makes the pair, moves one end, configures it and sets both up. On error nothing is left.
pub async fn create(_device: &EndpointDevice) -> Result<(), DeviceError> {
    todo!()
}

/// Removes an endpoint's pair by the name of the host's end. Without error if it is gone already.
pub async fn remove(_host: &str) -> Result<(), DeviceError> {
    todo!()
}
