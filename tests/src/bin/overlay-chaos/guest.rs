//! Containers: what is asked of the daemons for them, and what came of it.

use std::{
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use overlay_tests::{container::IFNAME, netns::Netns};
use overlay_user::{
    api::{Attach, Attached, Client, ClientError, Kind, Namespace},
    state::{Delivery, NetworkName},
};
use tokio::{
    sync::{Mutex, oneshot},
    task::spawn_blocking,
};

use crate::step::{self, Place, Slot};

/// Where containers listen for each other.
pub const PORT: u16 = 7777;

/// A container. Whoever changes it holds its lock, so that what is asked for it is asked in order.
pub struct Guest {
    pub number: step::Guest,
    pub at: Place,
    pub slot: Slot,
    /// Its namespace, unless that is gone.
    pub netns: Option<Netns>,
    /// Its socket, in its namespace.
    pub socket: Option<UdpSocket>,
    /// Its endpoint, if the daemon said that there is one.
    pub endpoint: Option<Attached>,
    /// Its endpoint is to go: the daemon has been asked to, and has not said that it is done.
    pub leaving: bool,
}

/// A container that can be handed on.
pub type Shared = Arc<Mutex<Guest>>;

impl Guest {
    pub const fn new(number: step::Guest, at: Place, slot: Slot) -> Self {
        Self { number, at, slot, netns: None, socket: None, endpoint: None, leaving: false }
    }

    /// Makes its namespace and has it attached. What fails leaves no namespace, as with any container
    /// runtime.
    /// `sent` is told when the daemon is asked.
    pub async fn attach(
        &mut self,
        client: &Client,
        network: NetworkName,
        sent: oneshot::Sender<()>,
    ) -> Result<String> {
        let role = format!("c{}", self.number);
        let name = role.clone();
        let netns = spawn_blocking(move || Netns::new(&name)).await??;
        let request = Attach {
            network,
            netns: Namespace::Path(netns.path()),
            ifname: IFNAME.parse()?,
            ips: Vec::new(),
            mac: None,
            names: vec![role.parse()?],
            delivery: Delivery::Tc,
        };
        // Whoever waits may have given up.
        let _ = sent.send(());
        match client.attach(&request).await {
            Ok(endpoint) => {
                let said = format!("attached as {}, {}", endpoint.id, endpoint.address);
                let (netns, socket) = spawn_blocking(move || {
                    let socket = netns.run(listen);
                    (netns, socket)
                })
                .await?;
                (self.netns, self.socket, self.endpoint) = (Some(netns), Some(socket?), Some(endpoint));
                Ok(said)
            }
            Err(error) => {
                spawn_blocking(move || drop(netns)).await?;
                Ok(format!("not attached: {error}"))
            }
        }
    }

    /// Has its endpoint detached, if it has one, and lets go of its namespace.
    pub async fn detach(&mut self, client: &Client) -> Result<String> {
        let Some(endpoint) = &self.endpoint else { return Ok("is not attached".to_owned()) };
        self.leaving = true;
        let said = match client.detach(&endpoint.id.to_string().parse()?).await {
            Ok(_) => {
                (self.endpoint, self.leaving) = (None, false);
                "detached".to_owned()
            }
            Err(error) => format!("not known to be detached: {error}"),
        };
        self.vanish().await?;
        Ok(said)
    }

    /// Lets its namespace go.
    pub async fn vanish(&mut self) -> Result<()> {
        self.socket = None;
        let netns = self.netns.take();
        Ok(spawn_blocking(move || drop(netns)).await?)
    }

    /// The address others reach it at.
    pub fn addr(&self) -> Option<Ipv4Addr> {
        match self.endpoint.as_ref()?.address.addr() {
            std::net::IpAddr::V4(addr) => Some(addr),
            std::net::IpAddr::V6(_) => None,
        }
    }
}

/// A network that comes and goes.
pub struct Network {
    /// Whether it is there; not known when an answer was lost.
    pub exists: Option<bool>,
    /// Whether it was asked for last.
    pub wanted: bool,
}

/// What an answer to the creation of a network says: whether it is there now.
pub fn after_create<T>(answer: &Result<T, ClientError>) -> Option<bool> {
    match answer {
        Ok(_) => Some(true),
        // Each slot has a name and a VNI that no other has.
        Err(ClientError::Refused(error)) if error.kind == Kind::Conflict => Some(true),
        Err(_) => None,
    }
}

/// What an answer to the removal of a network says.
pub fn after_remove<T>(answer: &Result<T, ClientError>) -> Option<bool> {
    match answer {
        Ok(_) => Some(false),
        Err(ClientError::Refused(error)) => match error.kind {
            Kind::NotFound => Some(false),
            Kind::Conflict => Some(true),
            Kind::Invalid | Kind::Unavailable | Kind::Internal => None,
        },
        Err(_) => None,
    }
}

fn listen() -> Result<UdpSocket> {
    let socket = UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT)).context("cannot listen")?;
    socket.set_broadcast(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
