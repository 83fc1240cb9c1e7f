//! Contenders whose nodes are set up by hand, with `ip`, `bridge` and the benchmark's own programs.

use std::net::Ipv4Addr;

use anyhow::Result;
use overlay_ebpf::{abi::MacAddr, bench::Tunnel};

use super::{
    contender::{Carries, Kind, Side, VNI, prepare},
    object::Object,
};
use crate::{
    netns::Netns,
    wire::{Card, Port, UPLINK, Wire},
};

const CONTAINER: &str = "eth0";
/// The node's end of the container's interface.
const HOST: &str = "ve";
const MTU: u32 = 1450;
/// Options of all VXLAN devices; checksums as ours has them.
const VXLAN: &str = "dstport 4789 nolearning noudpcsum";

/// Two nodes and the wire.
pub struct ByHand {
    /// Programs on the nodes' interfaces.
    _objects: Vec<Object>,
    nodes: [Half; 2],
    wire: Wire,
}

/// One node.
struct Half {
    node: Netns,
    port: Port,
}

impl ByHand {
    pub fn set_up(kind: Kind, carries: Carries) -> Result<(Self, [Side; 2])> {
        let wire = Wire::new()?;
        let half = |name: &str| -> Result<Half> {
            let node = Netns::new(name)?;
            let port = wire.plug(&node, Card::Veth)?;
            prepare(wire.netns(), &node, &port, carries)?;
            Ok(Half { node, port })
        };
        let nodes = [half("a")?, half("b")?];
        let sides = [side(kind, 0, "client")?, side(kind, 1, "server")?];
        let mut objects = Vec::new();
        for i in 0..2 {
            attach(kind, &nodes[i], &sides[i])?;
            objects.extend(join(kind, &nodes, &sides, i)?);
        }
        Ok((Self { _objects: objects, nodes, wire }, sides))
    }

    pub const fn node(&self, index: usize) -> &Netns {
        &self.nodes[index].node
    }

    pub const fn port(&self, index: usize) -> &Port {
        &self.nodes[index].port
    }

    pub const fn wire(&self) -> &Netns {
        self.wire.netns()
    }
}

/// The container of node `index`, without an interface yet.
fn side(kind: Kind, index: u8, name: &str) -> Result<Side> {
    let addr = match kind {
        Kind::Flannel => Ipv4Addr::new(10, 244, index, 2),
        _ => Ipv4Addr::new(10, 77, 0, 2 + index),
    };
    let mac = MacAddr([0x02, 0x42, 0x0a, 0x4d, 0x00, 2 + index]);
    Ok(Side {
        container: Netns::new(name)?,
        interface: CONTAINER.into(),
        addr,
        mac,
        host_device: HOST.into(),
    })
}

/// Gives a container its interface.
fn attach(kind: Kind, half: &Half, side: &Side) -> Result<()> {
    let (node, container) = (&half.node, &side.container);
    let (mac, inside) = (side.mac, container.name());
    let mtu = if kind == Kind::Bare { 1500 } else { MTU };
    node.exec(&format!("ip link add {HOST} type veth peer name {CONTAINER} address {mac} netns {inside}"))?;
    node.exec(&format!("ip link set {HOST} mtu {mtu} up"))?;
    container.exec(&format!("ip link set {CONTAINER} mtu {mtu} up"))?;
    container.exec(&format!("ip address add {}/24 dev {CONTAINER}", side.addr))?;
    Ok(())
}

