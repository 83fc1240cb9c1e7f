//! Gateway ports: which program carries each one's frames, and the interface behind it.

use std::collections::{BTreeMap, BTreeSet};

use netlink_packet_route::link::InfoKind;
use rtnetlink::{Handle, LinkUnspec};

use crate::{
    datapath::{Mode, PortStatus, Underlay},
    netlink::{self, into_io, xdp_features},
    plan::{self, Plan},
    state::{EndpointId, PortDatapath},
};

/// A port and its interface as they are.
#[derive(Clone)]
pub struct LocalPort {
    /// The interface's index.
    pub ifindex: u32,
    /// Its name.
    pub device: String,
    /// XDP can redirect frames to it.
    pub takes_redirects: bool,
    /// What carries its frames, and why; [`Mode::Xdp`] until that is known not to work.
    pub status: PortStatus,
    /// tc is not good enough: it was asked for XDP.
    pub xdp_demanded: bool,
}

/// The ports of this node that have their interface; one that is gone is a problem to tell.
pub async fn local(
    kernel: &Handle,
    plan: &Plan,
    uplink: u32,
    problems: &mut Vec<String>,
) -> BTreeMap<EndpointId, LocalPort> {
    let mut ports = BTreeMap::new();
    for network in plan.networks.values() {
        for (id, port) in &network.ports {
            match look_at(kernel, port, uplink).await {
                Ok(found) => drop(ports.insert(id.clone(), found)),
                Err(why) => problems
                    .push(format!("port {id} of network {}: interface {} {why}", network.name, port.device)),
            }
        }
    }
    ports
}

async fn look_at(kernel: &Handle, port: &plan::Port, uplink: u32) -> Result<LocalPort, String> {
    let device = port.device.as_str();
    let link = netlink::link_named(kernel, device).await.map_err(|e| format!("cannot be looked up: {e}"))?;
    let link = link.ok_or("is gone; `overlayctl port detach` withdraws the port")?;
    if link.ifindex == uplink {
        return Err("is the uplink: a port is another interface".to_owned());
    }
    // What a kernel before 6.3 does not tell is hoped for, but of veth pairs is known to be rare.
    let is_veth = link.kind == Some(InfoKind::Veth);
    let takes_redirects = xdp_features::takes_redirects(link.ifindex).unwrap_or(!is_veth);
    let (mode, reason) = match port.datapath {
        PortDatapath::Tc => (Mode::Tc, "it was asked for".to_owned()),
        PortDatapath::Xdp => (Mode::Xdp, "it was asked for".to_owned()),
        PortDatapath::Auto if is_veth => {
            (Mode::Tc, "a veth leaves checksums to be filled in, which XDP does not".to_owned())
        }
        PortDatapath::Auto => (Mode::Xdp, format!("{device} has native XDP")),
    };
    Ok(LocalPort {
        ifindex: link.ifindex,
        device: link.name,
        takes_redirects,
        status: PortStatus { mode, reason },
        xdp_demanded: port.datapath == PortDatapath::Xdp,
    })
}

/// Interfaces towards other nodes that XDP can redirect a port's frames to. Where there is one that it
/// cannot, tc sends what goes there, and the ports' reasons say so.
pub fn ways_out(underlay: &Underlay, ports: &mut BTreeMap<EndpointId, LocalPort>) -> BTreeSet<u32> {
    let mut ways: BTreeSet<_> = underlay.routes.values().map(|route| route.ifindex).collect();
    let all = ways.len();
    ways.retain(|ifindex| xdp_features::takes_redirects(*ifindex).unwrap_or(true));
    if ways.len() < all {
        for port in ports.values_mut().filter(|port| port.status.mode == Mode::Xdp) {
            port.status.reason += "; but the uplink takes no redirected frames (is it a veth whose other end has \
                                   GRO off?), so tc sends to other nodes";
        }
    }
    ways
}

/// Has an interface take frames for every MAC address, or no longer, and sets it up.
///
/// # Errors
/// What the kernel answered.
pub async fn open(kernel: &Handle, ifindex: u32, open: bool) -> std::io::Result<()> {
    let message = LinkUnspec::new_with_index(ifindex).promiscuous(open);
    let message = if open { message.up() } else { message };
    kernel.link().set(message.build()).execute().await.map_err(into_io)
}
