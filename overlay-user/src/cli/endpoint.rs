//! Endpoints, shown.

use super::output::{Show, joined, or_dash, pairs, table};
use crate::{
    api::{Attached, Endpoint, EndpointDetail},
    state::Delivery,
};

impl Show for Vec<Endpoint> {
    fn text(&self) -> String {
        let rows = self.iter().map(|endpoint| {
            [
                endpoint.id.to_string(),
                endpoint.network.to_string(),
                endpoint.node.to_string(),
                joined(&endpoint.addresses),
                endpoint.mac.to_string(),
                or_dash(Some(&joined(&endpoint.names))),
            ]
        });
        table(["ID", "NETWORK", "NODE", "ADDRESS", "MAC", "NAMES"], rows)
    }
}

impl Show for Attached {
    fn text(&self) -> String {
        let row = [
            self.id.to_string(),
            self.network.to_string(),
            joined(&self.addresses),
            self.mac.to_string(),
            self.ifname.to_string(),
            self.host_device.clone(),
            self.vni.to_string(),
            self.mtu.to_string(),
        ];
        table(["ID", "NETWORK", "ADDRESS", "MAC", "INTERFACE", "HOST DEVICE", "VNI", "MTU"], [row])
    }
}

impl Show for EndpointDetail {
    fn text(&self) -> String {
        let Self { endpoint, vni, traffic } = self;
        let mut rows = vec![
            ("id", endpoint.id.to_string()),
            ("network", format!("{} (VNI {vni})", endpoint.network)),
            ("node", endpoint.node.to_string()),
            ("addresses", joined(&endpoint.addresses)),
            ("mac", endpoint.mac.to_string()),
            ("names", or_dash(Some(&joined(&endpoint.names)))),
            ("delivery", delivery(endpoint.delivery).to_owned()),
            ("host device", or_dash(endpoint.host_device.as_ref())),
        ];
        if let Some(traffic) = traffic {
            rows.push(("received", format!("{} packets, {} bytes", traffic.rx.packets, traffic.rx.bytes)));
            rows.push(("sent", format!("{} packets, {} bytes", traffic.tx.packets, traffic.tx.bytes)));
        }
        pairs(rows)
    }
}

const fn delivery(delivery: Delivery) -> &'static str {
    match delivery {
        Delivery::Tc => "tc",
        Delivery::Xdp => "xdp",
    }
}
