//! Keys and values of the maps. ARCHITECTURE.md lists which program reads which.

use super::{Addr, MacAddr, OUTER_LEN_V6};
use crate::wire::ecn::OuterClass;

/// Entries of the `vteps` array, and so the number of nodes a node can know at once.
pub const MAX_VTEPS: u32 = 16_384;

/// Entries of `endpoint_stats`, and so the number of endpoints one node can have.
pub const MAX_SLOTS: u32 = 16_384;

/// The most remote copies the program makes of one broadcast; beyond, the kernel's device floods.
pub const MAX_FLOOD_VTEPS: u32 = 128;

/// The most local copies the program makes of one broadcast.
pub const MAX_FLOOD_PORTS: u32 = 256;

/// Index of this node itself in `vteps`: an endpoint with it is local.
pub const SELF_VTEP: u32 = 0;

/// [`Config::flags`]: reserved bits of the VXLAN header are ignored on receipt (RFC 7348) instead
/// of refused (Linux).
pub const RESERVED_BITS_IGNORE: u32 = 1;
/// [`Config::flags`]: the XDP program is on the uplink, and counts what enters there.
pub const XDP_ATTACHED: u32 = 1 << 1;
/// [`Config::flags`]: the kernel knows `BPF_F_ADJ_ROOM_DECAP_L4_UDP` ([`super::DECAP_L4_UDP`]).
pub const DECAP_CLEARS_TUNNEL: u32 = 1 << 2;
/// [`Config::flags`]: this node's tunnel address is IPv6.
pub const UNDERLAY_V6: u32 = 1 << 3;
/// [`Config::flags`]: outer packets over IPv6 are sent and taken with a UDP checksum of zero
/// (RFC 6935).
pub const UDP6_ZERO_CHECKSUM: u32 = 1 << 4;

/// [`Endpoint::flags`]: frames from the wire go to the endpoint's interface by XDP redirect, if XDP is on
/// the uplink.
pub const ENDPOINT_REDIRECT: u16 = 1;
/// [`Endpoint::flags`]: a host behind a gateway port, whose addresses nobody has told.
pub const ENDPOINT_LEARNED: u16 = 1 << 1;
/// [`Endpoint::flags`]: behind a gateway port of this node: frames go out of its interface, not into a
/// namespace behind it.
pub const ENDPOINT_PORT: u16 = 1 << 2;

/// [`Port::flags`]: a gateway port that has learned as many MAC addresses as it may.
pub const PORT_FULL: u16 = 1;

/// [`Network::flags`]: it has gateway ports, on whatever node: there are addresses that nobody has told.
pub const NETWORK_HAS_PORTS: u32 = 1 << 4;

/// [`Learned::state`]: whose it is, is not decided.
pub const LEARNED_PENDING: u16 = 0;
/// [`Learned::state`]: the port's.
pub const LEARNED_KNOWN: u16 = 1;
/// [`Learned::state`]: an endpoint's or another port's.
pub const LEARNED_REFUSED: u16 = 2;

/// Entries of `port_rows`, a power of two.
pub const PORT_ROWS: u32 = 4096;

/// Entries of `judged` on each CPU, a power of two.
pub const MAX_JUDGED: u32 = 4096;

/// Entries of `learned`, and so the MAC addresses all gateway ports of a node can see at once.
pub const MAX_LEARNED: u32 = 65_536;

/// [`Vtep::flags`]: the Ethernet addresses in the header are those of a live neighbour.
pub const VTEP_RESOLVED: u32 = 1;
/// [`Vtep::flags`]: the header is IPv6.
pub const VTEP_V6: u32 = 1 << 1;
/// [`Vtep::flags`]: the outer UDP checksum must be computed.
pub const VTEP_CHECKSUM: u32 = 1 << 2;

/// [`Network::flags`]: broadcasts are dropped.
pub const NETWORK_DROPS_BROADCAST: u32 = 1;
/// [`Network::flags`]: multicast is dropped.
pub const NETWORK_DROPS_MULTICAST: u32 = 1 << 1;
/// [`Network::flags`]: frames to a MAC address that no endpoint has are flooded.
pub const NETWORK_FLOODS_UNKNOWN: u32 = 1 << 2;
/// [`Network::flags`]: frames with VLAN tags are carried.
pub const NETWORK_TRUNK: u32 = 1 << 3;

/// `config`, one row: this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Config {
    /// This node's tunnel address.
    pub addr: Addr,
    /// The same if it is IPv4, as it stands in a header; else zero.
    pub addr4: [u8; 4],
    /// The uplink's interface index.
    pub uplink: u32,
    /// The VXLAN port, host order.
    pub port: u16,
    /// The uplink's MTU in bytes.
    pub mtu: u16,
    /// [`RESERVED_BITS_IGNORE`] and the like.
    pub flags: u32,
    /// Rows of `fdb`, a power of two, less one.
    pub fdb_mask: u32,
    /// The uplink's MAC address.
    pub mac: MacAddr,
    #[doc(hidden)]
    pub _pad: [u8; 2],
}

