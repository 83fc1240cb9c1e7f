//! The host's own firewall, where it stands in the way.
//!
//! With `br_netfilter` loaded, which Docker and Kubernetes do, frames between the ports of a bridge
//! pass the host's FORWARD chains. Docker sets that of iptables to drop.

use std::path::Path;

use super::nft;

/// 1 where bridged IPv4 passes the FORWARD chains. Of the calling thread's network namespace.
const BRIDGE_NF: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// Says which chain would drop what our bridges forward, and what to do. An answer of `None` is no
/// promise: rules are not looked into.
pub(in super::super) async fn obstacle() -> Option<String> {
    let passes = std::fs::read_to_string(Path::new(BRIDGE_NF)).is_ok_and(|value| value.trim() == "1");
    if !passes {
        return None;
    }
    let chains = nft::chains().await.ok()?;
    chains.iter().filter_map(|object| object.get("chain")).find_map(|chain| {
        let text = |field: &str| chain.get(field).and_then(serde_json::Value::as_str);
        let drops = text("hook")? == "forward" && text("policy")? == "drop";
        (drops && matches!(text("family")?, "ip" | "inet")).then(|| {
            format!(
                "the host's firewall (chain {} of table {}) drops by default, and frames between bridge \
                 ports pass it: accept them (iptables -I FORWARD -m physdev --physdev-is-bridged -j ACCEPT) \
                 or set net.bridge.bridge-nf-call-iptables=0",
                text("name").unwrap_or("FORWARD"),
                text("table").unwrap_or("filter"),
            )
        })
    })
}
