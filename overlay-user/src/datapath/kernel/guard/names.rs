//! Names of the guard's counters: `<hook>_<outcome>`, and `to_<address>` and `from_<address>` for
//! peers; and of chains that more than one module has to do with.

use std::net::IpAddr;

use overlay_ebpf::abi::{Hook, OUTCOMES, Outcome};

use crate::Vni;

/// Direction of a peer's counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Peer {
    /// To the peer.
    To,
    /// From the peer.
    From,
}

pub(super) fn of_outcome(hook: Hook, outcome: Outcome) -> String {
    format!("{}_{}", hook.name(), outcome.name())
}

pub(super) fn of_peer(direction: Peer, addr: IpAddr) -> String {
    let direction = match direction {
        Peer::To => "to",
        Peer::From => "from",
    };
    format!("{direction}_{}", of_address(addr))
}

/// An address as it can stand in a name: without colons.
fn of_address(addr: IpAddr) -> String {
    addr.to_string().replace(':', "_")
}

/// The same for names of chains and sets, which have no dots.
pub(super) fn of_address_in_chain(addr: IpAddr) -> String {
    of_address(addr).replace('.', "_")
}

/// The chain of what a node may send into a network.
pub(super) fn member_chain(vni: Vni, vtep: IpAddr) -> String {
    format!("vni_{vni}_from_{}", of_address_in_chain(vtep))
}

/// The chain of frames from an endpoint to a node.
pub(super) fn node_chain(vni: Vni, vtep: IpAddr) -> String {
    format!("vni_{vni}_at_{}", of_address_in_chain(vtep))
}

/// The chain of frames from an endpoint to one on this node.
pub(super) fn here_chain(vni: Vni) -> String {
    format!("vni_{vni}_here")
}

/// Hook and outcome a counter is for.
pub(in super::super) fn outcome_of(name: &str) -> Option<(&'static str, &'static str)> {
    let (hook, outcome) = name.split_once('_')?;
    let hook = Hook::ALL.iter().find(|known| known.name() == hook)?;
    let outcome = OUTCOMES.iter().find(|known| known.name() == outcome)?;
    Some((hook.name(), outcome.name()))
}

/// Direction and tunnel address a counter is for.
pub(in super::super) fn peer_of(name: &str) -> Option<(Peer, IpAddr)> {
    let (direction, addr) = name.split_once('_')?;
    let direction = match direction {
        "to" => Peer::To,
        "from" => Peer::From,
        _ => return None,
    };
    Some((direction, addr.replace('_', ":").parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for hook in Hook::ALL {
            for outcome in OUTCOMES {
                let name = of_outcome(hook, *outcome);
                assert_eq!(outcome_of(&name), Some((hook.name(), outcome.name())));
                assert_eq!(peer_of(&name), None);
            }
        }
        for addr in ["192.0.2.7", "2001:db8::7", "::1:0:0:2"] {
            let addr = addr.parse().unwrap();
            for direction in [Peer::To, Peer::From] {
                let name = of_peer(direction, addr);
                assert_eq!(peer_of(&name), Some((direction, addr)));
                assert_eq!(outcome_of(&name), None);
            }
        }
    }
}
