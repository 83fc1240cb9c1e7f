//! The BPF data path: programs on the uplink and on every endpoint's interface, and their maps.
//!
//! Everything is pinned. A daemon that ends, however it ends, leaves packets flowing; the next one
//! opens the same maps, updates the links to its own programs and goes on from the rows it finds.

mod array;
mod attachments;
mod audit;
mod bare_table;
mod counters;
mod devices;
mod fdb;
mod features;
mod filters;
mod index;
mod learned;
mod leave;
mod links;
mod names;
mod object;
mod pins;
mod port_table;
mod ports;
pub mod probe;
mod redirect;
mod row;
mod rows;
mod slow_path;
mod stations;
mod survey;
mod table;
mod tables;
mod upgrade;
mod verify;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use aya::Ebpf;
use aya_log::EbpfLogger;
use nix::net::if_::if_nametoindex;
pub use overlay_ebpf::abi::SCHEMA;
use overlay_ebpf::abi::{Addr, DECAP_L4_UDP, MAX_FLOOD_PORTS, MAX_SLOTS, MAX_VTEPS, SELF_VTEP};
use tokio::io::unix::AsyncFd;
use tokio_util::task::AbortOnDropHandle;

use self::{
    audit::PinnedMaps,
    counters::CounterMaps,
    index::Indices,
    learned::{Heard, LearnedMap},
    object::Programs,
    pins::Pins,
    rows::{Local, Rows},
    slow_path::{Forwarding, SlowPath},
    stations::Task,
    survey::Survey,
    tables::Tables,
};
pub use self::{
    fdb::{Fdb, buckets},
    features::Features,
    leave::{leave, remove},
    object::{OBJECT, loader, object_for},
    upgrade::{check_schema, is_under_way},
};
use super::{
    Applied, Compared, Counters, Datapath, DatapathError, Differences, Mode, Ready, Sighting, Underlay,
    vxlan_device::Reconciled,
};
use crate::{netlink, plan::Plan, state::EndpointId};

/// Settings of the BPF data path.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory for pins.
    pub bpffs: PathBuf,
    /// Endpoints the maps have room for.
    pub max_endpoints: u32,
    /// How often the maps are read back and compared in full, and the links updated.
    pub verify_every: Duration,
    /// Reserved bits of the VXLAN header are ignored on receipt instead of refused.
    pub ignore_reserved_bits: bool,
    /// What the kernel has: [`Features::probe`] finds it.
    pub features: Features,
    /// The schema of the maps: [`SCHEMA`].
    pub schema: u32,
}

/// How far the kernel is brought to a plan.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// All the way.
    All,
    /// What is there stays as it is.
    Missing,
}

