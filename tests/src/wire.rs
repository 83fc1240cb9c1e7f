//! The underlay: a bridge in a namespace of its own, with a port for each node.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicU8, Ordering},
};

use anyhow::Result;

use crate::netns::Netns;

/// Name of a node's interface to the wire.
pub const UPLINK: &str = "eth0";

/// What a port is made of, as the node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Card {
    /// Has native XDP.
    Veth,
    /// Has none.
    Macvlan,
}

/// The bridge. Its own address is the default gateway of everybody on it; etcd listens there.
pub struct Wire {
    netns: Netns,
    next: AtomicU8,
}

impl Wire {
    /// Makes a wire with nothing plugged in.
    pub fn new() -> Result<Self> {
        let netns = Netns::new("wire")?;
        netns.exec("ip link add wire type bridge mcast_snooping 0")?;
        netns.exec(&format!("ip address add {}/24 dev wire", Self::gateway()))?;
        netns.exec("ip link set wire up")?;
        Ok(Self { netns, next: AtomicU8::new(1) })
    }

    /// The namespace the bridge is in.
    #[must_use]
    pub const fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The bridge's own address.
    #[must_use]
    pub const fn gateway() -> Ipv4Addr {
        Ipv4Addr::new(10, 99, 0, 254)
    }

    /// Gives a namespace an interface [`UPLINK`] with an address and a default route.
    pub fn plug(&self, netns: &Netns, card: Card) -> Result<Port> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let port = Port { name: format!("port{number}"), addr: Ipv4Addr::new(10, 99, 0, number) };
        let (name, inside) = (&port.name, netns.name());
        match card {
            Card::Veth => {
                self.netns
                    .exec(&format!("ip link add {name} type veth peer name {UPLINK} netns {inside}"))?;
            }
            Card::Macvlan => {
                let lower = format!("lower{number}");
                self.netns.exec(&format!("ip link add {name} type veth peer name {lower}"))?;
                self.netns.exec(&format!("ip link set {lower} up"))?;
                self.netns.exec(&format!(
                    "ip link add link {lower} name {UPLINK} netns {inside} type macvlan mode bridge"
                ))?;
            }
        }
        self.netns.exec(&format!("ip link set {name} master wire up"))?;
        netns.exec(&format!("ip address add {}/24 dev {UPLINK}", port.addr))?;
        netns.exec(&format!("ip link set {UPLINK} up"))?;
        netns.exec(&format!("ip route add default via {}", Self::gateway()))?;
        Ok(port)
    }
}

/// Where a node is plugged in.
#[derive(Clone, Debug)]
pub struct Port {
    /// Name of the bridge's port, in the wire's namespace.
    pub name: String,
    /// The node's address.
    pub addr: Ipv4Addr,
}
