//! The fallback: the kernel's own bridge and VXLAN device for each network, programmed from the same
//! plan as the BPF maps. Same packets on the wire, same counters by name.
//!
//! A network is a bridge `ovb<VNI>` with the VXLAN device `ovv<VNI>` and the host's ends of its
//! endpoints as ports. Nothing is learnt: the bridge's and the VXLAN device's forwarding databases
//! come from the plan, and so do the neighbour entries from which the bridge answers ARP and neighbour
//! solicitations. The host
//! is no member of the network.
//!
//! What the kernel would accept and must not (see [`guard`]) is dropped by nftables.

mod audit;
mod bridge;
mod counters;
mod guard;
mod neighbours;
mod port;
mod step;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use rtnetlink::{Handle, LinkUnspec};

use self::{
    guard::{Guard, Ruleset},
    step::Settled,
};
use super::{
    Applied, Compared, Counters, Datapath, DatapathError, Differences, Mode, Underlay,
    vxlan_device::{self, Fdb, Reconciled, Wanted},
};
use crate::{
    MacAddr, Vni,
    netlink::{self, Link, into_io, ipv6},
    plan::{Location, Network, Plan},
    state::NodeName,
};

/// The smallest MTU IPv4 works with (RFC 791, section 3.2).
const SMALLEST_MTU: u16 = 68;

/// The kernel data path. It holds no kernel object: what it makes goes on forwarding without it, and
/// the next one adopts it. Where a plan differs from the last in nothing but who is on other nodes, only that is
/// written; else all is compared with the kernel.
#[derive(Default)]
pub struct KernelDatapath {
    guard: Guard,
    /// Names of the nodes by tunnel address, for the counters.
    peers: BTreeMap<IpAddr, NodeName>,
    /// No bridge was there when this data path began: all there is is its own.
    began_with_nothing: bool,
    /// Reserved bits were to be ignored, which Linux's VXLAN device cannot.
    refuses_reserved_bits: bool,
    /// How long what was compared is taken to stay as it is. `None`: all is compared with each plan.
    verify_every: Option<Duration>,
    /// Where a step can begin.
    settled: Option<Settled>,
}

/// The devices of one network.
struct Devices {
    bridge: u32,
    vxlan: u32,
    /// The bridge answers for IPv6 addresses too.
    ipv6: bool,
    /// The host's ends of its endpoints.
    ports: BTreeMap<MacAddr, u32>,
}

impl KernelDatapath {
    /// Makes one. The kernel is not touched before the first plan.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, for who asked for reserved bits to be ignored: that they are not is a problem to tell.
    #[must_use]
    pub const fn refusing_reserved_bits(mut self, refuses: bool) -> Self {
        self.refuses_reserved_bits = refuses;
        self
    }

    /// The same, comparing everything with the kernel once in so long a time instead of with each plan.
    #[must_use]
    pub const fn verifying_every(mut self, time: Duration) -> Self {
        self.verify_every = Some(time);
        self
    }

    /// What is wrong with a plan whatever the kernel does, one sentence each.
    fn objections(&self, plan: &Plan, underlay: &Underlay) -> Vec<String> {
        let mut objections: Vec<_> = underlay.of_other_family(plan).collect();
        if self.refuses_reserved_bits {
            objections.push(
                "--reserved-bits ignore has no effect here: Linux's VXLAN device drops what has reserved bits \
                 set. Use --datapath xdp or tc, or --reserved-bits strict"
                    .to_owned(),
            );
        }
        objections.extend(plan.capped());
        objections.extend(refused_ports(plan));
        objections
    }

    /// Takes what is no longer planned out of the kernel: ports of bridges, which it leaves down, and
    /// whole networks.
    async fn withdraw(kernel: &Handle, plan: &Plan, links: &[Link], done: &mut Reconciled) {
        let bridges: BTreeMap<_, _> =
            links.iter().filter_map(|link| Some((link.ifindex, bridge::vni_of(link)?))).collect();
        let planned: BTreeSet<_> = plan
            .networks
            .iter()
            .flat_map(|(vni, network)| {
                let ports = network.local.values().map(|endpoint| endpoint.id.host_device());
                ports.chain([vxlan_device::name(*vni)]).map(|port| (*vni, port))
            })
            .collect();
        for link in links {
            let Some(vni) = link.controller.and_then(|controller| bridges.get(&controller)) else { continue };
            if !planned.contains(&(*vni, link.name.clone())) {
                // Down first: without the bridge, what comes from the container is the host's to take.
                for message in [
                    LinkUnspec::new_with_index(link.ifindex).down(),
                    LinkUnspec::new_with_index(link.ifindex).nocontroller(),
                ] {
                    let result = kernel.link().set(message.build()).execute().await.map_err(into_io);
                    done.note(result, || format!("take {} out of the bridge of VNI {vni}", link.name));
                }
            }
        }
        for link in links {
            let vni = bridge::vni_of(link).or_else(|| vxlan_device::vni_of(link));
            if vni.is_some_and(|vni| !plan.networks.contains_key(&vni)) {
                let result = kernel.link().del(link.ifindex).execute().await.map_err(into_io);
                done.note(result, || format!("remove {}", link.name));
            }
        }
    }

