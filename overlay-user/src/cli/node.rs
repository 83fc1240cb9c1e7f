//! Nodes, shown.

use super::output::{Show, or_dash, table};
use crate::api::{Drained, Liveness, Node};

impl Show for Vec<Node> {
    fn text(&self) -> String {
        let rows = self.iter().map(|node| {
            [
                if node.this { format!("{} *", node.name) } else { node.name.to_string() },
                node.vtep.to_string(),
                or_dash(node.mtu.as_ref()),
                standing(node.state, node.drained),
                node.endpoints.to_string(),
                or_dash(Some(&node.datapath)),
                or_dash(Some(&node.reason)),
            ]
        });
        table(["NAME", "VTEP", "MTU", "STATE", "ENDPOINTS", "DATA PATH", "WHY"], rows)
    }
}

impl Show for Drained {
    fn text(&self) -> String {
        let Self { node, drained, endpoints } = self;
        let state = if *drained { "takes no new endpoints" } else { "takes new endpoints" };
        match endpoints.len() {
            0 => format!("{node} {state} and has none\n"),
            count => format!("{node} {state} and has {count}:\n{}", endpoints.text()),
        }
    }
}

/// Whether a node lives, and whether it takes endpoints.
pub fn standing(liveness: Liveness, drained: bool) -> String {
    let lives = match liveness {
        Liveness::Alive => "alive",
        Liveness::Suspect => "suspect",
        Liveness::Down => "down",
        Liveness::Static => "static",
    };
    if drained { format!("{lives}, drained") } else { lives.to_owned() }
}
