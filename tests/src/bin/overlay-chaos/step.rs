//! What can be done to a cluster, one step at a time.

use std::{fmt, time::Duration};

/// A container: the number it has in the whole run.
pub type Guest = u32;

/// A node, by its place in the cluster.
pub type Place = usize;

/// One of the few networks that come and go.
pub type Slot = usize;

/// How packets to etcd are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Silently.
    Dropped,
    /// With a TCP reset.
    Refused,
}

/// How an uplink goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flap {
    /// Somebody sets the interface down, which takes its routes.
    Admin,
    /// The cable is pulled.
    Carrier,
}

/// One step. Whether it can be done when its turn comes depends on what became of those before: a
/// container that was not attached is not detached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A new container on a network.
    Attach { guest: Guest, at: Place, slot: Slot },
    /// The same, and the daemon is killed in the middle of it.
    AttachKilled { guest: Guest, at: Place, slot: Slot, after: Duration },
    /// A container is taken off its network.
    Detach { guest: Guest },
    /// The same, and the daemon is killed in the middle of it.
    DetachKilled { guest: Guest, after: Duration },
    /// A container's namespace goes, and nobody tells.
    Vanish { guest: Guest },
    /// A network is made.
    Create { slot: Slot, at: Place },
    /// A network is removed, if nobody is on it.
    Remove { slot: Slot, at: Place },
    /// `kill -9`.
    Kill { at: Place },
    /// A daemon is asked to stop.
    Stop { at: Place },
    /// A daemon is started, unless it runs.
    Start { at: Place },
    /// etcd stands still.
    Freeze,
    /// etcd goes on.
    Thaw,
    /// etcd is killed and started on the data it has.
    Restart,
    /// etcd forgets its history.
    Compact,
    /// A node and etcd do not reach each other.
    CutStore { at: Place, cut: Cut },
    /// They do again.
    JoinStore { at: Place },
    /// Two nodes do not reach each other.
    CutNodes { pair: [Place; 2] },
    /// They do again.
    JoinNodes,
    /// An uplink goes down and comes back.
    Flap { at: Place, flap: Flap, down: Duration },
    /// A node's underlay address changes to `10.99.0.<host>`; the old one goes before the new one comes, or
    /// after.
    Readdress { at: Place, host: u8, gap: bool },
    /// Rows in a node's maps, or in its kernel's forwarding databases, are deleted or overwritten.
    Damage { at: Place, seed: u64 },
    /// Nothing is done for a while.
    Pause { time: Duration },
}

impl Step {
    /// What kind it is, for the report.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Attach { .. } => "attach",
            Self::AttachKilled { .. } => "attach, kill -9 in the middle",
            Self::Detach { .. } => "detach",
            Self::DetachKilled { .. } => "detach, kill -9 in the middle",
            Self::Vanish { .. } => "namespace gone without notice",
            Self::Create { .. } => "network create",
            Self::Remove { .. } => "network rm",
            Self::Kill { .. } => "kill -9 overlayd",
            Self::Stop { .. } => "stop overlayd",
            Self::Start { .. } => "start overlayd",
            Self::Freeze => "freeze etcd",
            Self::Thaw => "thaw etcd",
            Self::Restart => "restart etcd",
            Self::Compact => "compact etcd",
            Self::CutStore { .. } => "cut a node from etcd",
            Self::JoinStore { .. } => "join a node to etcd",
            Self::CutNodes { .. } => "cut nodes from each other",
            Self::JoinNodes => "join nodes",
            Self::Flap { .. } => "flap an uplink",
            Self::Readdress { .. } => "change an uplink's address",
            Self::Damage { .. } => "damage maps or FDB",
            Self::Pause { .. } => "pause",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = |at: &Place| at + 1;
        match self {
            Self::Attach { guest, at, slot } => write!(f, "attach c{guest} on n{} to net{slot}", n(at)),
            Self::AttachKilled { guest, at, slot, after } => write!(
                f,
                "attach c{guest} on n{} to net{slot}, and kill -9 overlayd there after {after:?}",
                n(at)
            ),
            Self::Detach { guest } => write!(f, "detach c{guest}"),
            Self::DetachKilled { guest, after } => {
                write!(f, "detach c{guest}, and kill -9 overlayd there after {after:?}")
            }
            Self::Vanish { guest } => write!(f, "delete the namespace of c{guest} without notice"),
            Self::Create { slot, at } => write!(f, "create net{slot} from n{}", n(at)),
            Self::Remove { slot, at } => write!(f, "remove net{slot} from n{}", n(at)),
            Self::Kill { at } => write!(f, "kill -9 overlayd of n{}", n(at)),
            Self::Stop { at } => write!(f, "stop overlayd of n{}", n(at)),
            Self::Start { at } => write!(f, "start overlayd of n{}", n(at)),
            Self::Freeze => f.write_str("freeze etcd"),
            Self::Thaw => f.write_str("thaw etcd"),
            Self::Restart => f.write_str("kill etcd and start it"),
            Self::Compact => f.write_str("compact etcd"),
            Self::CutStore { at, cut } => write!(f, "cut n{} from etcd: packets are {cut}", n(at)),
            Self::JoinStore { at } => write!(f, "join n{} to etcd", n(at)),
            Self::CutNodes { pair: [a, b] } => write!(f, "cut n{} from n{}", n(a), n(b)),
            Self::JoinNodes => f.write_str("join the nodes"),
            Self::Flap { at, flap, down } => write!(f, "{flap} down at n{} for {down:?}", n(at)),
            Self::Readdress { at, host, gap } => {
                let order = if *gap { "without an address meanwhile" } else { "the new one first" };
                write!(f, "give n{} the address 10.99.0.{host}, {order}", n(at))
            }
            Self::Damage { at, seed } => write!(f, "damage rows on n{} (seed {seed})", n(at)),
            Self::Pause { time } => write!(f, "wait {time:?}"),
        }
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dropped => "dropped",
            Self::Refused => "refused",
        })
    }
}

impl fmt::Display for Flap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admin => "uplink",
            Self::Carrier => "carrier",
        })
    }
}
