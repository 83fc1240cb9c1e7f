//! What of the kernel is not as planned: pins, programs on interfaces, devices and rows.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use aya::{
    maps::{MapData, MapInfo},
    programs::{Program, ProgramInfo, SchedClassifier, TcAttachType, Xdp},
};

use super::{
    EbpfDatapath, filters,
    links::{ENDPOINT_IN, PORT_IN, PORT_XDP, SLOWPATH_IN, UPLINK_IN, UPLINK_XDP},
    local_devices,
    names::{self, Names},
    object::failed,
    pins::{Pins, remove_file},
    redirect,
    rows::{Local, Rows},
    slow_path::Forwarding,
    survey::{Found, Subject, Survey},
};
use crate::{
    Vni,
    datapath::{
        DatapathError, DifferenceKind, Differences, Mode, Underlay,
        vxlan_device::{self, Wanted},
    },
    netlink::{self, Link},
    plan::Plan,
};

/// The maps this daemon uses, by name: ids tell whether the pins are still theirs.
pub struct PinnedMaps(BTreeMap<String, u32>);

// === impl PinnedMaps ===

impl PinnedMaps {
    /// Reads the ids of maps that were just pinned.
    ///
    /// # Errors
    /// If a pin cannot be read.
    pub fn read(pins: &Pins, names: impl IntoIterator<Item = String>) -> Result<Self, DatapathError> {
        let id = |name: String| {
            let info = MapInfo::from_pin(pins.map(&name));
            Ok((
                name.clone(),
                info.map_err(|e| failed(&format!("cannot read the pin of map {name}"), e))?.id(),
            ))
        };
        Ok(Self(names.into_iter().map(id).collect::<Result<_, DatapathError>>()?))
    }

    fn audit(&self, pins: &Pins, found: &mut Differences) {
        for (name, kind) in self.wrong(pins) {
            found.note(kind, "pins", || format!("map {name} ({})", pins.map(name).display()));
        }
    }

    /// Pins anew what somebody else removed or put another map in the place of.
    pub fn repair(&self, pins: &Pins, problems: &mut Vec<String>) -> usize {
        let mut changed = 0;
        for (name, _) in self.wrong(pins) {
            let pin = pins.map(name);
            let pinned = remove_file(&pin).and_then(|()| {
                let map = MapData::from_id(self.0[name]).map_err(|e| failed("it is gone", e))?;
                map.pin(&pin).map_err(|e| failed("it cannot be pinned", e))
            });
            match pinned {
                Ok(()) => changed += 1,
                Err(error) => problems.push(format!("map {name} is not pinned: {error}")),
            }
        }
        changed
    }

    fn wrong(&self, pins: &Pins) -> impl Iterator<Item = (&str, DifferenceKind)> {
        self.0.iter().filter_map(move |(name, id)| match MapInfo::from_pin(pins.map(name)) {
            Ok(pinned) if pinned.id() == *id => None,
            Ok(_) => Some((name.as_str(), DifferenceKind::Different)),
            Err(_) => Some((name.as_str(), DifferenceKind::Missing)),
        })
    }
}

// === impl EbpfDatapath ===

impl EbpfDatapath {
    /// Begins a survey of what [`Self::differences`] compares and there may be a million of.
    ///
    /// # Errors
    /// If the kernel does not say what it has.
    pub(super) async fn look_around(
        &mut self,
        plan: &Plan,
        underlay: &Underlay,
    ) -> Result<(), DatapathError> {
        let links = self.links().await?;
        let local = self.local_now(plan, underlay, &links, &mut Differences::default()).await;
        let devices = local.slow.iter().map(|(vni, ifindex)| (*vni, (*ifindex, BTreeSet::new()))).collect();
        let views = self.tables.stations.views();
        let subject = Subject { plan: plan.clone(), underlay: underlay.clone(), local, views, devices };
        self.looking = Survey::begin(subject)?;
        Ok(())
    }