/// `ports`, by interface index: what the endpoint, or the hosts, behind an interface may send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Port {
    /// The network it is in.
    pub vni: u32,
    /// Its row in `endpoint_stats`.
    pub slot: u32,
    /// Its MAC address; zero for a gateway port, whose hosts' are in `learned`.
    pub mac: MacAddr,
    /// What traffic class its network's outer headers have.
    pub class: OuterClass,
    /// Its first IPv4 address, or zero. Further ones are looked up in `neighbours`.
    pub addr4: [u8; 4],
    /// Its first IPv6 address, or zero, likewise.
    pub addr6: [u8; 16],
    /// The largest packet its network's owner has carried, in bytes; 65535 if that is the underlay's
    /// matter alone.
    pub mtu: u16,
    /// [`PORT_FULL`].
    pub flags: u16,
}

/// `port_rows`, by the lower bits of the interface index: a row of `ports` that is found without a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PortRow {
    /// The row.
    pub port: Port,
    /// Whose it is; 0 if nobody's. Another interface with the same lower bits is in `ports` alone.
    pub ifindex: u32,
}

/// `judged`, by [`Self::index`]: a source behind a gateway port that was found to be right. Written and read
/// by the programs, and void as soon as the daemon has changed `port_epoch`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Judged {
    /// The MAC address, and the port's slot in the upper 16 bits.
    station: u64,
    /// The IPv4 address.
    addr4: [u8; 4],
    /// `port_epoch` before it was judged.
    epoch: u32,
}

/// `learned`, by VNI and MAC address: who was seen behind a gateway port. Made by the programs, judged
/// and removed by the daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Learned {
    /// The port's interface.
    pub ifindex: u32,
    /// [`LEARNED_PENDING`] and the like.
    pub state: u16,
    /// Set to 1 with a frame, and back to 0 by the daemon when it has looked. Not with each: see [`Judged`].
    pub seen: u16,
}

/// Key of `endpoints`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct EndpointKey {
    /// The network.
    pub vni: u32,
    /// The endpoint's MAC address.
    pub mac: MacAddr,
    #[doc(hidden)]
    pub _pad: [u8; 2],
}

/// `endpoints`: where a MAC address of a network is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Endpoint {
    /// Row in `vteps`; [`SELF_VTEP`] for an endpoint of this node.
    pub vtep: u32,
    /// Host side interface of a local endpoint; else zero.
    pub ifindex: u32,
    /// Row in `endpoint_stats` of a local endpoint; else zero. Below [`MAX_SLOTS`].
    pub slot: u16,
    /// [`ENDPOINT_REDIRECT`] and the like.
    pub flags: u16,
    /// The endpoint's first IPv4 address, or zero.
    pub addr4: [u8; 4],
    /// Its first IPv6 address, or zero.
    pub addr6: [u8; 16],
}

/// Key of `neighbours`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct NeighbourKey {
    /// The network.
    pub vni: u32,
    /// An address in it.
    pub addr: Addr,
}

/// `neighbours`: which MAC an address of a network has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Neighbour {
    /// The MAC address.
    pub mac: MacAddr,
    #[doc(hidden)]
    pub _pad: [u8; 2],
}

/// Key of `members`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct MemberKey {
    /// The network.
    pub vni: u32,
    /// Tunnel address of a node that has endpoints in it.
    pub addr: Addr,
}

/// `members`: who may send into a network; also the values of `vtep_addrs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Member {
    /// Row in `vteps`.
    pub vtep: u32,
}

/// `networks`, by VNI: the networks with endpoints on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Network {
    /// The kernel's VXLAN device for what the programs leave to it; 0 if there is none.
    pub slow_ifindex: u32,
    /// How many rows `flood_vteps` has for it, from slot 0 on; more than [`MAX_FLOOD_VTEPS`] leaves
    /// its broadcasts to the kernel's device.
    pub flood_vteps: u32,
    /// How many rows `flood_ports` has for it, from slot 0 on.
    pub flood_ports: u32,
    /// [`NETWORK_DROPS_BROADCAST`] and the like.
    pub flags: u32,
    /// How many frames to be flooded its endpoints here may send in a second, and at once.
    pub bum_rate: u32,
    /// The largest packet that can be flooded, in bytes: the least of its VTEPs'.
    pub flood_mtu: u32,
}

/// `bum_buckets` by VNI and `too_big_buckets` by slot: a token bucket as [`crate::wire::bucket`] keeps it.
/// Written by the programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Bucket {
    /// Up to when tokens were added, in nanoseconds since the machine started.
    pub time: u64,
    /// Tokens left.
    pub tokens: i64,
}

/// Key of `flood_vteps` (values: rows in `vteps`) and `flood_ports` (values: interface indices).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct FloodKey {
    /// The network.
    pub vni: u32,
    /// 0 and up, without holes.
    pub slot: u32,
}

