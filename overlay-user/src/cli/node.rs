//! Nodes, shown.

use super::output::{Show, or_dash, table};
use crate::api::{Liveness, Node};

impl Show for Vec<Node> {
    fn text(&self) -> String {
        let rows = self.iter().map(|node| {
            [
                if node.this { format!("{} *", node.name) } else { node.name.to_string() },
                node.vtep.to_string(),
                or_dash(node.mtu.as_ref()),
                liveness(node.state).to_owned(),
                node.endpoints.to_string(),
                or_dash(Some(&node.datapath)),
                or_dash(Some(&node.reason)),
            ]
        });
        table(["NAME", "VTEP", "MTU", "STATE", "ENDPOINTS", "DATA PATH", "WHY"], rows)
    }
}

pub const fn liveness(liveness: Liveness) -> &'static str {
    match liveness {
        Liveness::Alive => "alive",
        Liveness::Suspect => "suspect",
        Liveness::Static => "static",
    }
}
