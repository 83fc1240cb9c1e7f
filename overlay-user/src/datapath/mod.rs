//! What carries packets out: one trait, two honest implementations.
//!
//! `ebpf` loads the programs and fills their maps; `kernel` programs a bridge and a VXLAN device for
//! each network. Both get the same [`Plan`], and both bring the kernel to it whatever it was before.

mod difference;
pub mod ebpf;
pub mod kernel;
pub mod vxlan_device;
mod vxlan_fdb;

use std::{
    collections::{BTreeMap, BTreeSet},
    future,
    net::IpAddr,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use overlay_ebpf::abi::{OVERHEAD, OVERHEAD_V6};
use serde::{Deserialize, Serialize};

pub use difference::{Difference, DifferenceKind, Differences, MOST_DIFFERENCES};

use crate::{
    MacAddr, Vni,
    plan::{Plan, Vtep},
    state::{EndpointId, NodeName},
};

/// The underlay as it is now: what a data path needs to reach other nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// The uplink's interface index.
    pub ifindex: u32,
    /// The uplink's name.
    pub name: String,
    /// Its driver's kind as the kernel names it (`veth`, `macvlan`, `virtio_net`, …).
    pub driver: String,
    /// This node's tunnel address on it. Tunnels are of its family.
    pub addr: IpAddr,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Its MTU in bytes.
    pub mtu: u16,
    /// UDP port of VXLAN.
    pub port: u16,
    /// Outer packets over IPv6 have, and may have, a UDP checksum of zero.
    pub udp6_zero_checksum: bool,
    /// The tunnel addresses that `routes` was looked up for.
    pub peers: BTreeSet<IpAddr>,
    /// How other nodes are reached, by their tunnel address; absent while there is no route.
    pub routes: BTreeMap<IpAddr, Route>,
}

/// The way to one tunnel address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Interface the route leaves by.
    pub ifindex: u32,
    /// MAC address of that interface.
    pub source_mac: MacAddr,
    /// Next hop on that interface: the address itself or a gateway.
    pub next_hop: IpAddr,
    /// The next hop's MAC address while its neighbour entry is valid.
    pub neighbour: Option<MacAddr>,
    /// MTU of the route in bytes.
    pub mtu: u16,
}

impl Underlay {
    /// The MTU that it leaves to the frames' payload.
    #[must_use]
    pub const fn inner_mtu(&self) -> u16 {
        self.mtu.saturating_sub(if self.addr.is_ipv6() { OVERHEAD_V6 } else { OVERHEAD })
    }

    /// Whether `other` differs from it, if at all, in nothing but how other nodes are reached.
    #[must_use]
    pub fn differs_in_routes_only(&self, other: &Self) -> bool {
        let Self { ifindex, name, driver, addr, mac, mtu, port, udp6_zero_checksum, peers: _, routes: _ } =
            self;
        (ifindex, name, driver, addr) == (&other.ifindex, &other.name, &other.driver, &other.addr)
            && (mac, mtu, port) == (&other.mac, &other.mtu, &other.port)
            && *udp6_zero_checksum == other.udp6_zero_checksum
    }

    /// The nodes of `plan` that cannot be reached because their tunnel address is of the other family,
    /// one line for each.
    pub fn of_other_family<'a>(&self, plan: &'a Plan) -> impl Iterator<Item = String> + use<'a> {
        let own = self.addr;
        let others = plan.vteps.iter().filter(move |(_, vtep)| vtep.addr.is_ipv6() != own.is_ipv6());
        others.map(move |(node, Vtep { addr })| {
            format!(
                "{node}'s tunnel address is {} ({addr}), this node's is {} ({own}): tell one of the two with \
                 --underlay to use its other address",
                family(*addr),
                family(own)
            )
        })
    }
}

const fn family(addr: IpAddr) -> &'static str {
    if addr.is_ipv6() { "IPv6" } else { "IPv4" }
}

/// What a data path has to say after it was brought to a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Rows or kernel objects that were changed.
    pub changed: usize,
    /// What could not be done, for whom, and why; empty when all is as planned.
    pub problems: Vec<String>,
    /// There is more to do, which nobody waits for: to be called again at once.
    pub unfinished: bool,
}

/// Counters of a data path, for `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// By hook name, then outcome name: packets and bytes. Only what is not zero.
    pub outcomes: BTreeMap<String, BTreeMap<String, Count>>,
    /// By endpoint on this node.
    pub endpoints: BTreeMap<EndpointId, Traffic>,
    /// By node.
    pub peers: BTreeMap<NodeName, Traffic>,
    /// What carries the frames of each gateway port of this node.
    pub ports: BTreeMap<EndpointId, PortStatus>,
}

/// What carries a gateway port's frames.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStatus {
    /// [`Mode::Xdp`] or [`Mode::Tc`].
    pub mode: Mode,
    /// Why that.
    pub reason: String,
}

