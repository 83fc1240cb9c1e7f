//! The kernel's VXLAN devices that take what the programs leave to them, one for each network.
//!
//! That they are up has a second use: the kernel's GRO then merges tunnel packets on the uplink
//! before tc sees them.

mod reading;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
};

use futures::StreamExt as _;
use imbl::ordmap::DiffItem;
use rtnetlink::Handle;

pub use self::reading::Reading;
use crate::{
    MacAddr, Vni,
    datapath::{
        Applied, DatapathError, Underlay,
        vxlan_device::{self, Ensured, Reconciled, Row, Wanted},
    },
    plan::{Location, Network, Plan, changed_stations},
};

/// Most rows of forwarding databases that are written at a time: a request each, while packets that the
/// programs forward need none of them, and changes wait.
const AT_A_TIME: usize = 128;

/// How many requests are under way at once.
const AT_ONCE: usize = 32;

/// Which device each network has, and who gets its broadcasts.
pub type Devices = BTreeMap<Vni, (u32, BTreeSet<Row>)>;

/// The forwarding databases of the devices, brought to the plan bit by bit.
#[derive(Default)]
pub struct SlowPath {
    /// As they were last left.
    devices: Devices,
    /// Who is to get broadcasts, or not to any more: done before the rest.
    due_floods: BTreeSet<Request>,
    /// MAC addresses whose rows are to be looked at.
    due: BTreeSet<(Vni, MacAddr)>,
}

/// One request to the kernel. Whoever gets broadcasts anew does before another does not any more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Request {
    AddFlood(Vni, Row),
    DeleteFlood(Vni, Row),
    /// To have the row, or none.
    Unicast(Vni, MacAddr, Option<Row>),
}

/// What the forwarding databases are to have.
#[derive(Clone, Copy)]
pub struct Forwarding<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// The underlay, of whose family tunnels are.
    pub underlay: &'a Underlay,
}

/// Makes the device of every network of the plan; new ones are left down. A network without
/// a device is a problem, not an error: what the programs forward is not affected.
pub async fn ensure(
    netlink: &Handle,
    plan: &Plan,
    underlay: &Underlay,
    applied: &mut Applied,
) -> BTreeMap<Vni, Ensured> {
    let mut devices = BTreeMap::new();
    for (vni, network) in &plan.networks {
        let wanted = Wanted { vni: *vni, dscp: network.policy.dscp, mtu: underlay.inner_mtu() };
        match vxlan_device::ensure(netlink, underlay, wanted).await {
            Ok(ensured) => {
                applied.changed += ensured.changed;
                devices.insert(*vni, ensured);
            }
            Err(error) => applied.problems.push(format!(
                "network {} has no slow path, so what is not IP is dropped there: {error}",
                network.name
            )),
        }
    }
    devices
}

/// Removes the devices of networks that the plan does not have; returns how many.
///
/// # Errors
/// If the kernel refuses.
pub async fn remove_others(netlink: &Handle, plan: &Plan) -> Result<usize, DatapathError> {
    let mut removed = 0;
    for vni in vxlan_device::list_ours(netlink).await?.into_keys() {
        if !plan.networks.contains_key(&vni) && vxlan_device::remove(netlink, vni).await? {
            removed += 1;
        }
    }
    Ok(removed)
}

// === impl SlowPath ===

impl SlowPath {
    /// What is known of devices before their forwarding databases are read.
    pub fn of(devices: &BTreeMap<Vni, u32>) -> Self {
        let unread = devices.iter().map(|(vni, ifindex)| (*vni, (*ifindex, BTreeSet::new())));
        Self { devices: unread.collect(), ..Self::default() }
    }

    /// Takes note of the devices that are there now; one that is new has everything to be written.
    pub fn see(&mut self, devices: &BTreeMap<Vni, u32>, plan: &Plan) {
        self.devices.retain(|vni, (ifindex, _)| devices.get(vni) == Some(ifindex));
        self.due.retain(|(vni, _)| devices.contains_key(vni));
        for (vni, ifindex) in devices {
            if !self.devices.contains_key(vni) {
                self.devices.insert(*vni, (*ifindex, BTreeSet::new()));
                let stations = plan.networks.get(vni).into_iter().flat_map(Network::endpoints);
                self.due.extend(stations.map(|(mac, _)| (*vni, mac)));
            }
        }
    }

    /// Takes note of what two plans do not share.
    pub fn follow(&mut self, before: &Plan, plan: &Plan) {
        self.due.extend(changed_stations(before, plan));
        // A node that has moved is behind all the rows of its endpoints.
        let moved: BTreeSet<_> = before
            .vteps
            .diff(&plan.vteps)
            .filter_map(|item| match item {
                DiffItem::Update { new: (node, _), .. } => Some(node),
                _ => None,
            })
            .collect();
        if moved.is_empty() {
            return;
        }
        for (vni, network) in &plan.networks {
            let behind = network.endpoints().filter(
                |(_, endpoint)| matches!(endpoint.location, Location::Remote(node) if moved.contains(node)),
            );
            self.due.extend(behind.map(|(mac, _)| (*vni, mac)));
        }
    }

    /// Whose rows are to be read.
    #[must_use]
    pub fn devices(&self) -> Devices {
        self.devices.clone()
    }

