//! What of the kernel is not as planned: bridges, VXLAN devices and ports, their databases, the guard.

use std::collections::BTreeMap;

use super::{
    Devices, KernelDatapath, bridge, bridge_rows, connect, guard::Ruleset, list, mtu, neighbours, port,
};
use crate::{
    datapath::{
        DatapathError, DifferenceKind, Differences, Underlay,
        vxlan_device::{self, Fdb, Wanted},
    },
    netlink::ipv6,
    plan::Plan,
};

impl KernelDatapath {
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
        let kernel = connect()?;
        let links = list(&kernel).await?;
        let fdb = Fdb::read(&kernel).await?;
        let entries = neighbours::read(&kernel).await?;
        for (vni, network) in &plan.networks {
            let (mtu, name) = (mtu(network, underlay), bridge::name(*vni));
            let bridge = bridge::audit(&links, *vni, mtu, &mut found);
            let wanted = Wanted { vni: *vni, dscp: network.policy.dscp, mtu };
            let vxlan = vxlan_device::audit(&links, underlay, wanted, &mut found);
            // Without one of the two there is nothing to compare the rest with.
            let (Some(bridge), Some(vxlan)) = (bridge, vxlan) else { continue };
            let mut ports = BTreeMap::new();
            let own = network.local.iter();
            let own =
                own.map(|(mac, endpoint)| (Some(*mac), endpoint.id.host_device(), port::Kind::Endpoint));
            for (mac, device, kind) in own.chain([(None, vxlan_device::name(*vni), port::Kind::Vxlan)]) {
                // Endpoints without an interface are problems of the last apply already.
                let Some(link) = links.iter().find(|link| link.name == device) else { continue };
                port::audit(link, bridge, kind, network.flooding(), &mut found);
                ports.extend(mac.map(|mac| (mac, link.ifindex)));
            }
            let rows = vxlan_device::rows_of(plan, network, underlay);
            fdb.audit(vxlan, &vxlan_device::name(*vni), &rows, &mut found);
            let devices = Devices { bridge, vxlan, ipv6: ipv6::keeps_neighbours(&name), ports };
            bridge::audit_fdb(&fdb, (bridge, &name), &bridge_rows(network, &devices), &mut found);
            let wanted = neighbours::wanted(network, devices.ipv6);
            neighbours::audit(&entries, (bridge, &name), &wanted, &mut found);
        }
        for link in &links {
            let vni = bridge::vni_of(link).or_else(|| vxlan_device::vni_of(link));
            if vni.is_some_and(|vni| !plan.networks.contains_key(&vni)) {
                found.note(DifferenceKind::Extra, format!("interface {}", link.name), || {
                    "the device of a network this node is not in".to_owned()
                });
            }
        }
        let indices: BTreeMap<_, _> = links.iter().map(|link| (link.name.as_str(), link.ifindex)).collect();
        // Without nftables there is no guard, which is a problem of the last apply already.
        if self.guard.is(&Ruleset::new(plan, underlay, &indices)).await.is_ok_and(|right| !right) {
            found.note(DifferenceKind::Different, "nftables", || {
                "the rules of table overlay_guard".to_owned()
            });
        }
        Ok(found)
    }
}