/// `vteps`: how to reach a node. Row [`SELF_VTEP`] is unused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Vtep {
    /// The node's tunnel address.
    pub addr: Addr,
    /// The underlay's next hop towards it.
    pub next_hop: Addr,
    /// The interface towards it; 0 marks a row that is not in use.
    pub ifindex: u32,
    /// [`VTEP_RESOLVED`] and the like.
    pub flags: u32,
    /// The outer headers as [`crate::wire::encap`] makes them, at its beginning: those of IPv4 are
    /// shorter.
    pub header: [u8; OUTER_LEN_V6],
    #[doc(hidden)]
    pub _pad: [u8; 2],
    /// The largest inner packet that the way there carries, in bytes, its Ethernet header not counted.
    pub mtu: u32,
}

/// All zero, as an array begins.
impl Default for PortRow {
    fn default() -> Self {
        Self { port: Port { class: OuterClass::UNWRITTEN, ..Port::default() }, ifindex: 0 }
    }
}

impl Default for Vtep {
    fn default() -> Self {
        Self {
            addr: Addr::default(),
            next_hop: Addr::default(),
            ifindex: 0,
            flags: 0,
            header: [0; OUTER_LEN_V6],
            _pad: [0; 2],
            mtu: 0,
        }
    }
}

/// `endpoint_stats` by slot and `peer_stats` by row of `vteps`, per CPU. Directions are the
/// endpoint's and the peer's: `tx` came from it. `counters` uses the `rx` pair alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Traffic {
    /// Packets to it.
    pub rx_packets: u64,
    /// Bytes of inner frames to it.
    pub rx_bytes: u64,
    /// Packets from it.
    pub tx_packets: u64,
    /// Bytes of inner frames from it.
    pub tx_bytes: u64,
}

/// In front of a packet, from the XDP program to the tc program behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct XdpMeta {
    /// [`super::META_MAGIC`].
    pub magic: u32,
    /// The network.
    pub vni: u32,
    /// The endpoint's interface; 0 to flood.
    pub ifindex: u32,
    /// [`Endpoint::flags`].
    pub flags: u32,
}

// === layouts ===

macro_rules! layout {
    ($($type:ty: $size:literal, sum of $($field:ty),+;)+) => {$(
        const _: () = {
            assert!(size_of::<$type>() == $size, "size changed: raise SCHEMA");
            assert!(0 $(+ size_of::<$field>())+ == $size, "implicit padding");
        };
        // SAFETY: `#[repr(C)]`, `Copy`, and by the assertion above without padding; any bytes are a value.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $type {}
    )+};
}

layout! {
    Config: 44, sum of [u8; 16], [u8; 4], u32, u16, u16, u32, u32, [u8; 6], [u8; 2];
    Port: 40, sum of u32, u32, [u8; 6], OuterClass, [u8; 4], [u8; 16], u16, u16;
    PortRow: 44, sum of Port, u32;
    Judged: 16, sum of u64, [u8; 4], u32;
    Learned: 8, sum of u32, u16, u16;
    EndpointKey: 12, sum of u32, [u8; 6], [u8; 2];
    Endpoint: 32, sum of u32, u32, u16, u16, [u8; 4], [u8; 16];
    NeighbourKey: 20, sum of u32, [u8; 16];
    Neighbour: 8, sum of [u8; 6], [u8; 2];
    MemberKey: 20, sum of u32, [u8; 16];
    Member: 4, sum of u32;
    Addr: 16, sum of [u8; 16];
    Network: 24, sum of u32, u32, u32, u32, u32, u32;
    Bucket: 16, sum of u64, i64;
    FloodKey: 8, sum of u32, u32;
    Vtep: 116, sum of [u8; 16], [u8; 16], u32, u32, [u8; 70], [u8; 2], u32;
    Traffic: 32, sum of u64, u64, u64, u64;
    XdpMeta: 16, sum of u32, u32, u32, u32;
}

impl Judged {
    /// Of a frame from this MAC and IPv4 address at the port with this slot, in this epoch.
    #[inline(always)]
    #[must_use]
    pub const fn new(slot: u32, mac: MacAddr, addr4: [u8; 4], epoch: u32) -> Self {
        let [a, b, c, d, e, f] = mac.0;
        let station = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]) | (slot as u64) << 48;
        Self { station, addr4, epoch }
    }

    /// Its row.
    #[inline(always)]
    #[must_use]
    pub const fn index(&self) -> u32 {
        let key = self.station ^ (u32::from_le_bytes(self.addr4) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (key.wrapping_mul(0x9fb2_1c65_1e98_df25) >> 32) as u32 & (MAX_JUDGED - 1)
    }
}

impl EndpointKey {
    /// The key of `mac` in network `vni`.
    #[inline(always)]
    #[must_use]
    pub const fn new(vni: u32, mac: MacAddr) -> Self {
        Self { vni, mac, _pad: [0; 2] }
    }
}