    /// Takes note of what was read, but of nothing that has changed since.
    pub async fn take(&mut self, netlink: &Handle, reading: Reading, done: &mut Reconciled) {
        let Reading { of, floods, wrong, foreign } = reading;
        let is_there = |vni: &Vni| {
            self.devices.get(vni).map(|(ifindex, _)| ifindex) == of.get(vni).map(|(ifindex, _)| ifindex)
        };
        self.due.extend(wrong.into_keys().filter(|(vni, _)| is_there(vni)));
        for message in foreign {
            vxlan_device::remove_row(netlink, &message, done).await;
        }
        for (vni, floods) in floods {
            if let Some(known) = self.devices.get_mut(&vni)
                && of.get(&vni) == Some(known)
            {
                known.1 = floods;
            }
        }
    }

    /// Finds who gets the broadcasts of a network and should not, or should and does not.
    pub fn flood(&mut self, to: Forwarding<'_>) {
        self.due_floods.clear();
        for (vni, (_, floods)) in &self.devices {
            let wanted = to.floods(*vni);
            self.due_floods.extend(wanted.difference(floods).map(|row| Request::AddFlood(*vni, *row)));
            self.due_floods.extend(floods.difference(&wanted).map(|row| Request::DeleteFlood(*vni, *row)));
        }
    }

    /// Writes what is due, as far as it goes at a time; what the kernel refuses stays due. Returns whether the
    /// rest is done.
    pub async fn work(&mut self, netlink: &Handle, to: Forwarding<'_>, done: &mut Reconciled) -> bool {
        let mut requests = Vec::new();
        while requests.len() < AT_A_TIME
            && let Some(request) = self.due_floods.pop_first()
        {
            let Some((ifindex, _)) = self.devices.get(&request.vni()) else { continue };
            requests.push(request.carry_out(netlink.clone(), *ifindex));
        }
        for (vni, mac) in self.due.iter().take(AT_A_TIME - requests.len()) {
            let Some((ifindex, _)) = self.devices.get(vni) else { continue };
            let request = Request::Unicast(*vni, *mac, to.unicast(*vni, *mac));
            requests.push(request.carry_out(netlink.clone(), *ifindex));
        }
        let mut failed = 0;
        let mut results = futures::stream::iter(requests).buffer_unordered(AT_ONCE);
        while let Some((request, result)) = results.next().await {
            if result.is_ok() {
                self.note(request);
            } else if let Request::Unicast(..) = request {
                failed += 1;
            }
            done.note(result, || request.to_string());
        }
        self.due_floods.is_empty() && self.due.len() <= failed
    }

    /// Takes note of what was done.
    fn note(&mut self, request: Request) {
        match request {
            Request::AddFlood(vni, row) => {
                if let Some((_, floods)) = self.devices.get_mut(&vni) {
                    floods.insert(row);
                }
            }
            Request::DeleteFlood(vni, row) => {
                if let Some((_, floods)) = self.devices.get_mut(&vni) {
                    floods.remove(&row);
                }
            }
            Request::Unicast(vni, mac, _) => {
                self.due.remove(&(vni, mac));
            }
        }
    }
}

// === impl Request ===

impl Request {
    const fn vni(self) -> Vni {
        let (Self::AddFlood(vni, _) | Self::DeleteFlood(vni, _) | Self::Unicast(vni, ..)) = self;
        vni
    }

    async fn carry_out(self, netlink: Handle, ifindex: u32) -> (Self, io::Result<()>) {
        let result = match self {
            Self::AddFlood(_, row) | Self::Unicast(_, _, Some(row)) => {
                vxlan_device::add_row(&netlink, ifindex, row).await
            }
            Self::DeleteFlood(_, row) => vxlan_device::delete_row(&netlink, ifindex, row).await,
            Self::Unicast(_, mac, None) => vxlan_device::delete_unicast(&netlink, ifindex, mac).await,
        };
        (self, result)
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddFlood(_, row) => write!(f, "add {row} to the FDB"),
            Self::DeleteFlood(_, row) => write!(f, "remove {row} from the FDB"),
            Self::Unicast(_, mac, _) => write!(f, "bring the row of {mac} in the FDB to the plan"),
        }
    }
}

// === impl Forwarding ===

impl Forwarding<'_> {
    /// The row of a MAC address: none if it is not on another node, or that node's tunnel address is of
    /// another family than the underlay's, for a device carries one.
    fn unicast(&self, vni: Vni, mac: MacAddr) -> Option<Row> {
        let Location::Remote(node) = self.plan.networks.get(&vni)?.endpoint(mac)?.location else {
            return None;
        };
        let vtep = self.plan.vteps.get(node)?.addr;
        (vtep.is_ipv6() == self.underlay.addr.is_ipv6()).then_some(Row { mac, vtep })
    }

    /// The rows of broadcasts.
    fn floods(&self, vni: Vni) -> BTreeSet<Row> {
        let members = self.plan.networks.get(&vni).into_iter().flat_map(|network| &network.members);
        let vteps = members.filter_map(|node| self.plan.vteps.get(node)).map(|vtep| vtep.addr);
        let vteps = vteps.filter(|addr| addr.is_ipv6() == self.underlay.addr.is_ipv6());
        vteps.map(|vtep| Row { mac: MacAddr::default(), vtep }).collect()
    }
}
