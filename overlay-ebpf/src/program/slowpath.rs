//! From the wire by way of the kernel: tc on a network's VXLAN device. The uplink's program has
//! judged the packet and marked it; here it is only delivered.

use aya_ebpf::programs::TcContext;
use overlay_ebpf::{
    abi::{CHECKED_MARK, Hook, Outcome},
    wire::ethernet::Ethernet,
};

use super::{
    Step, Verdict, config,
    count::{self, Direction},
    deliver, dropped, fdb, maps, network, packet, tunnel,
};

/// Delivers one packet.
#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    let bytes = ctx.len();
    count::outcome(Hook::Slowpath, Outcome::Received, bytes);
    match forward(ctx) {
        Ok(Verdict { outcome, action }) => {
            count::outcome(Hook::Slowpath, outcome, bytes);
            action
        }
        Err(reason) => dropped(ctx, Hook::Slowpath, reason, bytes),
    }
}

#[inline(always)]
fn forward(ctx: &TcContext) -> Step<Verdict> {
    // SAFETY: fields of the context; map values are copied at once.
    let (mark, vni) = unsafe {
        let skb = ctx.skb.skb;
        ((*skb).mark, maps::slow_devices.get((*skb).ifindex).copied())
    };
    if mark != CHECKED_MARK {
        return Err(Outcome::Unchecked);
    }
    ctx.set_mark(0);
    let vni = vni.ok_or(Outcome::Unbound)?;
    let destination = packet::at::<Ethernet>(ctx, 0).ok_or(Outcome::Truncated)?.destination;
    let config = config().ok_or(Outcome::Unbound)?;
    if let Some(endpoint) = tunnel::target(fdb::find(config, vni, destination), vni, destination)? {
        count::endpoint(u32::from(endpoint.slot), Direction::Rx, ctx.len());
        Ok(Verdict {
            outcome: Outcome::Delivered,
            action: deliver::to_endpoint(ctx, endpoint.ifindex, endpoint.flags),
        })
    } else {
        deliver::to_all(ctx, vni, network(vni)?.flood_ports, 0);
        Ok(Verdict { outcome: Outcome::Flooded, action: deliver::DONE })
    }
}
