//! What of the kernel is not as planned: pins, programs on interfaces, devices and rows.

use std::collections::BTreeMap;

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
};
use crate::{
    Vni,
    datapath::{
        DatapathError, DifferenceKind, Differences, Mode, Underlay,
        vxlan_device::{self, Fdb, Wanted},
    },
    netlink::{self, Link},
    plan::Plan,
    state::EndpointId,
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
    /// Compares everything with what `plan` means, and changes nothing.
    ///
    /// # Errors
    /// If the kernel does not say what it has.
    pub(super) async fn differences(
        &self,
        plan: &Plan,
        underlay: &Underlay,
    ) -> Result<Differences, DatapathError> {
        let mut found = Differences::default();
        let links = netlink::links(&self.netlink).await;
        let links =
            links.map_err(|cause| DatapathError::Io { what: "cannot list interfaces".into(), cause })?;
        self.maps.audit(&self.pins, &mut found);
        self.audit_program_pins(&mut found);

        // Endpoints without an interface are problems of the last apply already.
        let devices = local_devices(plan, &mut Vec::new());
        let slow = self.audit_slow_path(plan, underlay, &links, &mut found).await?;
        for (id, ifindex) in &devices {
            if links.iter().any(|link| link.ifindex == *ifindex && !link.up) {
                let device = names::device(*ifindex);
                found.note(DifferenceKind::Different, device, || format!("that it is set up ({id})"));
            }
        }
        for (program, ifindex) in self.placements(underlay, &devices, &slow) {
            self.audit_attachment(program, ifindex, &links, &mut found).await;
        }
        let redirected = redirect::taking(&self.netlink, &self.redirected, &mut Vec::new()).await;
        let names = Names { plan, vteps: &self.local.vteps, slots: &self.local.slots };
        let rows = Rows::of(plan, underlay, &Local { devices, redirected, slow, ..self.local.clone() });
        self.tables.audit(&rows, &names, &mut found)?;
        Ok(found)
    }

    /// The kernel's VXLAN devices; returns those that are there.
    async fn audit_slow_path(
        &self,
        plan: &Plan,
        underlay: &Underlay,
        links: &[Link],
        found: &mut Differences,
    ) -> Result<BTreeMap<Vni, u32>, DatapathError> {
        let fdb = Fdb::read(&self.netlink).await?;
        let mut devices = BTreeMap::new();
        for (vni, network) in &plan.networks {
            let wanted = Wanted { vni: *vni, dscp: network.policy.dscp, mtu: underlay.inner_mtu() };
            if let Some(ifindex) = vxlan_device::audit(links, underlay, wanted, found) {
                let rows = vxlan_device::rows_of(plan, network, underlay);
                fdb.audit(ifindex, &vxlan_device::name(*vni), &rows, found);
                devices.insert(*vni, ifindex);
            }
        }
        for link in links {
            if vxlan_device::vni_of(link).is_some_and(|vni| !plan.networks.contains_key(&vni)) {
                found.note(DifferenceKind::Extra, format!("interface {}", link.name), || {
                    "the VXLAN device of a network this node is not in".to_owned()
                });
            }
        }
        Ok(devices)
    }

    /// Where programs have to be.
    fn placements(
        &self,
        underlay: &Underlay,
        devices: &BTreeMap<EndpointId, u32>,
        slow: &BTreeMap<Vni, u32>,
    ) -> Vec<(&'static str, u32)> {
        let mut placements = vec![(UPLINK_IN, underlay.ifindex)];
        if self.local.mode == Mode::Xdp {
            placements.push((UPLINK_XDP, underlay.ifindex));
        }
        placements.extend(devices.values().map(|ifindex| (ENDPOINT_IN, *ifindex)));
        placements.extend(slow.values().map(|ifindex| (SLOWPATH_IN, *ifindex)));
        for port in self.local.ports.values() {
            placements.push((PORT_IN, port.ifindex));
            if port.status.mode == Mode::Xdp {
                placements.push((PORT_XDP, port.ifindex));
            }
        }
        placements
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

fn is_in_tcx(ifindex: u32, program: u32) -> bool {
    let device = netlink::name_at(ifindex);
    device.is_some_and(|device| {
        let there = SchedClassifier::query_tcx(&device, TcAttachType::Ingress);
        there.is_ok_and(|(_, programs)| programs.iter().any(|there| there.id() == program))
    })
}
