//! Networks, shown.

use super::output::{Show, joined, or_dash, pairs, table};
use crate::{
    api::{Named, Network, NetworkDetail, Subnet},
    state::{Policy, shown},
};

impl Show for Vec<Network> {
    fn text(&self) -> String {
        let rows = self.iter().map(|network| {
            [
                network.name.to_string(),
                network.vni.to_string(),
                of_each(network, |subnet| subnet.subnet.to_string()),
                of_each(network, |subnet| subnet.gateway.to_string()),
                mtu(network.mtu),
                network.internal.to_string(),
                network.endpoints.to_string(),
            ]
        });
        table(["NAME", "VNI", "SUBNET", "GATEWAY", "MTU", "INTERNAL", "ENDPOINTS"], rows)
    }
}

impl Show for NetworkDetail {
    fn text(&self) -> String {
        let Self { network, members } = self;
        let Policy { dscp, broadcast, multicast, unknown_unicast, flood_cap, bum_rate, vlan } =
            network.policy;
        let mut text = pairs([
            ("name", network.name.to_string()),
            ("vni", network.vni.to_string()),
            ("subnet", of_each(network, |subnet| subnet.subnet.to_string())),
            ("gateway", of_each(network, |subnet| subnet.gateway.to_string())),
            ("ip range", of_each(network, |subnet| subnet.ip_range.to_string())),
            ("aux addresses", or_dash(kept(network).as_ref())),
            ("mtu", mtu(network.mtu)),
            ("internal", network.internal.to_string()),
            ("dscp", dscp.to_string()),
            ("broadcast", broadcast.to_string()),
            ("multicast", multicast.to_string()),
            ("unknown unicast", unknown_unicast.to_string()),
            ("flood cap", flood_cap.map_or_else(|| "none".to_owned(), |cap| cap.to_string())),
            ("bum rate", bum_rate.to_string()),
            ("vlan", vlan.to_string()),
            ("endpoints", members.len().to_string()),
        ]);
        if !members.is_empty() {
            text.push('\n');
            text.push_str(&members.text());
        }
        text
    }
}

impl Show for Vec<Named> {
    fn text(&self) -> String {
        self.iter().flat_map(|named| [named.name.as_str(), "\n"]).collect()
    }
}

/// Something of each subnet, in one cell.
fn of_each(network: &Network, what: impl Fn(&Subnet) -> String) -> String {
    joined(&[&network.subnet].into_iter().chain(&network.dual).map(what).collect::<Vec<_>>())
}

/// Addresses that no endpoint gets, as `--aux-address` takes them.
fn kept(network: &Network) -> Option<String> {
    let kept: Vec<_> =
        network.aux.iter().map(|(name, address)| format!("{}={address}", shown(name))).collect();
    (!kept.is_empty()).then(|| joined(&kept))
}

fn mtu(mtu: Option<u16>) -> String {
    mtu.map_or_else(|| "auto".to_owned(), |mtu| mtu.to_string())
}
