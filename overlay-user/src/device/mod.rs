//! The interfaces of endpoints: a veth pair, one end made in the container's namespace and
//! configured there, or left in the host's for who runs the container to fetch it.

mod gro;
mod inside;
mod mtu;
pub(crate) mod netns;

use std::{fs::File, os::fd::AsRawFd as _, path::PathBuf};

use ipnet::IpNet;
use netlink_packet_route::link::{InfoData, InfoVeth};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

pub use self::mtu::Mtus;
use crate::{
    MacAddr,
    netlink::{self, Connection, Link, into_io, ipv6},
    state::InterfaceName,
};

/// A container's network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Netns {
    /// A file bound to it, as under `/run/netns` or `/proc/<pid>/ns/net`.
    Path(PathBuf),
    /// That of a process.
    Pid(u32),
}

impl Netns {
    /// As it is written in an endpoint's record.
    #[must_use]
    pub fn word(&self) -> String {
        match self {
            Self::Path(path) => path.display().to_string(),
            Self::Pid(pid) => format!("pid {pid}"),
        }
    }

    /// The inverse of [`Self::word`].
    #[must_use]
    pub fn of_word(word: &str) -> Self {
        let pid = word.strip_prefix("pid ").and_then(|pid| pid.parse().ok());
        pid.map_or_else(|| Self::Path(word.into()), Self::Pid)
    }
}

/// An endpoint's interface as it should be.
#[derive(Clone, Debug)]
pub struct EndpointDevice {
    /// Name of the host's end.
    pub host: String,
    /// Namespace of the other end; `None`: the host's, where it stays down and without addresses.
    pub netns: Option<Netns>,
    /// Name of the other end.
    pub ifname: String,
    /// MAC address of the other end.
    pub mac: MacAddr,
    /// MTU of both ends in bytes.
    pub mtu: u16,
    /// Addresses of the other end, with the subnet's prefix length.
    pub addresses: Vec<IpNet>,
    /// Frames are redirected to it by XDP: the other end must have a queue for them.
    pub takes_redirects: bool,
}

/// Why an interface could not be made or removed; the text says what and why.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// What was asked for cannot be: no such namespace, no possible name, address or MTU.
    #[error("{0}")]
    Invalid(String),
    /// An interface has the name already.
    #[error("{0}")]
    Taken(String),
    /// The kernel refused, or something else did not work.
    #[error("{0}")]
    Failed(String),
}

/// Makes the pair; if one end of it is in the container's namespace, configures that end and sets it up.
/// The host's end stays down until a data path guards it. On error nothing is left.
///
/// # Errors
/// If the namespace is none, a name is taken or not one Linux accepts, or the kernel refuses; the
/// text says which.
pub async fn create(device: &EndpointDevice) -> Result<(), DeviceError> {
    for name in [&device.host, &device.ifname] {
        if let Err(error) = name.parse::<InterfaceName>() {
            return Err(DeviceError::Invalid(error.to_string()));
        }
    }
    let netns = device.netns.as_ref().map(Netns::open).transpose()?;
    let kernel = connect()?;
    if link(&kernel, &device.host).await?.is_some() {
        return Err(DeviceError::Taken(format!("interface {} exists already", device.host)));
    }
    make_pair(&kernel, device, netns.as_ref()).await?;
    ipv6::disable(&device.host);
    if let Some(netns) = netns
        && let Err(error) = inside::configure(device, netns).await
    {
        // Removing one end removes the other.
        return Err(match remove(&device.host).await {
            Ok(()) => error,
            Err(second) => DeviceError::Failed(format!("{error}; and then: {second}")),
        });
    }
    Ok(())
}

/// Removes an endpoint's pair by the name of the host's end. Without error if it is gone already.
///
/// # Errors
/// If the kernel refuses.
pub async fn remove(host: &str) -> Result<(), DeviceError> {
    let kernel = connect()?;
    let Some(found) = link(&kernel, host).await? else { return Ok(()) };
    match kernel.link().del(found.ifindex).execute().await.map_err(into_io) {
        Err(error) if error.raw_os_error() != Some(libc::ENODEV) => {
            Err(DeviceError::Failed(format!("remove interface {host}: {error}")))
        }
        _ => Ok(()),
    }
}

/// Whether there is an interface called `host` in this namespace.
///
/// # Errors
/// If the kernel does not say.
pub async fn exists(host: &str) -> Result<bool, DeviceError> {
    Ok(link(&connect()?, host).await?.is_some())
}

async fn make_pair(
    kernel: &Connection,
    device: &EndpointDevice,
    netns: Option<&File>,
) -> Result<(), DeviceError> {
    let EndpointDevice { host, netns: _, ifname, mac, mtu, addresses: _, takes_redirects: _ } = device;
    let mut inside = LinkMessageBuilder::<LinkUnspec>::new()
        .name(ifname.as_str())
        .address(mac.0.to_vec())
        .mtu(u32::from(*mtu));
    if let Some(netns) = netns {
        inside = inside.setns_by_fd(netns.as_raw_fd());
    }
    let inside = inside.build();
    let pair = LinkVeth::new(host, ifname)
        .mtu(u32::from(*mtu))
        .set_info_data(InfoData::Veth(InfoVeth::Peer(inside)))
        .build();
    kernel.link().add(pair).execute().await.map_err(into_io).map_err(|error| match error.raw_os_error() {
        Some(libc::EEXIST) => DeviceError::Taken(format!(
            "an interface {ifname} exists in the namespace already: choose another name"
        )),
        Some(libc::EADDRNOTAVAIL) => {
            DeviceError::Invalid(format!("{mac} cannot be the address of an interface"))
        }
        Some(libc::EINVAL) => {
            DeviceError::Invalid(format!("make interfaces {host} and {ifname} with MTU {mtu}: {error}"))
        }
        _ => DeviceError::Failed(format!("make interfaces {host} and {ifname}: {error}")),
    })
}

fn connect() -> Result<Connection, DeviceError> {
    netlink::connect().map_err(|error| DeviceError::Failed(format!("open a routing socket: {error}")))
}

async fn link(kernel: &Connection, name: &str) -> Result<Option<Link>, DeviceError> {
    let found = netlink::link_named(kernel, name).await;
    found.map_err(|error| DeviceError::Failed(format!("look up interface {name}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_read_as_it_is_written() {
        for netns in [Netns::Pid(7), Netns::Path("/run/netns/web".into()), Netns::Path("/pid 7".into())] {
            assert_eq!(Netns::of_word(&netns.word()), netns);
        }
    }
}