/// The BPF data path.
pub struct EbpfDatapath {
    options: Options,
    pins: Pins,
    /// Pins of daemons with an older schema whose programs forward until our maps are filled.
    former: Vec<Pins>,
    ebpf: Ebpf,
    maps: PinnedMaps,
    tables: Tables,
    counters: CounterMaps,
    learned: LearnedMap,
    /// What is on this node, as it was last brought to.
    local: Local,
    /// This node's endpoints that are to get frames by redirect, with their interfaces.
    redirected: BTreeMap<EndpointId, u32>,
    slow_path: SlowPath,
    /// Programs and interfaces this daemon has put its own programs on.
    attached: BTreeSet<(&'static str, u32)>,
    /// Interfaces of endpoints that are withdrawn, guarded until they go.
    withdrawn: BTreeSet<u32>,
    netlink: netlink::Connection,
    /// Passes on what the programs log.
    _log: Option<AbortOnDropHandle<()>>,
    adopted: bool,
    /// The plan that the maps have the rows of; `None`: that is not known.
    filled: Option<Plan>,
    /// What all of the kernel was last brought to, without a problem.
    settled: Option<(Plan, Underlay, Rows)>,
    /// `None`: it is due.
    verified: Option<Compared>,
    /// The part of it that is made beside everything else.
    survey: Survey,
    /// One for an audit.
    looking: Survey,
}

impl EbpfDatapath {
    /// Loads the programs and puts them on the uplink, unless programs of an older schema are there: those
    /// are replaced when the maps have what [`Datapath::apply`] is given first. `mode` is [`Mode::Xdp`] or
    /// [`Mode::Tc`].
    ///
    /// # Errors
    /// If the kernel or the uplink's driver refuses; what a former daemon left goes on undisturbed.
    pub fn start(options: Options, mode: Mode, underlay: &Underlay) -> Result<Self, DatapathError> {
        let programs = match mode {
            Mode::Xdp => Programs::All,
            Mode::Tc => Programs::WithoutXdp,
            Mode::Kernel => {
                return Err(DatapathError::Unsupported("the kernel data path has no programs".into()));
            }
        };
        let former = upgrade::former(&options.bpffs, options.schema)?;
        let pins = Pins::open(&options.bpffs, options.schema)?;
        let verbose = tracing::enabled!(target: "overlay", tracing::Level::DEBUG);
        let log_level = if verbose { log::Level::Debug as u8 } else { 0 };
        let mut ebpf = object::load(&pins, &options, log_level, programs)?;
        let maps = PinnedMaps::read(&pins, object::pinned_maps(&ebpf))?;
        let log = if verbose { forward_log(&mut ebpf) } else { None };
        let tables = Tables::open(&mut ebpf)?;
        let counters = CounterMaps::open(&mut ebpf)?;
        let learned = LearnedMap::open(&mut ebpf)?;
        let decap_clears_tunnel = probe::decap(&ebpf, DECAP_L4_UDP);
        tracing::debug!(decap_clears_tunnel, "probed the kernel");
        let local = Local {
            mode,
            ignore_reserved_bits: options.ignore_reserved_bits,
            decap_clears_tunnel,
            devices: BTreeMap::new(),
            redirected: BTreeSet::new(),
            ports: BTreeMap::new(),
            ways_out: BTreeSet::new(),
            slow: BTreeMap::new(),
            fdb_mask: tables.stations.fdb_mask(),
            vteps: Indices::new(SELF_VTEP + 1, MAX_VTEPS),
            slots: Indices::new(0, MAX_SLOTS),
        };
        let mut datapath = Self {
            options,
            pins,
            former,
            ebpf,
            maps,
            tables,
            counters,
            learned,
            local,
            redirected: BTreeMap::new(),
            slow_path: SlowPath::default(),
            attached: BTreeSet::new(),
            withdrawn: BTreeSet::new(),
            netlink: connect()?,
            _log: log,
            adopted: false,
            filled: None,
            settled: None,
            verified: None,
            survey: Survey::None,
            looking: Survey::None,
        };
        datapath.attach_uplink(underlay)?;
        Ok(datapath)
    }

    /// What the kernel has not that newer ones have, and what is done instead, for the operator.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let mut missing = self.options.features.missing();
        if self.local.mode == Mode::Tc && !probe::decap(&self.ebpf, probe::DECAP_L3_IPV6) {
            missing.push("no stripping across IP versions: IPv6 inside takes the kernel's VXLAN device");
        }
        missing
    }

    /// Takes over the numbers that rows of a former daemon have, so that they need not change.
    fn adopt(&mut self, plan: &Plan, devices: &BTreeMap<EndpointId, u32>) {
        let nodes: BTreeMap<Addr, _> =
            plan.vteps.iter().map(|(node, vtep)| (vtep.addr.into(), node)).collect();
        for (index, row) in self.tables.vteps.rows() {
            match nodes.get(&row.addr) {
                Some(node) => self.local.vteps.adopt((*node).clone(), *index),
                None => self.local.vteps.rest(*index),
            }
        }
        let ids: BTreeMap<_, _> = devices.iter().map(|(id, ifindex)| (*ifindex, id)).collect();
        for row in self.tables.stations.locals().values() {
            match ids.get(&row.ifindex) {
                Some(id) => self.local.slots.adopt((*id).clone(), row.slot.into()),
                None => self.local.slots.rest(row.slot.into()),
            }
        }
        self.adopted = true;
    }