    /// Compares everything with what `plan` means, and changes nothing. A survey that was begun before is made use
    /// of: whom it found is judged by `plan`.
    ///
    /// # Errors
    /// If the kernel does not say what it has.
    pub(super) async fn differences(
        &mut self,
        plan: &Plan,
        underlay: &Underlay,
    ) -> Result<Differences, DatapathError> {
        if !matches!(self.looking, Survey::Done(_)) {
            self.look_around(plan, underlay).await?;
            self.looking.done().await;
        }
        let Survey::Done(outcome) = mem::take(&mut self.looking) else {
            return Err(DatapathError::Unsupported("the comparison was given up: try again".into()));
        };
        let Found { plan: then, underlay: over, suspects, mut reading } = outcome.found?;
        let mut found = Differences::default();
        let links = self.links().await?;
        self.maps.audit(&self.pins, &mut found);
        self.audit_program_pins(&mut found);

        let local = self.local_now(plan, underlay, &links, &mut found).await;
        // Of a node that has moved meanwhile all rows were changed.
        if (&then.vteps, over.addr) == (&plan.vteps, underlay.addr) {
            reading.forget_changed(&then, plan);
            reading.audit(Forwarding { plan, underlay }, &mut found);
        }
        for (id, ifindex) in &local.devices {
            if links.iter().any(|link| link.ifindex == *ifindex && !link.up) {
                let device = names::device(*ifindex);
                found.note(DifferenceKind::Different, device, || format!("that it is set up ({id})"));
            }
        }
        for (program, ifindex) in placements(underlay, &local) {
            self.audit_attachment(program, ifindex, &links, &mut found).await;
        }
        let names = Names { plan, vteps: &local.vteps, slots: &local.slots };
        self.tables.audit(&Rows::of(plan, underlay, &local), &names, &mut found)?;
        self.tables.stations.audit(&suspects, (plan, &local), &names, &mut found);
        Ok(found)
    }

    async fn links(&self) -> Result<Vec<Link>, DatapathError> {
        let links = netlink::links(&self.netlink).await;
        links.map_err(|cause| DatapathError::Io { what: "cannot list interfaces".into(), cause })
    }

    /// What is on this node now, whatever it was last brought to.
    async fn local_now(
        &self,
        plan: &Plan,
        underlay: &Underlay,
        links: &[Link],
        found: &mut Differences,
    ) -> Local {
        Local {
            // Endpoints without an interface are problems of the last apply already.
            devices: local_devices(plan, &mut Vec::new()),
            redirected: redirect::taking(&self.netlink, &self.redirected, &mut Vec::new()).await,
            slow: audit_slow_devices(plan, underlay, links, found),
            ..self.local.clone()
        }
    }

    /// Whether a program is on an interface, and pinned there.
    async fn audit_attachment(
        &self,
        program: &'static str,
        ifindex: u32,
        links: &[Link],
        found: &mut Differences,
    ) {
        let Some(id) = self.program_id(program) else { return };
        let by_xdp = [UPLINK_XDP, PORT_XDP].contains(&program);
        let tcx = self.options.features.tcx;
        let is_on = if by_xdp {
            links.iter().any(|link| link.ifindex == ifindex && link.xdp.is_some_and(|xdp| xdp.program == id))
        } else if tcx {
            is_in_tcx(ifindex, id)
        } else {
            filters::has(&self.netlink, ifindex, id).await
        };
        let place = || names::device(ifindex);
        if !is_on {
            found.note(DifferenceKind::Missing, place(), || format!("program {program}"));
            return;
        }
        let pin =
            if by_xdp || tcx { self.pins.link(program, ifindex) } else { self.pins.filter(program, ifindex) };
        if !pin.exists() {
            found.note(DifferenceKind::Missing, place(), || {
                format!("the pin of program {program} ({})", pin.display())
            });
        }
    }

