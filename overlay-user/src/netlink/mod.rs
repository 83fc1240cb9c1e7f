//! The kernel's routing socket (rtnetlink): connections to it, and the parts of its answers that
//! more than one module needs.

pub mod ethtool;
mod events;
pub mod ipv6;
pub mod offloads;
pub mod xdp_features;

use std::{io, ops::Deref};

use futures::TryStreamExt as _;
use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{
        InfoBridgePort, InfoData, InfoKind, InfoPortData, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
        LinkXdp, Stats64, XdpAttached,
    },
};
use nix::net::if_::if_indextoname;
use rtnetlink::Handle;
use tokio::task::JoinHandle;

pub use self::events::Events;
use crate::MacAddr;

/// An open routing socket in the network namespace of the thread that opened it. Closed on drop.
pub struct Connection {
    handle: Handle,
    task: JoinHandle<()>,
}

/// An interface, as far as it is of interest here.
#[derive(Clone, Debug)]
pub struct Link {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// What kind of virtual device it is; `None` for a physical one.
    pub kind: Option<InfoKind>,
    /// Attributes of its kind.
    pub data: Option<InfoData>,
    /// Index of a veth's other end, in whatever namespace that is.
    pub other_end: Option<u32>,
    /// Index of the bridge (or other controller) it is a port of.
    pub controller: Option<u32>,
    /// Its attributes as a bridge port.
    pub port: Vec<InfoBridgePort>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its address, if that is an Ethernet one.
    pub mac: Option<MacAddr>,
    /// Whether it is set up (`IFF_UP`).
    pub up: bool,
    /// Whether it has a carrier (`IFF_LOWER_UP`).
    pub carrier: bool,
    /// The XDP program on it.
    pub xdp: Option<XdpOn>,
    /// Its counters.
    pub stats: Stats64,
}

/// An XDP program on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpOn {
    /// The program's id.
    pub program: u32,
    /// The driver runs it, not the kernel's stack.
    pub native: bool,
}

/// Opens a routing socket.
///
/// # Errors
/// If the kernel refuses one.
pub fn connect() -> io::Result<Connection> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    Ok(Connection { handle, task: tokio::spawn(connection) })
}

/// The interfaces of the namespace.
///
/// # Errors
/// What the kernel answered.
pub async fn links(handle: &Handle) -> io::Result<Vec<Link>> {
    let messages: Vec<_> = handle.link().get().execute().try_collect().await.map_err(into_io)?;
    Ok(messages.into_iter().map(Link::from).collect())
}

/// The name of an interface of the caller's namespace, if there is such an interface.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "what is wrong with it is seen to here")]
pub fn name_at(ifindex: u32) -> Option<String> {
    // nix 0.31 does not see that the C library found none, and has an empty name then.
    let name = if_indextoname(ifindex).ok()?.into_string().ok()?;
    (!name.is_empty()).then_some(name)
}

/// The interface called `name`, if there is one.
///
/// # Errors
/// What the kernel answered, other than that there is none.
pub async fn link_named(handle: &Handle, name: &str) -> io::Result<Option<Link>> {
    let mut answer = Box::pin(handle.link().get().match_name(name).execute());
    found(answer.try_next().await).map(|message| message.map(Link::from))
}

/// The interface with index `ifindex`, if there is one.
///
/// # Errors
/// What the kernel answered, other than that there is none.
pub async fn link_at(handle: &Handle, ifindex: u32) -> io::Result<Option<Link>> {
    let mut answer = Box::pin(handle.link().get().match_index(ifindex).execute());
    found(answer.try_next().await).map(|message| message.map(Link::from))
}

/// Changes attributes of an interface that is there. Unlike `RTM_SETLINK`, the request of
/// [`rtnetlink::LinkHandle::set`], this reaches those of its kind and of a bridge port.
///
/// # Errors
/// What the kernel answered.
pub async fn change_link(handle: &Handle, message: LinkMessage) -> io::Result<()> {
    let flags = NLM_F_REQUEST | NLM_F_ACK;
    handle.link().add(message).set_flags(flags).execute().await.map_err(into_io)
}

/// Sends one request that the kernel acknowledges.
///
/// # Errors
/// What the kernel answered.
pub async fn acknowledged(handle: &Handle, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    let answers: Vec<_> =
        futures::StreamExt::collect(handle.clone().request(request).map_err(into_io)?).await;
    answers.into_iter().try_for_each(|answer| match answer.payload {
        NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
        _ => Ok(()),
    })
}

/// The error number as the operating system's error; other failures of the library by their text.
#[must_use]
pub fn into_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

fn found<T>(answer: Result<Option<T>, rtnetlink::Error>) -> io::Result<Option<T>> {
    match answer.map_err(into_io) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        other => other,
    }
}

// === impl Connection ===

impl Deref for Connection {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === impl Link ===

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Self {
            ifindex: message.header.index,
            name: String::new(),
            kind: None,
            data: None,
            other_end: None,
            controller: None,
            port: Vec::new(),
            mtu: 0,
            mac: None,
            up: message.header.flags.contains(LinkFlags::Up),
            carrier: message.header.flags.contains(LinkFlags::LowerUp),
            xdp: None,
            stats: Stats64::default(),
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Link(index) => link.other_end = Some(index),
                LinkAttribute::Controller(index) => link.controller = Some(index),
                LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok().map(MacAddr),
                LinkAttribute::Stats64(stats) => link.stats = stats,
                LinkAttribute::LinkInfo(infos) => link.take_infos(infos),
                LinkAttribute::Xdp(xdp) => link.xdp = XdpOn::of(&xdp),
                _ => {}
            }
        }
        link
    }
}

impl XdpOn {
    fn of(attributes: &[LinkXdp]) -> Option<Self> {
        let program = attributes.iter().find_map(|attribute| match attribute {
            LinkXdp::ProgId(id) => Some(*id),
            _ => None,
        })?;
        Some(Self { program, native: attributes.contains(&LinkXdp::Attached(XdpAttached::Driver)) })
    }
}

impl Link {
    fn take_infos(&mut self, infos: Vec<LinkInfo>) {
        for info in infos {
            match info {
                LinkInfo::Kind(kind) => self.kind = Some(kind),
                LinkInfo::Data(data) => self.data = Some(data),
                LinkInfo::PortData(InfoPortData::BridgePort(port)) => self.port = port,
                _ => {}
            }
        }
    }
}