    /// Makes the devices of a network what they should be.
    async fn devices(
        kernel: &Handle,
        links: &[Link],
        underlay: &Underlay,
        (vni, network): (Vni, &Network),
        (bridge, mtu): (u32, u16),
        done: &mut Reconciled,
    ) -> Result<Devices, DatapathError> {
        let wanted = Wanted { vni, dscp: network.policy.dscp, mtu };
        let vxlan = vxlan_device::ensure(kernel, underlay, wanted).await?;
        done.changed += vxlan.changed;
        port::ensure(kernel, vxlan.ifindex, bridge, port::Kind::Vxlan, network.flooding(), done).await;
        done.changed += vxlan_device::set_up(kernel, underlay, vni, vxlan).await?;

        let mut ports = BTreeMap::new();
        for (mac, endpoint) in &network.local {
            let device = endpoint.id.host_device();
            if let Some(link) = links.iter().find(|link| link.name == device) {
                port::ensure(kernel, link.ifindex, bridge, port::Kind::Endpoint, network.flooding(), done)
                    .await;
                ports.insert(*mac, link.ifindex);
            } else {
                done.problems.push(format!(
                    "endpoint {} of network {} has no interface {device}: attach it again",
                    endpoint.id, network.name
                ));
            }
        }
        let ipv6 = ipv6::keep_neighbours(&bridge::name(vni));
        Ok(Devices { bridge, vxlan: vxlan.ifindex, ipv6, ports })
    }

    async fn guard(&mut self, plan: &Plan, underlay: &Underlay, links: &[Link], done: &mut Reconciled) {
        let indices: BTreeMap<_, _> = links.iter().map(|link| (link.name.as_str(), link.ifindex)).collect();
        match self.guard.apply(&Ruleset::new(plan, underlay, &indices)).await {
            Ok(changed) => done.changed += usize::from(changed),
            Err(error) => done.problems.push(format!(
                "the kernel's VXLAN is not guarded, packets of unknown nodes and spoofed sources are \
                 accepted and not counted: {error}"
            )),
        }
        if !plan.networks.is_empty() {
            done.problems.extend(guard::host_obstacle().await);
        }
    }
}

/// Takes what a kernel data path left behind out of the kernel, for another data path to begin. Without
/// one, nothing is touched.
///
/// # Errors
/// If something is left; the text names it.
pub async fn leave() -> Result<(), DatapathError> {
    let mut left_behind = KernelDatapath::new();
    let kernel = connect()?;
    let links = list(&kernel).await?;
    if links.iter().any(|link| bridge::vni_of(link).is_some()) {
        return left_behind.remove().await;
    }
    left_behind.guard.remove().await.map_err(|error| DatapathError::Unsupported(error.to_string()))
}

#[async_trait]
impl Datapath for KernelDatapath {
    fn mode(&self) -> Mode {
        Mode::Kernel
    }

    async fn apply(&mut self, plan: &Plan, underlay: &Underlay) -> Result<Applied, DatapathError> {
        let objections = self.objections(plan, underlay);
        if let Some(changed) = self.step(plan, underlay).await {
            return Ok(Applied { changed, problems: objections, unfinished: false });
        }
        let begun = Instant::now();
        let kernel = connect()?;
        let mut done = Reconciled::default();
        self.peers = peer_names(plan);
        let links = list(&kernel).await?;
        Self::withdraw(&kernel, plan, &links, &mut done).await;

        // The bridges, then the guard, then what makes packets flow: nothing passes unguarded.
        let mut bridges = BTreeMap::new();
        for (vni, network) in &plan.networks {
            let mtu = mtu(network, underlay);
            match bridge::ensure(&kernel, &links, *vni, mtu).await {
                Ok(bridge) => {
                    done.changed += bridge.changed;
                    bridges.insert(*vni, (bridge.ifindex, mtu));
                }
                Err(error) => done.problems.push(error.to_string()),
            }
        }
        let links = list(&kernel).await?;
        self.guard(plan, underlay, &links, &mut done).await;

        let mut networks = BTreeMap::new();
        for (vni, bridge) in bridges {
            let network = &plan.networks[&vni];
            match Self::devices(&kernel, &links, underlay, (vni, network), bridge, &mut done).await {
                Ok(devices) => {
                    networks.insert(vni, devices);
                }
                Err(error) => done.problems.push(error.to_string()),
            }
        }
        let fdb = Fdb::read(&kernel).await?;
        let neighbours = neighbours::read(&kernel).await?;
        for (vni, devices) in &networks {
            let network = &plan.networks[vni];
            let rows = vxlan_device::rows_of(plan, network, underlay);
            done.add(fdb.reconcile(&kernel, devices.vxlan, &rows).await);
            done.add(
                bridge::reconcile_fdb(&kernel, &fdb, devices.bridge, &bridge_rows(network, devices)).await,
            );
            let wanted = neighbours::wanted(network, devices.ipv6);
            done.add(neighbours::reconcile(&kernel, &neighbours, devices.bridge, &wanted).await);
        }
        let Reconciled { changed, mut problems } = done;
        self.settled = problems.is_empty().then(|| Settled {
            plan: plan.clone(),
            underlay: underlay.clone(),
            networks,
            compared: Compared { at: Instant::now(), took: begun.elapsed() },
        });
        problems.extend(objections);
        Ok(Applied { changed, problems, unfinished: false })
    }

