//! Which interfaces have our programs: the uplink, endpoints, gateway ports, the kernel's VXLAN devices.

use std::{borrow::Cow, collections::BTreeMap};

use rtnetlink::LinkUnspec;

use super::{
    EbpfDatapath, Extent,
    links::{self, ENDPOINT_IN, PORT_IN, PORT_XDP, SLOWPATH_IN, UPLINK_IN, UPLINK_XDP},
    ports::{self, LocalPort},
    rows::Rows,
    slow_path::{self, Forwarding, Reading, SlowPath},
};
use crate::{
    Vni,
    datapath::{
        Applied, DatapathError, Mode, PortStatus, Underlay,
        vxlan_device::{self, Reconciled},
    },
    netlink,
    plan::Plan,
};

impl EbpfDatapath {
    /// tc first: without it, what XDP strips would go to the host's stack.
    pub(super) fn attach_uplink(&mut self, underlay: &Underlay) -> Result<(), DatapathError> {
        let Underlay { ifindex, name, .. } = underlay;
        self.attach(UPLINK_IN, name, *ifindex)?;
        if self.local.mode == Mode::Xdp && self.former.is_empty() {
            self.attach_xdp(UPLINK_XDP, name, *ifindex)?;
        }
        Ok(())
    }

    pub(super) fn attach_xdp(
        &mut self,
        program: &'static str,
        device: &str,
        ifindex: u32,
    ) -> Result<(), DatapathError> {
        if !self.attached.contains(&(program, ifindex)) {
            links::attach_xdp(&mut self.ebpf, &self.pins, program, device, ifindex)?;
            self.attached.insert((program, ifindex));
        }
        Ok(())
    }

    /// Leaves what an older daemon's program does to that.
    pub(super) fn attach(
        &mut self,
        program: &'static str,
        device: &str,
        ifindex: u32,
    ) -> Result<(), DatapathError> {
        let by_former = self.former.iter().any(|former| former.has(program, ifindex));
        if !by_former && !self.attached.contains(&(program, ifindex)) {
            let tcx = self.options.features.tcx;
            links::attach_tc(&mut self.ebpf, &self.pins, tcx, program, device, ifindex)?;
            self.attached.insert((program, ifindex));
        }
        Ok(())
    }

    /// The kernel's VXLAN device of each network, with our program on it.
    pub(super) async fn slow_devices(
        &mut self,
        plan: &Plan,
        underlay: &Underlay,
        extent: Extent,
        applied: &mut Applied,
    ) -> Result<BTreeMap<Vni, u32>, DatapathError> {
        let mut devices = BTreeMap::new();
        let mut wanted = Cow::Borrowed(plan);
        if extent == Extent::Missing {
            let wanted = wanted.to_mut();
            for (vni, ifindex) in vxlan_device::list_ours(&self.netlink).await? {
                if wanted.networks.remove(&vni).is_some() {
                    self.attach(SLOWPATH_IN, &vxlan_device::name(vni), ifindex)?;
                    devices.insert(vni, ifindex);
                }
            }
        }
        let ensured = slow_path::ensure(&self.netlink, &wanted, underlay, applied).await;
        let to = Forwarding { plan: &wanted, underlay };
        let fresh = ensured.iter().map(|(vni, device)| (*vni, device.ifindex)).collect();
        applied.unfinished |= self.fill_slow_path(to, &fresh, applied).await?;
        for (vni, device) in ensured {
            if let Err(error) = self.attach(SLOWPATH_IN, &vxlan_device::name(vni), device.ifindex) {
                applied.problems.push(error.to_string());
                if device.up {
                    // It would take packets from anybody.
                    self.set_link(device.ifindex, false, &mut applied.problems).await;
                }
                continue;
            }
            match vxlan_device::set_up(&self.netlink, underlay, vni, device).await {
                Ok(changed) => {
                    applied.changed += changed;
                    devices.insert(vni, device.ifindex);
                }
                Err(error) => applied.problems.push(error.to_string()),
            }
        }
        if extent == Extent::All {
            applied.changed += slow_path::remove_others(&self.netlink, plan).await?;
        }
        Ok(devices)
    }

    /// Brings the forwarding databases of `devices` to the plan. Returns whether there is more to do.
    pub(super) async fn fill_slow_path(
        &mut self,
        to: Forwarding<'_>,
        devices: &BTreeMap<Vni, u32>,
        applied: &mut Applied,
    ) -> Result<bool, DatapathError> {
        let mut done = Reconciled::default();
        match &self.filled {
            Some(before) => self.slow_path.follow(before, to.plan),
            None => self.slow_path = SlowPath::of(devices),
        }
        self.slow_path.see(devices, to.plan);
        if self.filled.is_none() {
            let reading = Reading::new(&self.netlink, self.slow_path.devices(), to).await?;
            self.slow_path.take(&self.netlink, reading, &mut done).await;
        }
        self.slow_path.flood(to);
        let all = self.slow_path.work(&self.netlink, to, &mut done).await;
        applied.changed += done.changed;
        applied.problems.extend(done.problems);
        Ok(!all)
    }