/// A MAC address that was heard behind a gateway port of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// The network.
    pub vni: Vni,
    /// The address.
    pub mac: MacAddr,
    /// The port.
    pub port: EndpointId,
}

/// Packets and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Packets and bytes to and from an endpoint or a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// To it.
    pub rx: Count,
    /// From it.
    pub tx: Count,
}

/// Which data path runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// BPF programs, native XDP on the uplink.
    Xdp,
    /// BPF programs, tc on the uplink.
    Tc,
    /// The kernel's bridge and VXLAN devices.
    Kernel,
}

/// Why a data path cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The kernel refused a program, a map or an attachment.
    #[error("{what}: {cause}")]
    Bpf {
        /// What was tried.
        what: String,
        /// What the kernel or the library said.
        cause: String,
    },
    /// A netlink request failed.
    #[error("{what}: {cause}")]
    Netlink {
        /// What was tried.
        what: String,
        /// What the kernel said.
        cause: rtnetlink::Error,
    },
    /// Anything of the operating system's.
    #[error("{what}: {cause}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        cause: std::io::Error,
    },
    /// What was asked for cannot be done here; the text says why and what to do.
    #[error("{0}")]
    Unsupported(String),
}

/// When everything was last compared with the kernel, and how long that took.
#[derive(Clone, Copy, Debug)]
struct Compared {
    at: Instant,
    took: Duration,
}

impl Compared {
    /// Whether it is time again, with so long between two: not for more than a fiftieth of the time; and what has
    /// changed goes first, unless it leaves no moment for the comparison in twice the time.
    fn is_due(self, every: Duration, has_news: impl FnOnce() -> bool) -> bool {
        let (every, since) = (every.max(self.took.saturating_mul(50)), self.at.elapsed());
        since >= every && (since >= every * 2 || !has_news())
    }
}

/// What was read beside everything else, and what is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// [`Datapath::apply`], of the plan that is.
    ToApply,
    /// [`Datapath::audit`], which [`Datapath::look`] was for.
    ToAudit,
}

/// A way to forward packets. All methods work in the network namespace of the calling process.
#[async_trait]
pub trait Datapath: Send {
    /// Which one it is.
    fn mode(&self) -> Mode;

    /// Brings the kernel to `plan` over `underlay`, touching only what differs. A part that cannot
    /// be done is reported in the result and tried again at the next call; the rest is done.
    ///
    /// # Errors
    /// If nothing could be done at all.
    async fn apply(&mut self, plan: &Plan, underlay: &Underlay) -> Result<Applied, DatapathError>;

    /// Makes what `plan` has and the kernel has not, and changes nothing else: for a plan of a state
    /// that was last known but not read from the store since. What the kernel has may be newer.
    ///
    /// # Errors
    /// If nothing could be done at all.
    async fn restore(&mut self, plan: &Plan, underlay: &Underlay) -> Result<Applied, DatapathError>;

    /// Compares what the kernel has now, row by row and object by object, with what `plan` over `underlay`
    /// means, and changes nothing.
    ///
    /// # Errors
    /// If the kernel does not say what it has.
    async fn audit(&mut self, plan: &Plan, underlay: &Underlay) -> Result<Differences, DatapathError>;

    /// Has the next [`Self::apply`] compare everything with the kernel, whatever it did last.
    fn distrust(&mut self);

    /// Begins to read, beside everything else, what [`Self::audit`] compares and there may be a million of. Returns
    /// whether there is any such thing: if so, [`Self::ready`] tells when it is time for the audit, which is of the
    /// plan of that time.
    ///
    /// # Errors
    /// If the kernel does not say what it has.
    async fn look(&mut self, _plan: &Plan, _underlay: &Underlay) -> Result<bool, DatapathError> {
        Ok(false)
    }

    /// Waits until there is something to do that neither a plan nor the underlay tells of; for ever if nothing is
    /// under way.
    async fn ready(&mut self) -> Ready {
        future::pending().await
    }

    /// Reads all counters.
    ///
    /// # Errors
    /// If the kernel does not hand them out.
    async fn counters(&mut self) -> Result<Counters, DatapathError>;

    /// The MAC addresses heard behind gateway ports since it was last asked. The kernel data path has
    /// no ports.
    ///
    /// # Errors
    /// If the kernel does not hand them out.
    async fn sightings(&mut self) -> Result<Vec<Sighting>, DatapathError> {
        Ok(Vec::new())
    }

    /// Takes everything of this data path out of the kernel: forwarding ends.
    ///
    /// # Errors
    /// If something is left; the text names it.
    async fn remove(&mut self) -> Result<(), DatapathError>;
}

impl Mode {
    /// The word for it in settings, records and output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Tc => "tc",
            Self::Kernel => "kernel",
        }
    }
}
