//! Where the resolver listens: the same address in each container's network namespace, on its loopback
//! interface, and on the host.
//!
//! So who asks is known by the socket that is asked: nothing in a packet has to be believed, and no route has
//! to lead anywhere. A socket keeps its namespace alive, and so does an open file of it: both are closed when
//! the file's name is gone or stands for another namespace.

use std::{
    fs::{self, File},
    io,
    net::{Ipv4Addr, TcpListener, UdpSocket},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use netlink_packet_route::link::InfoKind;
use rtnetlink::{Handle, LinkDummy, LinkUnspec};

use super::upstreams::PORT;
use crate::{
    device::{DeviceError, Netns, netns},
    netlink::{self, into_io, ipv6},
    nft,
};

/// The interface that has the resolver's address on the host.
pub const HOST_DEVICE: &str = "ovdns0";

const LOOPBACK: &str = "lo";

/// The table in containers.
const TABLE: &str = "overlay_names";

/// Takes that table away, whether or not it is there.
const NO_TABLE: &str = "table ip overlay_names\ndelete table ip overlay_names\n";

/// The sockets of one place, not of any runtime yet.
#[derive(Debug)]
pub struct Sockets {
    pub udp: UdpSocket,
    pub tcp: TcpListener,
}

/// A container's network namespace with the resolver's address in it.
#[derive(Debug)]
pub struct Sandbox {
    path: PathBuf,
    netns: File,
    identity: Identity,
}

/// What tells one namespace from another: device and inode of its file.
type Identity = (u64, u64);

// === impl Sockets ===

impl Sockets {
    /// Listens at an address that is there.
    pub fn bind(address: Ipv4Addr) -> io::Result<Self> {
        Self::bind_at(address, PORT).map_err(|error| {
            let cause = match error.kind() {
                io::ErrorKind::AddrInUse => ": another name server listens on all addresses there",
                _ => "",
            };
            context(&format!("listen at {address} port {PORT}"), &error, cause)
        })
    }

    /// Listens at another port of the address, to which nftables send what is for the usual one: a container
    /// may run a name server itself, on all its addresses, and could not if that port were taken.
    async fn bind_aside(address: Ipv4Addr) -> io::Result<Self> {
        let sockets = Self::bind_at(address, 0)?;
        let port = sockets.udp.local_addr()?.port();
        nft::run(&redirection(address, port)).await.map_err(io::Error::other)?;
        Ok(sockets)
    }

    fn bind_at(address: Ipv4Addr, port: u16) -> io::Result<Self> {
        let udp = UdpSocket::bind((address, port))?;
        let tcp = TcpListener::bind((address, udp.local_addr()?.port()))?;
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok(Self { udp, tcp })
    }
}

/// What has nftables send what a container's programs send to the address on to `port`, in the place of
/// what a process before this one has said.
fn redirection(address: Ipv4Addr, port: u16) -> String {
    let rule =
        |protocol: &str| format!("ip daddr {address} {protocol} dport {PORT} dnat to {address}:{port}");
    format!(
        "{NO_TABLE}table ip {TABLE} {{\nchain output {{\ntype nat hook output priority -101\n{}\n{}\n}}\n}}\n",
        rule("udp"),
        rule("tcp")
    )
}

// === impl Sandbox ===

impl Sandbox {
    /// Gives a namespace the resolver's address, and listens there.
    ///
    /// # Errors
    /// If the file is no network namespace of a container, the kernel refuses, or somebody listens there.
    pub async fn open(path: &Path, address: Ipv4Addr) -> Result<(Self, Sockets), DeviceError> {
        let file = Netns::Path(path.to_owned()).open()?;
        let failed = |error: io::Error| DeviceError::Failed(format!("{}: {error}", path.display()));
        let identity = identity(&file.metadata().map_err(failed)?);
        let entered = file.try_clone().map_err(failed)?;
        let listen = async move || {
            let kernel = netlink::connect()?;
            add_address(&kernel, LOOPBACK, address).await?;
            match Sockets::bind_aside(address).await {
                Ok(sockets) => Ok(sockets),
                Err(error) => {
                    tracing::debug!(%error, "port {PORT} itself is taken in a container");
                    Sockets::bind(address)
                }
            }
        };
        let sockets = netns::inside(entered, listen).await.map_err(failed)?;
        Ok((Self { path: path.to_owned(), netns: file, identity }, sockets))
    }

    /// Whether its file still stands for it.
    #[must_use]
    pub fn is_there(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|metadata| identity(&metadata) == self.identity)
    }

    /// Takes the address away again, so that the host's is what is reached by it.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn leave(self, address: Ipv4Addr) -> io::Result<()> {
        let remove = async move || {
            remove_address(&*netlink::connect()?, address).await?;
            nft::run(NO_TABLE).await.map_err(io::Error::other)
        };
        netns::inside(self.netns, remove).await
    }
}

