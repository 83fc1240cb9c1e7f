//! What two plans do not share.

use std::collections::BTreeSet;

use imbl::ordmap::DiffItem;

use super::Plan;
use crate::{MacAddr, Vni};

/// The endpoints that two plans do not share, hosts behind gateway ports among them.
#[must_use]
pub fn changed_stations(before: &Plan, plan: &Plan) -> BTreeSet<(Vni, MacAddr)> {
    let mut changed = BTreeSet::new();
    for (vni, network) in &plan.networks {
        if let Some(before) = before.networks.get(vni) {
            changed.extend(before.stations.diff(&network.stations).map(|item| (*vni, mac_of(&item))));
            let (old, new) = (&before.learned, &network.learned);
            let learned = old.keys().chain(new.keys()).filter(|mac| old.get(mac) != new.get(mac));
            changed.extend(learned.map(|mac| (*vni, *mac)));
        } else {
            changed.extend(network.endpoints().map(|(mac, _)| (*vni, mac)));
        }
    }
    for (vni, network) in before.networks.iter().filter(|(vni, _)| !plan.networks.contains_key(vni)) {
        changed.extend(network.endpoints().map(|(mac, _)| (*vni, mac)));
    }
    changed
}

fn mac_of<V>(item: &DiffItem<'_, '_, MacAddr, V>) -> MacAddr {
    match item {
        DiffItem::Add(mac, _) | DiffItem::Update { new: (mac, _), .. } | DiffItem::Remove(mac, _) => **mac,
    }
}
