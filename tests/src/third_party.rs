//! A VTEP that is not ours: Linux's own VXLAN device and bridge, set up by hand.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use overlay_ebpf::abi::{MacAddr, VXLAN_PORT};

use crate::{
    container::{Container, IFNAME},
    netns::Netns,
    wire::{Card, Port, UPLINK, Wire},
};

/// MTU inside the overlay on a wire of 1500 bytes.
const MTU: u64 = 1450;
/// The same where the wire carries IPv6.
const MTU_OVER_IPV6: u64 = 1430;

/// A node that nobody runs overlayd on.
pub struct ThirdParty {
    netns: Netns,
    port: Port,
}

impl ThirdParty {
    /// Plugs one in.
    pub fn plug(wire: &Wire, name: &str) -> Result<Self> {
        let netns = Netns::new(name)?;
        let port = wire.plug(&netns, Card::Veth)?;
        Ok(Self { netns, port })
    }

    /// The namespace it is in.
    #[must_use]
    pub const fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its tunnel address on a wire that carries IPv4.
    #[must_use]
    pub const fn addr(&self) -> Ipv4Addr {
        self.port.addr
    }

    /// Its tunnel address, whatever the wire carries.
    #[must_use]
    pub const fn tunnel(&self) -> IpAddr {
        self.port.tunnel
    }

    const fn mtu(&self) -> u64 {
        if self.tunnel().is_ipv6() { MTU_OVER_IPV6 } else { MTU }
    }

    /// Makes a bridge and a VXLAN device for a network.
    pub fn join(&self, vni: u32) -> Result<()> {
        self.join_with(vni, "")
    }

    /// As [`Self::join`], with more words for the VXLAN device.
    pub fn join_with(&self, vni: u32, more: &str) -> Result<()> {
        let (local, mtu) = (self.tunnel(), self.mtu());
        self.netns.exec(&format!("ip link add br{vni} type bridge mcast_snooping 0"))?;
        self.netns.exec(&format!(
            "ip link add vx{vni} type vxlan id {vni} local {local} dev {UPLINK} dstport {VXLAN_PORT} nolearning {more}"
        ))?;
        self.netns.exec(&format!("ip link set vx{vni} mtu {mtu} master br{vni} up"))?;
        self.netns.exec(&format!("ip link set br{vni} up"))?;
        Ok(())
    }

    /// Enters a remote endpoint into the forwarding table of a network.
    pub fn learn(&self, vni: u32, mac: MacAddr, vtep: impl Into<IpAddr>) -> Result<()> {
        let vtep = vtep.into();
        self.netns.exec(&format!("bridge fdb append {mac} dev vx{vni} dst {vtep} self"))?;
        Ok(())
    }

    /// Has broadcasts of a network sent to a node.
    pub fn flood_to(&self, vni: u32, vtep: impl Into<IpAddr>) -> Result<()> {
        self.learn(vni, MacAddr([0; 6]), vtep)
    }

    /// Puts a container on a network. The overlay has to be told by `endpoint add-static`.
    pub fn container(&self, vni: u32, name: &str, addr: Ipv4Addr, mac: MacAddr) -> Result<Container> {
        let netns = Netns::new(name)?;
        let (inside, mtu) = (netns.name(), self.mtu());
        let host_device = format!("c{}", u32::from(addr));
        self.netns.exec(&format!(
            "ip link add {host_device} mtu {mtu} type veth peer name {IFNAME} address {mac} mtu {mtu} netns {inside}"
        ))?;
        self.netns.exec(&format!("ip link set {host_device} master br{vni} up"))?;
        netns.exec(&format!("ip address add {addr}/24 dev {IFNAME}"))?;
        netns.exec(&format!("ip link set {IFNAME} up"))?;
        Ok(Container {
            name: name.to_owned(),
            netns,
            addr,
            addr6: None,
            mac,
            id: String::new(),
            host_device,
            mtu,
        })
    }
}