fn identity(metadata: &fs::Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

// === the host ===

/// Gives the host the resolver's address, if it has it not yet. A kernel without dummy interfaces has it on its
/// loopback interface.
///
/// # Errors
/// If the kernel refuses.
pub async fn address_host(address: Ipv4Addr) -> io::Result<()> {
    let kernel = netlink::connect()?;
    let device = match make_host_device(&kernel).await {
        Ok(()) => HOST_DEVICE,
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            tracing::debug!("this kernel has no dummy interfaces: {address} is on {LOOPBACK}");
            LOOPBACK
        }
        Err(error) => return Err(context(&format!("make interface {HOST_DEVICE}"), &error, "")),
    };
    add_address(&kernel, device, address).await
}

/// Takes from the host what [`address_host`] gave it.
///
/// # Errors
/// If the kernel refuses.
pub async fn remove_from_host(address: Ipv4Addr) -> io::Result<()> {
    let kernel = netlink::connect()?;
    remove_address(&kernel, address).await?;
    let device = netlink::link_named(&kernel, HOST_DEVICE).await?;
    let Some(device) = device.filter(|device| device.kind == Some(InfoKind::Dummy)) else { return Ok(()) };
    let removed = kernel.link().del(device.ifindex).execute().await.map_err(into_io);
    removed.map_err(|error| context(&format!("remove interface {HOST_DEVICE}"), &error, ""))
}

async fn make_host_device(kernel: &Handle) -> io::Result<()> {
    match netlink::link_named(kernel, HOST_DEVICE).await? {
        Some(device) if device.kind == Some(InfoKind::Dummy) => Ok(()),
        Some(_) => Err(io::Error::other("there is one of another kind")),
        None => {
            kernel.link().add(LinkDummy::new(HOST_DEVICE).build()).execute().await.map_err(into_io)?;
            ipv6::disable(HOST_DEVICE);
            Ok(())
        }
    }
}

// === addresses ===

/// Sets an interface up and gives it the address, if it has it not yet.
async fn add_address(kernel: &Handle, device: &str, address: Ipv4Addr) -> io::Result<()> {
    let link = netlink::link_named(kernel, device).await?;
    let link = link.ok_or_else(|| context(device, &io::ErrorKind::NotFound.into(), ""))?;
    if !link.up {
        let up = LinkUnspec::new_with_index(link.ifindex).up().build();
        let set = kernel.link().set(up).execute().await.map_err(into_io);
        set.map_err(|error| context(&format!("set up {device}"), &error, ""))?;
    }
    let added = kernel.address().add(link.ifindex, address.into(), 32).execute().await.map_err(into_io);
    match added {
        Err(error) if error.raw_os_error() != Some(libc::EEXIST) => {
            Err(context(&format!("give {device} the address {address}"), &error, ""))
        }
        _ => Ok(()),
    }
}

/// Takes the address off the loopback interface, if it is there.
async fn remove_address(kernel: &Handle, address: Ipv4Addr) -> io::Result<()> {
    let Some(link) = netlink::link_named(kernel, LOOPBACK).await? else { return Ok(()) };
    let message = kernel.address().add(link.ifindex, address.into(), 32).message_mut().clone();
    match kernel.address().del(message).execute().await.map_err(into_io) {
        Err(error) if error.raw_os_error() != Some(libc::EADDRNOTAVAIL) => {
            Err(context(&format!("take {address} off {LOOPBACK}"), &error, ""))
        }
        _ => Ok(()),
    }
}

fn context(what: &str, error: &io::Error, cause: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}{cause}"))
}