    /// Numbers for the plan's nodes and this node's endpoints; counters of new ones begin at zero.
    /// Returns whether there are enough.
    fn assign_indices(
        &mut self,
        plan: &Plan,
        devices: &BTreeMap<EndpointId, u32>,
        problems: &mut Vec<String>,
    ) -> bool {
        let known_vteps: BTreeSet<u32> = self.local.vteps.iter().map(|(_, index)| index).collect();
        let known_slots: BTreeSet<u32> = self.local.slots.iter().map(|(_, index)| index).collect();
        let without = self.local.vteps.assign(plan.vteps.keys()) + self.local.slots.assign(devices.keys());
        if without > 0 {
            problems.push(format!("{without} nodes or endpoints are more than this node has rows for"));
        }
        let fresh_vteps = self.local.vteps.iter().map(|(_, i)| i).filter(|i| !known_vteps.contains(i));
        let fresh_slots = self.local.slots.iter().map(|(_, i)| i).filter(|i| !known_slots.contains(i));
        for index in fresh_vteps {
            problems.extend(self.counters.clear_peer(index).err().map(|e| e.to_string()));
        }
        for slot in fresh_slots {
            problems.extend(self.counters.clear_endpoint(slot).err().map(|e| e.to_string()));
        }
        without == 0
    }

    /// Brings the kernel from one plan to the next if nothing differs but who is on other nodes: at the price
    /// of the difference. `None` if there is more to do.
    async fn step(&mut self, plan: &Plan, underlay: &Underlay) -> Option<Applied> {
        let (Some((settled, over, rows)), Some(before)) = (&self.settled, &self.filled) else {
            return None;
        };
        if over != underlay || !settled.differs_in_stations_only(plan) {
            return None;
        }
        let mut applied = Applied::default();
        let task =
            Task { plan, before: Some(before), only_missing: false, same_here: true, local: &self.local };
        applied.changed += self.tables.stations.add(&task, &rows.locals, &mut applied.problems);
        applied.changed += self.tables.stations.remove(&task, &rows.locals, &mut applied.problems);
        applied.problems.extend(self.learned.judge_anew().err().map(|error| error.to_string()));
        self.slow_path.follow(before, plan);
        self.recheck(plan, underlay, &mut applied).await;
        let mut done = Reconciled::default();
        let to = Forwarding { plan, underlay };
        applied.unfinished = !self.slow_path.work(&self.netlink, to, &mut done).await;
        applied.changed += done.changed;
        applied.problems.extend(done.problems);
        if applied.problems.is_empty() {
            self.filled = Some(plan.clone());
        } else {
            (self.filled, self.settled) = (None, None);
        }
        Some(applied)
    }