    /// The guard is one transaction for all networks, so either all are made or, where a bridge is there
    /// already, none is touched.
    async fn restore(&mut self, plan: &Plan, underlay: &Underlay) -> Result<Applied, DatapathError> {
        let kernel = connect()?;
        let there: BTreeSet<_> = list(&kernel).await?.iter().filter_map(bridge::vni_of).collect();
        self.began_with_nothing |= there.is_empty();
        if self.began_with_nothing {
            return self.apply(plan, underlay).await;
        }
        self.peers = peer_names(plan);
        let missing = plan.networks.iter().filter(|(vni, _)| !there.contains(vni));
        let problems = missing.map(|(_, network)| {
            format!("network {} has no bridge: it is made once the store is read", network.name)
        });
        Ok(Applied { problems: problems.collect(), ..Applied::default() })
    }

    async fn audit(&mut self, plan: &Plan, underlay: &Underlay) -> Result<Differences, DatapathError> {
        self.differences(plan, underlay).await
    }

    fn distrust(&mut self) {
        self.settled = None;
    }

    async fn counters(&mut self) -> Result<Counters, DatapathError> {
        let kernel = connect()?;
        let links = list(&kernel).await?;
        let named = self.guard.counters().await.unwrap_or_else(|error| {
            tracing::debug!(%error, "no counters from nftables");
            BTreeMap::new()
        });
        Ok(counters::collect(&named, &links, &self.peers))
    }

    async fn remove(&mut self) -> Result<(), DatapathError> {
        self.settled = None;
        let kernel = connect()?;
        let mut done = Reconciled::default();
        Self::withdraw(&kernel, &Plan::default(), &list(&kernel).await?, &mut done).await;
        if let Err(error) = self.guard.remove().await {
            done.problems.push(error.to_string());
        }
        if done.problems.is_empty() {
            Ok(())
        } else {
            Err(DatapathError::Unsupported(done.problems.join("; ")))
        }
    }
}

fn peer_names(plan: &Plan) -> BTreeMap<IpAddr, NodeName> {
    plan.vteps.iter().map(|(name, vtep)| (vtep.addr, name.clone())).collect()
}

/// The gateway ports of this node, which this data path has not.
fn refused_ports(plan: &Plan) -> impl Iterator<Item = String> {
    plan.networks.values().flat_map(|network| {
        network.ports.iter().map(move |(id, port)| {
            format!(
                "port {id} of network {}: the kernel data path has no gateway ports; {} is left alone",
                network.name, port.device
            )
        })
    })
}

/// MTU of a network's devices in bytes.
fn mtu(network: &Network, underlay: &Underlay) -> u16 {
    network.mtu.unwrap_or(underlay.inner_mtu()).max(SMALLEST_MTU)
}

/// The bridge's forwarding database: which port each endpoint is behind.
fn bridge_rows(network: &Network, devices: &Devices) -> BTreeMap<MacAddr, u32> {
    let port_of = |mac: MacAddr, location: Location<'_>| match location {
        Location::Local => devices.ports.get(&mac).copied(),
        Location::Port(_) => None,
        Location::Remote(_) => Some(devices.vxlan),
    };
    network.endpoints().filter_map(|(mac, endpoint)| Some((mac, port_of(mac, endpoint.location)?))).collect()
}

fn connect() -> Result<netlink::Connection, DatapathError> {
    netlink::connect().map_err(|cause| DatapathError::Io { what: "open a routing socket".into(), cause })
}

async fn list(kernel: &Handle) -> Result<Vec<Link>, DatapathError> {
    let links = netlink::links(kernel).await;
    links.map_err(|cause: io::Error| DatapathError::Io { what: "list interfaces".into(), cause })
}
