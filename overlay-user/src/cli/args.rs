//! The command line of `overlayctl`.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use clap::{Args, Parser, Subcommand};
use ipnet::IpNet;

use super::{docker::DAEMON_JSON, output::Format};
use crate::{
    MacAddr, Vni,
    api::{DEFAULT_AGE, DEFAULT_MAX_MACS, EndpointRef, PortRef},
    config::{DEFAULT_DNS, DEFAULT_SOCKET, DockerSocket},
    state::{
        Delivery, Dscp, Flooding, InterfaceName, MAX_BUM_RATE, NetworkName, NodeName, PolicyChange,
        PortDatapath, Vlan,
    },
};

/// Operates the overlay network on this node
#[derive(Debug, Parser)]
#[command(name = "overlayctl", version, propagate_version = true)]
pub struct Cli {
    /// Control socket of overlayd
    #[arg(long, env = "OVERLAY_SOCKET", value_name = "PATH", default_value = DEFAULT_SOCKET, global = true)]
    pub(super) socket: PathBuf,

    /// How to print
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t, global = true)]
    pub(super) output: Format,

    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Networks
    #[command(subcommand, visible_alias = "net", arg_required_else_help = false)]
    Network(NetworkCommand),
    /// Endpoints: the interfaces of containers, virtual machines and hosts
    #[command(subcommand, visible_alias = "ep", arg_required_else_help = false)]
    Endpoint(EndpointCommand),
    /// Gateway ports: interfaces of nodes that are part of a network, with hosts behind them
    #[command(subcommand, arg_required_else_help = false)]
    Port(PortCommand),
    /// Nodes
    #[command(subcommand, arg_required_else_help = false)]
    Node(NodeCommand),
    /// What is not as it should be, from etcd to the kernel, each with its cure; exits 0 if nothing is found, 1 if
    /// something is, 2 if no daemon answers
    Doctor {
        /// Repair what can be repaired, and look again
        #[arg(long)]
        fix: bool,
    },
    /// Repairs that need a decision
    Repair(RepairArgs),
    /// Docker on this node
    #[command(subcommand, arg_required_else_help = false)]
    Docker(DockerCommand),
    /// Make networks here as they are elsewhere
    #[command(subcommand, arg_required_else_help = false)]
    Import(ImportCommand),
    /// How this node is; exits 0 if healthy, 1 if degraded, 2 if no daemon answers
    Status {
        /// Wait up to this many seconds for it to be healthy
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(..=86400))]
        wait: Option<u64>,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct RepairArgs {
    /// After etcd was wiped, or restored from an older copy: write what this node knows into it, over nothing that
    /// was made meanwhile, and follow it again. To be done on every node
    #[arg(long)]
    pub republish: bool,
}

#[derive(Debug, Subcommand)]
pub enum DockerCommand {
    /// Have dockerd ask overlayd for names, and leave containers running while it restarts: says what it changes in
    /// dockerd's settings, and changes nothing a second time
    Setup(SetupArgs),
}

#[derive(Debug, Args)]
pub struct SetupArgs {
    /// dockerd's settings
    #[arg(long, value_name = "FILE", default_value = DAEMON_JSON)]
    pub file: PathBuf,
    /// The address overlayd answers at, its --dns
    #[arg(long, value_name = "IP", default_value_t = DEFAULT_DNS)]
    pub dns: Ipv4Addr,
    /// Restart dockerd by systemd afterwards, if it has not read all of that; its containers run on
    #[arg(long)]
    pub restart: bool,
    /// As --restart, by a command of the shell: where something else than systemd looks after dockerd
    #[arg(long, value_name = "COMMAND", conflicts_with = "restart")]
    pub restart_by: Option<String>,
    /// Docker's API, to ask whether it is in a Swarm and whether it is back
    #[arg(long, env = "OVERLAY_DOCKER", value_name = "unix://FILE", default_value_t)]
    pub docker: DockerSocket,
}

#[derive(Debug, Subcommand)]
pub enum ImportCommand {
    /// A network of Docker's on this node: an overlay of Swarm's or of an old cluster store's, or a bridge
    Docker(ImportArgs),
}

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Docker's network, by name or id
    #[arg(value_name = "NETWORK")]
    pub network: String,
    /// Its name here [default: the one it has]
    #[arg(long = "as", value_name = "NAME")]
    pub name: Option<NetworkName>,
    /// Remove Docker's network first, which must have no containers
    #[arg(long, conflicts_with = "name")]
    pub replace: bool,
    /// The subnet may overlap that of another network, or routes of nodes
    #[arg(long)]
    pub allow_overlap: bool,
    /// Docker's API
    #[arg(long, env = "OVERLAY_DOCKER", value_name = "unix://FILE", default_value_t)]
    pub docker: DockerSocket,
}

