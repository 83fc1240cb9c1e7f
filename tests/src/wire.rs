//! The underlay: a bridge in a namespace of its own, with a port for each node.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
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
    /// Who is plugged in gets an IPv6 address, and no IPv4 one.
    ipv6: bool,
}

impl Wire {
    /// Makes a wire with nothing plugged in.
    pub fn new() -> Result<Self> {
        Self::of_family(false)
    }

    /// Makes a wire that carries IPv6 only.
    pub fn over_ipv6() -> Result<Self> {
        Self::of_family(true)
    }

    fn of_family(ipv6: bool) -> Result<Self> {
        let netns = Netns::new("wire")?;
        // With an address of its own: else it takes that of a port, and another one with the next port.
        netns.exec("ip link add wire address 02:99:00:00:00:fe type bridge mcast_snooping 0")?;
        // A cable has no firewall: where the kernel has one for bridges, frames on it would pass that too.
        let calls =
            ["iptables", "ip6tables", "arptables"].map(|f| format!("net.bridge.bridge-nf-call-{f}=0"));
        let _ = netns.exec(&format!("sysctl -q -w {}", calls.join(" ")));
        let own = if ipv6 {
            format!("{}/64 dev wire nodad", Self::gateway_v6())
        } else {
            format!("{}/24 dev wire", Self::gateway())
        };
        netns.exec(&format!("ip address add {own}"))?;
        netns.exec("ip link set wire up")?;
        Ok(Self { netns, next: AtomicU8::new(1), ipv6 })
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

    /// The bridge's own address on a wire that carries IPv6.
    #[must_use]
    pub const fn gateway_v6() -> Ipv6Addr {
        Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 0xfe)
    }

    /// Where clients reach an etcd on this wire.
    #[must_use]
    pub fn etcd(&self) -> String {
        if self.ipv6 {
            format!("http://[{}]:2379", Self::gateway_v6())
        } else {
            format!("http://{}:2379", Self::gateway())
        }
    }

    /// Gives a namespace an interface [`UPLINK`] with an address and a default route.
    pub fn plug(&self, netns: &Netns, card: Card) -> Result<Port> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let addr = Ipv4Addr::new(10, 99, 0, number);
        let tunnel = if self.ipv6 {
            Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, number.into()).into()
        } else {
            addr.into()
        };
        let port = Port { name: format!("port{number}"), addr, tunnel };
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
        if self.ipv6 {
            netns.exec(&format!("ip address add {tunnel}/64 dev {UPLINK} nodad"))?;
        } else {
            netns.exec(&format!("ip address add {addr}/24 dev {UPLINK}"))?;
        }
        netns.exec(&format!("ip link set {UPLINK} up"))?;
        let gateway = if self.ipv6 { IpAddr::V6(Self::gateway_v6()) } else { Self::gateway().into() };
        netns.exec(&format!("ip route add default via {gateway}"))?;
        Ok(port)
    }
}

/// Where a node is plugged in.
#[derive(Clone, Debug)]
pub struct Port {
    /// Name of the bridge's port, in the wire's namespace.
    pub name: String,
    /// The node's address on a wire that carries IPv4.
    pub addr: Ipv4Addr,
    /// The node's address, whatever the wire carries.
    pub tunnel: IpAddr,
}
