//! The kernel's VXLAN devices that take what the programs leave to them, one for each network.
//!
//! That they are up has a second use: the kernel's GRO then merges tunnel packets on the uplink
//! before tc sees them.

use std::collections::BTreeMap;

use rtnetlink::Handle;

use crate::{
    Vni,
    datapath::{
        Applied, DatapathError, Underlay,
        vxlan_device::{self, Ensured, Fdb, Wanted},
    },
    plan::Plan,
};

/// Makes and fills the device of every network of the plan; new ones are left down. A network without
/// a device is a problem, not an error: what the programs forward is not affected.
///
/// # Errors
/// If the kernel does not hand out its forwarding databases.
pub async fn ensure(
    netlink: &Handle,
    plan: &Plan,
    underlay: &Underlay,
    applied: &mut Applied,
) -> Result<BTreeMap<Vni, Ensured>, DatapathError> {
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
    let fdb = Fdb::read(netlink).await?;
    for (vni, device) in &devices {
        let rows = vxlan_device::rows_of(plan, &plan.networks[vni], underlay);
        let done = fdb.reconcile(netlink, device.ifindex, &rows).await;
        applied.changed += done.changed;
        applied.problems.extend(done.problems);
    }
    Ok(devices)
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
