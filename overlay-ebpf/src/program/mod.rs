//! The programs' steps. Entry points are in `main.rs`.

pub mod answer;
pub mod bucket;
pub mod claims;
pub mod count;
pub mod deliver;
pub mod encap;
pub mod endpoint;
pub mod fdb;
pub mod flooding;
pub mod flow;
pub mod kernel;
pub mod maps;
pub mod packet;
pub mod port;
pub mod probe;
pub mod slowpath;
pub mod too_big;
pub mod tunnel;
pub mod uplink;

use aya_ebpf::{EbpfContext, bindings::TC_ACT_SHOT};
use aya_log_ebpf::debug;
use overlay_ebpf::abi::{Class, Config, Hook, Network, Outcome, PORT_ROWS, Port};

/// What to do with a packet, and under which name it is counted.
#[derive(Clone, Copy)]
pub struct Verdict {
    pub outcome: Outcome,
    pub action: i32,
}

/// A step's result: a verdict that ends the walk, or the reason why it cannot go on.
pub type Step<T> = Result<T, Outcome>;

/// This node's configuration, or nothing while the daemon has not written it.
#[inline(always)]
pub fn config() -> Option<&'static Config> {
    maps::config.get(0).filter(|config| config.uplink != 0)
}

/// What is bound to an interface.
#[inline(always)]
pub fn bound(ifindex: u32) -> Option<Port> {
    let near = maps::port_rows.get(ifindex & (PORT_ROWS - 1)).filter(|row| row.ifindex == ifindex);
    let row = match near {
        Some(near) => Some(&near.port),
        // SAFETY: the value is copied at once.
        None => unsafe { maps::ports.get(ifindex) },
    };
    row.copied()
}

/// The row of a network that has endpoints here.
#[inline(always)]
pub fn network(vni: u32) -> Step<Network> {
    // SAFETY: the value is copied at once.
    unsafe { maps::networks.get(vni).copied() }.ok_or(Outcome::Unbound)
}

/// Counts a drop, says it to whoever listens at debug level, and gives the action for it.
#[inline(always)]
pub fn dropped(ctx: &impl EbpfContext, hook: Hook, outcome: Outcome, bytes: u32) -> i32 {
    count::outcome(hook, outcome, bytes);
    if outcome.class() as u32 == Class::Drop as u32 {
        debug!(ctx, "drop at hook {} for reason {}: {} bytes", hook as u32, outcome as u32, bytes);
    }
    TC_ACT_SHOT
}