/// Joins the container of node `i` to the other.
fn join(kind: Kind, nodes: &[Half; 2], sides: &[Side; 2], i: usize) -> Result<Vec<Object>> {
    let (Half { node, port }, there) = (&nodes[i], &nodes[1 - i].port);
    let (own, other) = (port.addr, there.addr);
    let (here_mac, there_mac) = (sides[i].mac, sides[1 - i].mac);
    let exec = |line: String| node.exec(&line).map(|_| ());
    // The bridge is told who is where, as Docker tells it: what it learned by itself it would forget.
    let bridge = |device: &str| -> Result<()> {
        exec("ip link add cni0 type bridge".into())?;
        for port in [HOST, device] {
            exec(format!("ip link set {port} master cni0 up"))?;
        }
        exec("ip link set cni0 up".into())?;
        exec(format!("bridge fdb replace {here_mac} dev {HOST} master static"))?;
        exec(format!("bridge fdb replace {there_mac} dev {device} master static"))
    };
    match kind {
        Kind::Bare => bridge(UPLINK)?,
        Kind::KernelVxlan => {
            exec(format!("ip link add vx mtu {MTU} type vxlan id {VNI} local {own} {VXLAN}"))?;
            bridge("vx")?;
            exec(format!("bridge fdb add {there_mac} dev vx dst {other} self permanent"))?;
            exec(format!("bridge fdb append 00:00:00:00:00:00 dev vx dst {other} self permanent"))?;
        }
        Kind::Flannel => flannel(nodes, &sides[i], i)?,
        Kind::Cilium => return Ok(vec![cilium(nodes, sides, i)?]),
        Kind::Redirect => {
            let mut objects = Vec::new();
            for (from, to) in [(UPLINK, HOST), (HOST, UPLINK)] {
                let mut object = Object::load()?;
                object.redirect_to(node, to)?;
                object.attach("redirect", node, from)?;
                objects.push(object);
            }
            // What XDP redirects into a veth is taken up there only with GRO on (veth_xdp_xmit).
            sides[i].container.exec(&format!("ethtool -K {CONTAINER} gro on"))?;
            return Ok(objects);
        }
        Kind::Docker | Kind::PluggedIn | Kind::Ours(_) | Kind::Redirected | Kind::GatewayPort => {
            unreachable!("set up by its daemons")
        }
    }
    Ok(Vec::new())
}

/// A subnet for each node, routed by way of the VXLAN device.
fn flannel(nodes: &[Half; 2], side: &Side, i: usize) -> Result<()> {
    let Half { node, port } = &nodes[i];
    let (own, other, remote) = (port.addr, nodes[1 - i].port.addr, 1 - i);
    let exec = |line: String| node.exec(&line).map(|_| ());
    let mac = |i: usize| format!("02:00:00:00:f1:{i:02x}");
    exec("ip link add cni0 type bridge".into())?;
    exec(format!("ip link set {HOST} master cni0"))?;
    exec("ip link set cni0 up".into())?;
    exec(format!("ip link add vx address {} mtu {MTU} type vxlan id {VNI} local {own} {VXLAN}", mac(i)))?;
    exec(format!("ip address add 10.244.{i}.0/32 dev vx"))?;
    exec("ip link set vx up".into())?;
    exec(format!("ip address add 10.244.{i}.1/24 dev cni0"))?;
    exec("sysctl -qw net.ipv4.ip_forward=1".into())?;
    exec(format!("ip neigh add 10.244.{remote}.0 lladdr {} dev vx nud permanent", mac(remote)))?;
    exec(format!("bridge fdb add {} dev vx dst {other} self permanent", mac(remote)))?;
    exec(format!("ip route add 10.244.{remote}.0/24 via 10.244.{remote}.0 dev vx onlink"))?;
    side.container.exec(&format!("ip route add default via 10.244.{i}.1")).map(|_| ())
}

/// tc programs on the container's interface and on an `external` VXLAN device.
fn cilium(nodes: &[Half; 2], sides: &[Side; 2], i: usize) -> Result<Object> {
    let node = &nodes[i].node;
    let (here, there) = (&sides[i], &sides[1 - i]);
    node.exec(&format!("ip link add vx mtu {MTU} type vxlan external dstport 4789 noudpcsum"))?;
    node.exec("ip link set vx up")?;
    // Cilium's programs answer ARP; here nobody has to ask.
    let neighbour = format!("ip neigh add {} lladdr {} dev {CONTAINER} nud permanent", there.addr, there.mac);
    here.container.exec(&neighbour)?;

    let mut object = Object::load()?;
    object.set("tunnel", Tunnel { ifindex: node.ifindex("vx")?, vni: VNI })?;
    object.insert("remote", there.addr.octets(), u32::from(nodes[1 - i].port.addr))?;
    object.insert("local", here.addr.octets(), node.ifindex(HOST)?)?;
    object.attach("cilium_out", node, HOST)?;
    object.attach("cilium_in", node, "vx")?;
    Ok(object)
}