    fn audit_program_pins(&self, found: &mut Differences) {
        for (name, kind) in self.wrong_program_pins() {
            found.note(kind, "pins", || format!("program {name} ({})", self.pins.program(name).display()));
        }
    }

    /// Pins programs anew whose pins somebody else removed.
    pub(super) fn repair_program_pins(&mut self, problems: &mut Vec<String>) -> usize {
        let wrong: Vec<_> = self.wrong_program_pins().map(|(name, _)| name.to_owned()).collect();
        let mut changed = 0;
        for name in wrong {
            let pin = self.pins.program(&name);
            let Some(program) = self.ebpf.program_mut(&name) else { continue };
            let pinned = remove_file(&pin).and_then(|()| {
                program.pin(&pin).map_err(|e| failed(&format!("cannot pin program {name}"), e))
            });
            match pinned {
                Ok(()) => changed += 1,
                Err(error) => problems.push(error.to_string()),
            }
        }
        changed
    }

    fn wrong_program_pins(&self) -> impl Iterator<Item = (&str, DifferenceKind)> {
        let placed = [UPLINK_IN, UPLINK_XDP, ENDPOINT_IN, SLOWPATH_IN, PORT_IN, PORT_XDP]
            .into_iter()
            .filter_map(|name| Some((name, self.program_id(name)?)));
        placed.filter_map(|(name, id)| match ProgramInfo::from_pin(self.pins.program(name)) {
            Ok(pinned) if pinned.id() == id => None,
            Ok(_) => Some((name, DifferenceKind::Different)),
            Err(_) => Some((name, DifferenceKind::Missing)),
        })
    }

    /// The id of a program of this daemon, if it is loaded.
    fn program_id(&self, name: &str) -> Option<u32> {
        let info = match self.ebpf.program(name)? {
            Program::SchedClassifier(program) => SchedClassifier::info(program),
            Program::Xdp(program) => Xdp::info(program),
            _ => return None,
        };
        Some(info.ok()?.id())
    }
}

/// Where programs have to be.
fn placements(underlay: &Underlay, local: &Local) -> Vec<(&'static str, u32)> {
    let mut placements = vec![(UPLINK_IN, underlay.ifindex)];
    if local.mode == Mode::Xdp {
        placements.push((UPLINK_XDP, underlay.ifindex));
    }
    placements.extend(local.devices.values().map(|ifindex| (ENDPOINT_IN, *ifindex)));
    placements.extend(local.slow.values().map(|ifindex| (SLOWPATH_IN, *ifindex)));
    for port in local.ports.values() {
        placements.push((PORT_IN, port.ifindex));
        if port.status.mode == Mode::Xdp {
            placements.push((PORT_XDP, port.ifindex));
        }
    }
    placements
}

/// The kernel's VXLAN devices; returns those that are there.
fn audit_slow_devices(
    plan: &Plan,
    underlay: &Underlay,
    links: &[Link],
    found: &mut Differences,
) -> BTreeMap<Vni, u32> {
    let mut devices = BTreeMap::new();
    for (vni, network) in &plan.networks {
        let wanted = Wanted { vni: *vni, dscp: network.policy.dscp, mtu: underlay.inner_mtu() };
        devices.extend(vxlan_device::audit(links, underlay, wanted, found).map(|ifindex| (*vni, ifindex)));
    }
    for link in links {
        if vxlan_device::vni_of(link).is_some_and(|vni| !plan.networks.contains_key(&vni)) {
            found.note(DifferenceKind::Extra, format!("interface {}", link.name), || {
                "the VXLAN device of a network this node is not in".to_owned()
            });
        }
    }
    devices
}

fn is_in_tcx(ifindex: u32, program: u32) -> bool {
    let device = netlink::name_at(ifindex);
    device.is_some_and(|device| {
        let there = SchedClassifier::query_tcx(&device, TcAttachType::Ingress);
        there.is_ok_and(|(_, programs)| programs.iter().any(|there| there.id() == program))
    })
}
