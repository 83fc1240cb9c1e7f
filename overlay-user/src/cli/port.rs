//! Gateway ports, shown.

use super::output::{Show, or_dash, table};
use crate::api::Port;

impl Show for Vec<Port> {
    fn text(&self) -> String {
        let rows = self.iter().map(|port| {
            [
                port.id.to_string(),
                port.network.to_string(),
                port.node.to_string(),
                port.device.to_string(),
                format!("{} of {}", port.macs.len(), port.max_macs),
                format!("{} s", port.age),
                or_dash(port.datapath.map(crate::datapath::Mode::name).as_ref()),
                or_dash(port.reason.as_ref()),
            ]
        });
        table(["ID", "NETWORK", "NODE", "INTERFACE", "MACS", "AGE", "DATA PATH", "WHY"], rows)
    }
}