    async fn bring_to(
        &mut self,
        plan: &Plan,
        underlay: &Underlay,
        extent: Extent,
    ) -> Result<Applied, DatapathError> {
        let begun = Instant::now();
        let mut applied = Applied::default();
        if extent == Extent::Missing && !self.former.is_empty() {
            // The former daemon's programs know more than what was kept.
            return Ok(applied);
        }
        self.let_withdrawn_go()?;
        let verifies = self.is_unverified(plan, extent);
        if verifies {
            self.verify(&mut applied)?;
        } else if extent == Extent::All
            && let Some(applied) = self.step(plan, underlay).await
        {
            return Ok(applied);
        }
        self.settled = None;
        applied.problems.extend(underlay.of_other_family(plan));
        let devices = local_devices(plan, &mut applied.problems);
        self.redirected = match self.local.mode {
            Mode::Xdp => redirect::asked(plan, &devices),
            Mode::Tc | Mode::Kernel => BTreeMap::new(),
        };
        self.local.redirected =
            redirect::taking(&self.netlink, &self.redirected, &mut applied.problems).await;
        let mut ports = ports::local(&self.netlink, plan, underlay.ifindex, &mut applied.problems).await;
        let by_xdp = ports.values().any(|port| port.status.mode == Mode::Xdp);
        self.local.ways_out = if by_xdp { ports::ways_out(underlay, &mut ports) } else { BTreeSet::new() };
        self.local.ports = ports;
        let mut slotted = devices.clone();
        slotted.extend(self.local.ports.iter().map(|(id, port)| (id.clone(), port.ifindex)));
        self.local.devices = devices;
        if !self.adopted {
            self.adopt(plan, &slotted);
        }
        let all_numbered = self.assign_indices(plan, &slotted, &mut applied.problems);
        // An uplink that is away keeps nothing else from being done.
        applied.problems.extend(self.attach_uplink(underlay).err().map(|error| error.to_string()));
        self.local.slow = self.slow_devices(plan, underlay, extent, &mut applied).await?;
        let rows = Rows::of(plan, underlay, &self.local);
        applied.problems.extend(plan.capped());
        for (vni, network) in rows.networks.iter().filter(|(_, n)| n.flood_ports > MAX_FLOOD_PORTS) {
            applied.problems.push(format!(
                "VNI {vni} has {} endpoints on this node, broadcasts reach {MAX_FLOOD_PORTS} of them: put \
                 the others on other nodes",
                network.flood_ports
            ));
        }
        let before = self.filled.take();
        let only_missing = extent == Extent::Missing;
        let task = Task { plan, before: before.as_ref(), only_missing, same_here: false, local: &self.local };
        let problems = applied.problems.len();
        applied.changed += match extent {
            Extent::All => self.tables.add(&rows, &task, &mut applied.problems),
            Extent::Missing => self.tables.add_missing(&rows, &task, &mut applied.problems),
        };
        let mut filled = applied.problems.len() == problems;
        if filled {
            applied.changed += self.take_over()?;
            applied.problems.extend(self.attach_uplink(underlay).err().map(|error| error.to_string()));
            applied.problems.dedup();
        }
        self.guard_endpoints(&mut applied.problems).await;
        self.guard_ports(&mut applied.problems).await;
        self.learned.judge_anew()?;
        if extent == Extent::Missing {
            // Rows of others may be a newer plan's: they keep their numbers and are looked at again.
            self.adopted = false;
            return Ok(applied);
        }
        let problems = applied.problems.len();
        let task = Task { plan, before: before.as_ref(), only_missing, same_here: false, local: &self.local };
        applied.changed += self.tables.remove(&rows, &task, &mut applied.problems);
        self.recheck(plan, underlay, &mut applied).await;
        self.learned.judge_anew()?;
        if applied.problems.len() == problems {
            self.local.vteps.settle();
            self.local.slots.settle();
        } else {
            filled = false;
        }
        applied.changed += self.detach_others(underlay, &rows).await?;
        self.filled = (filled && all_numbered).then(|| plan.clone());
        if self.filled.is_some() && applied.problems.is_empty() {
            self.settled = Some((plan.clone(), underlay.clone(), rows));
        }
        if verifies {
            self.verified = Some(Compared { at: Instant::now(), took: begun.elapsed() });
        }
        Ok(applied)
    }
}

#[async_trait]
impl Datapath for EbpfDatapath {
    fn mode(&self) -> Mode {
        self.local.mode
    }

    async fn apply(&mut self, plan: &Plan, underlay: &Underlay) -> Result<Applied, DatapathError> {
        let mut applied = self.bring_to(plan, underlay, Extent::All).await?;
        self.survey(underlay, &mut applied);
        Ok(applied)
    }