    /// Our program on the interface of each endpoint of this node, and the interface up behind it.
    pub(super) async fn guard_endpoints(&mut self, problems: &mut Vec<String>) {
        for (id, ifindex) in &self.local.devices.clone() {
            if self.attached.contains(&(ENDPOINT_IN, *ifindex)) {
                continue;
            }
            if let Err(error) = self.attach(ENDPOINT_IN, &id.host_device(), *ifindex) {
                problems.push(format!("endpoint {id}: {error}"));
                continue;
            }
            self.set_link(*ifindex, true, problems).await;
        }
    }

    /// Our programs on the interface of each gateway port of this node; tc first, which takes what XDP
    /// leaves.
    pub(super) async fn guard_ports(&mut self, problems: &mut Vec<String>) {
        let mut ports = std::mem::take(&mut self.local.ports);
        for (id, port) in &mut ports {
            let LocalPort { ifindex, device, status, .. } = port;
            if let Err(error) = self.attach(PORT_IN, device, *ifindex) {
                problems.push(format!("port {id}: {error}"));
                continue;
            }
            if status.mode == Mode::Xdp {
                match self.attach_xdp(PORT_XDP, device, *ifindex) {
                    Ok(()) => {}
                    Err(error) if port.xdp_demanded => problems.push(format!("port {id}: {error}")),
                    Err(error) => *status = PortStatus { mode: Mode::Tc, reason: error.to_string() },
                }
            }
            if let Err(error) = ports::open(&self.netlink, *ifindex, true).await {
                problems.push(format!("port {id}: cannot open {device} for all MAC addresses: {error}"));
            }
        }
        self.local.ports = ports;
    }

    async fn set_link(&self, ifindex: u32, up: bool, problems: &mut Vec<String>) {
        let message = LinkUnspec::new_with_index(ifindex);
        let message = if up { message.up() } else { message.down() };
        if let Err(error) = self.netlink.link().change(message.build()).execute().await {
            let way = if up { "up" } else { "down" };
            problems.push(format!("cannot set interface {ifindex} {way}: {error}"));
        }
    }

    /// Lets go of what guards withdrawn endpoints' interfaces that have gone since.
    pub(super) fn let_withdrawn_go(&mut self) -> Result<(), DatapathError> {
        for ifindex in std::mem::take(&mut self.withdrawn) {
            if netlink::name_at(ifindex).is_some() {
                self.withdrawn.insert(ifindex);
            } else {
                self.pins.detach(ENDPOINT_IN, ifindex)?;
                self.attached.remove(&(ENDPOINT_IN, ifindex));
            }
        }
        Ok(())
    }

    /// Takes our programs off interfaces that no longer need them. An endpoint's that is there still
    /// keeps its own: bound to nothing, it drops everything, which would else go to the host's stack.
    pub(super) async fn detach_others(
        &mut self,
        underlay: &Underlay,
        rows: &Rows,
    ) -> Result<usize, DatapathError> {
        let mut changed = 0;
        for (program, ifindex) in self.pins.attached()? {
            let needed = match program.as_str() {
                ENDPOINT_IN if rows.ports.contains_key(&ifindex) => true,
                ENDPOINT_IN => {
                    let there = netlink::name_at(ifindex).is_some();
                    self.withdrawn.extend(there.then_some(ifindex));
                    there
                }
                SLOWPATH_IN => rows.slow_devices.contains_key(&ifindex),
                UPLINK_IN => ifindex == underlay.ifindex,
                UPLINK_XDP => ifindex == underlay.ifindex && self.local.mode == Mode::Xdp,
                PORT_IN => self.local.ports.values().any(|port| port.ifindex == ifindex),
                PORT_XDP => {
                    let by_xdp = |port: &LocalPort| port.ifindex == ifindex && port.status.mode == Mode::Xdp;
                    self.local.ports.values().any(by_xdp)
                }
                _ => false,
            };
            if !needed {
                if program == PORT_IN && netlink::name_at(ifindex).is_some() {
                    // It is its owner's again; what fails is gone.
                    let _ = ports::open(&self.netlink, ifindex, false).await;
                }
                self.pins.detach(&program, ifindex)?;
                self.attached.retain(|(name, index)| *name != program || *index != ifindex);
                changed += 1;
            }
        }
        Ok(changed)
    }
}
