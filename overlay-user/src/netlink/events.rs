//! What the kernel announces on the routing socket.

use std::io;

use futures::{FutureExt as _, StreamExt as _, channel::mpsc::UnboundedReceiver};
use netlink_packet_core::NetlinkMessage;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::{MulticastGroup, sys::SocketAddr};
use tokio::task::JoinHandle;

/// The kernel's announcements of changes, in the network namespace of the thread that subscribed.
pub struct Events {
    messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    task: JoinHandle<()>,
}

impl Events {
    /// Begins to listen.
    ///
    /// # Errors
    /// If the kernel refuses a socket.
    pub fn subscribe(groups: &[MulticastGroup]) -> io::Result<Self> {
        let (connection, _, messages) = rtnetlink::new_multicast_connection(groups)?;
        Ok(Self { messages, task: tokio::spawn(connection) })
    }

    /// Waits for the next one; `None` if the kernel closed the socket.
    pub async fn next(&mut self) -> Option<NetlinkMessage<RouteNetlinkMessage>> {
        Some(self.messages.next().await?.0)
    }

    /// Lets go of what is there already.
    pub fn skip(&mut self) {
        while let Some(Some(_)) = self.messages.next().now_or_never() {}
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.task.abort();
    }
}