#[derive(Debug, Subcommand)]
pub enum NetworkCommand {
    /// Create a network
    Create(CreateArgs),
    /// List networks
    #[command(visible_alias = "list")]
    Ls,
    /// Show a network and who is on it
    Inspect {
        /// The network
        name: NetworkName,
    },
    /// Change what a network's owner decides
    Set {
        /// The network
        name: NetworkName,
        #[command(flatten)]
        settings: Settings,
    },
    /// Remove networks nobody is on
    #[command(visible_alias = "remove")]
    Rm {
        /// The networks
        #[arg(required = true, value_name = "NAME")]
        names: Vec<NetworkName>,
    },
}

#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Its name
    pub name: NetworkName,
    /// Its subnet, IPv4 or IPv6; given twice, one of each [default: a free IPv4 pool]
    #[arg(long = "subnet", value_name = "CIDR")]
    pub subnets: Vec<IpNet>,
    /// The address kept for a gateway, for each subnet [default: the subnet's first]
    #[arg(long = "gateway", value_name = "IP")]
    pub gateways: Vec<IpAddr>,
    /// Where addresses are taken from, for each subnet [default: the subnet]
    #[arg(long = "ip-range", value_name = "CIDR")]
    pub ip_ranges: Vec<IpNet>,
    /// An address that no endpoint gets, and what it is kept for; may be given several times
    #[arg(long = "aux-address", value_name = "NAME=IP", value_parser = aux)]
    pub aux: Vec<(String, IpAddr)>,
    /// Its VXLAN network identifier [default: a free one]
    #[arg(long, value_name = "N", value_parser = vni)]
    pub vni: Option<Vni>,
    /// No way out to the world
    #[arg(long)]
    pub internal: bool,
    /// The subnet may overlap that of another network
    #[arg(long)]
    pub allow_overlap: bool,
    #[command(flatten)]
    pub settings: Settings,
}

/// What can be changed later.
#[derive(Debug, Args)]
pub struct Settings {
    /// MTU of its endpoints' interfaces [default: 0, the underlay's less the outer headers]
    #[arg(long, value_name = "BYTES")]
    pub mtu: Option<u16>,
    /// DSCP of the outer headers: 0 to 63, or "inherit", the inner packet's [default: inherit]
    #[arg(long, value_name = "DSCP")]
    pub dscp: Option<Dscp>,
    /// What becomes of broadcasts: drop or flood [default: flood]
    #[arg(long, value_name = "POLICY")]
    pub broadcast: Option<Flooding>,
    /// What becomes of multicast: drop or flood [default: flood]
    #[arg(long, value_name = "POLICY")]
    pub multicast: Option<Flooding>,
    /// What becomes of frames to a MAC address nobody has: drop or flood [default: drop]
    #[arg(long, value_name = "POLICY")]
    pub unknown_unicast: Option<Flooding>,
    /// Flood nothing while the network is on more other nodes than this; 0: no cap [default: 0]
    #[arg(long, value_name = "NODES")]
    pub flood_cap: Option<u32>,
    /// Frames to be flooded that its endpoints on one node may send in a second [default: 1000]
    #[arg(long, value_name = "PPS", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_BUM_RATE)))]
    pub bum_rate: Option<u32>,
    /// What becomes of frames with VLAN tags: drop or trunk, carry them [default: drop]
    #[arg(long, value_name = "POLICY")]
    pub vlan: Option<Vlan>,
}

impl Settings {
    /// The part of it that is policy.
    pub const fn policy(&self) -> PolicyChange {
        let Self { mtu: _, dscp, broadcast, multicast, unknown_unicast, flood_cap, bum_rate, vlan } = *self;
        PolicyChange { dscp, broadcast, multicast, unknown_unicast, flood_cap, bum_rate, vlan }
    }
}