    async fn restore(&mut self, plan: &Plan, underlay: &Underlay) -> Result<Applied, DatapathError> {
        self.bring_to(plan, underlay, Extent::Missing).await
    }

    async fn audit(&mut self, plan: &Plan, underlay: &Underlay) -> Result<Differences, DatapathError> {
        self.differences(plan, underlay).await
    }

    fn distrust(&mut self) {
        // The next comparison looks at everything itself.
        (self.verified, self.filled) = (None, None);
    }

    async fn look(&mut self, plan: &Plan, underlay: &Underlay) -> Result<bool, DatapathError> {
        self.look_around(plan, underlay).await.map(|()| true)
    }

    async fn ready(&mut self) -> Ready {
        tokio::select! {
            () = self.survey.done() => Ready::ToApply,
            () = self.looking.done() => Ready::ToAudit,
        }
    }

    async fn counters(&mut self) -> Result<Counters, DatapathError> {
        let mut counters = Counters { outcomes: self.counters.outcomes()?, ..Counters::default() };
        redirect::count_lost(&self.netlink, &self.redirected, &mut counters).await?;
        for (id, slot) in self.local.slots.iter() {
            counters.endpoints.insert(id.clone(), self.counters.endpoint(slot)?);
        }
        for (node, vtep) in self.local.vteps.iter() {
            counters.peers.insert(node.clone(), self.counters.peer(vtep)?);
        }
        for (id, port) in &self.local.ports {
            counters.ports.insert(id.clone(), port.status.clone());
        }
        Ok(counters)
    }

    async fn sightings(&mut self) -> Result<Vec<Sighting>, DatapathError> {
        let port = |ifindex| self.local.ports.iter().find(|(_, port)| port.ifindex == ifindex);
        let heard = self.learned.hear(&self.tables.stations)?;
        Ok(heard
            .into_iter()
            .filter_map(|Heard { vni, mac, ifindex }| {
                let (id, _) = port(ifindex)?;
                Some(Sighting { vni, mac, port: id.clone() })
            })
            .collect())
    }

    async fn remove(&mut self) -> Result<(), DatapathError> {
        remove(&self.options.bpffs).await
    }
}

fn connect() -> Result<netlink::Connection, DatapathError> {
    netlink::connect()
        .map_err(|cause| DatapathError::Io { what: "cannot open a netlink socket".into(), cause })
}

/// The interfaces of this node's endpoints; one that is gone is a problem to tell.
fn local_devices(plan: &Plan, problems: &mut Vec<String>) -> BTreeMap<EndpointId, u32> {
    let mut devices = BTreeMap::new();
    for network in plan.networks.values() {
        for endpoint in network.local.values() {
            let device = endpoint.id.host_device();
            match if_nametoindex(device.as_str()) {
                Ok(ifindex) => drop(devices.insert(endpoint.id.clone(), ifindex)),
                Err(_) => problems.push(format!(
                    "endpoint {} of network {}: its interface {device} is gone; \
                     `overlayctl endpoint detach {}` withdraws it",
                    endpoint.id, network.name, endpoint.id
                )),
            }
        }
    }
    devices
}

/// Passes on what the programs log (drops, at debug level) until the data path ends.
fn forward_log(ebpf: &mut Ebpf) -> Option<AbortOnDropHandle<()>> {
    let logger = EbpfLogger::init(ebpf).map_err(|e| e.to_string());
    // SAFETY: the logger owns its ring buffer's descriptor for as long as it lives.
    let register = |logger| unsafe { AsyncFd::register(logger) }.map_err(|e| e.to_string());
    match logger.and_then(register) {
        Ok(mut logger) => Some(AbortOnDropHandle::new(tokio::spawn(async move {
            while let Ok(mut ready) = logger.readable_mut().await {
                ready.get_inner_mut().flush();
                ready.clear_ready();
            }
        }))),
        Err(error) => {
            tracing::warn!(error, "the programs' log cannot be read");
            None
        }
    }
}