#[derive(Debug, Subcommand)]
pub enum EndpointCommand {
    /// Put an interface on a network into a network namespace of this node
    Attach(AttachArgs),
    /// Take endpoints off their network
    Detach {
        /// Ids, their beginnings, or names
        #[arg(required = true, value_name = "ID|NAME")]
        endpoints: Vec<EndpointRef>,
    },
    /// List endpoints
    #[command(visible_alias = "list")]
    Ls {
        /// Of this network only
        #[arg(long, value_name = "NAME")]
        network: Option<NetworkName>,
    },
    /// Show an endpoint and its traffic
    Inspect {
        /// Its id, the beginning of it, or a name
        #[arg(value_name = "ID|NAME")]
        endpoint: EndpointRef,
    },
    /// Enter an endpoint behind a third party's VTEP
    AddStatic {
        /// The network
        network: NetworkName,
        /// The static node it is behind
        #[arg(long, value_name = "NAME")]
        node: NodeName,
        /// Its address; given twice, one of each family
        #[arg(long = "ip", value_name = "IP", required = true)]
        ips: Vec<IpAddr>,
        /// Its MAC address
        #[arg(long, value_name = "MAC")]
        mac: MacAddr,
        /// A name it is to be known by; may be given several times
        #[arg(long = "name", value_name = "NAME")]
        names: Vec<NodeName>,
    },
}

#[derive(Debug, Args)]
pub struct AttachArgs {
    /// The network
    pub network: NetworkName,
    #[command(flatten)]
    pub place: Place,
    /// Name of the interface inside
    #[arg(long, value_name = "NAME", default_value = "eth0")]
    pub ifname: InterfaceName,
    /// Its address; given twice, one of each family [default: free ones]
    #[arg(long = "ip", value_name = "IP")]
    pub ips: Vec<IpAddr>,
    /// Its MAC address [default: made from the first IP address]
    #[arg(long, value_name = "MAC")]
    pub mac: Option<MacAddr>,
    /// A name it is to be known by; may be given several times
    #[arg(long = "name", value_name = "NAME")]
    pub names: Vec<NodeName>,
    /// How frames from the wire reach it
    #[arg(long = "deliver", value_enum, value_name = "HOW", default_value_t)]
    pub delivery: Delivery,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Place {
    /// The network namespace: a path, or the name of one under /run/netns
    #[arg(long, value_name = "PATH", value_parser = netns)]
    pub netns: Option<PathBuf>,
    /// A process whose network namespace it is
    #[arg(long)]
    pub pid: Option<u32>,
}

#[derive(Debug, Subcommand)]
pub enum PortCommand {
    /// Make an interface of this node part of a network: physical, VLAN or tap
    Attach(PortArgs),
    /// List ports
    #[command(visible_alias = "list")]
    Ls,
    /// Take interfaces of this node off their network
    Detach {
        /// Ids, their beginnings, or interfaces
        #[arg(required = true, value_name = "ID|IFACE")]
        ports: Vec<PortRef>,
    },
}

#[derive(Debug, Args)]
pub struct PortArgs {
    /// The network
    pub network: NetworkName,
    /// The interface
    #[arg(long = "dev", value_name = "IFACE")]
    pub device: InterfaceName,
    /// How many MAC addresses are learned behind it
    #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_MACS)]
    pub max_macs: u32,
    /// After how many seconds without a frame one is forgotten
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULT_AGE)]
    pub age: u32,
    /// What carries its frames
    #[arg(long, value_enum, default_value_t)]
    pub datapath: PortDatapath,
}

#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// List nodes
    #[command(visible_alias = "list")]
    Ls,
    /// Enter a third party's VTEP
    AddStatic {
        /// A name for it
        name: NodeName,
        /// Its tunnel address
        #[arg(long, value_name = "IP")]
        vtep: IpAddr,
        /// Its VXLAN port [default: this node's]
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
        port: Option<u16>,
    },
    /// Attach nothing on a node any more, and list what it has
    Drain {
        /// The node
        name: NodeName,
        /// Withdraw its endpoints too: on that node itself
        #[arg(long, conflicts_with = "undo")]
        withdraw: bool,
        /// Let it take endpoints again
        #[arg(long)]
        undo: bool,
    },
    /// Remove a node that is gone for good, with its endpoints
    #[command(visible_alias = "remove")]
    Rm {
        /// The node
        name: NodeName,
    },
}

fn vni(text: &str) -> Result<Vni, String> {
    let number: u32 = text.parse().map_err(|_| format!("give a number of 1 to {}", Vni::MAX))?;
    Vni::new(number).map_err(|error| error.to_string())
}

fn aux(text: &str) -> Result<(String, IpAddr), String> {
    let wanted = || "give a name and an address, as router=10.0.9.9".to_owned();
    let (name, address) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(wanted)?;
    Ok((name.to_owned(), address.parse().map_err(|_| wanted())?))
}

/// The absolute path of a namespace: the daemon's working directory is not ours.
fn netns(text: &str) -> std::io::Result<PathBuf> {
    if text.contains('/') { std::path::absolute(text) } else { Ok(Path::new("/run/netns").join(text)) }
}
