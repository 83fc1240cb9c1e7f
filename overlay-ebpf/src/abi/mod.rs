//! Map layouts and constants: the contract between the BPF programs and the daemon.
//!
//! Rules: `#[repr(C)]`, no implicit padding (the kernel hashes keys byte by byte), numbers in host
//! byte order and addresses as bytes in network order. A change of any layout raises [`SCHEMA`].

mod addr;
mod fdb;
mod maps;
mod outcome;

pub use addr::{Addr, MacAddr, ParseMacError, Vni, VniError};
pub use fdb::{FdbBucket, FdbEntry, PER_BUCKET, index as fdb_index};
pub use maps::{
    Bucket, Config, DECAP_CLEARS_TUNNEL, ENDPOINT_LEARNED, ENDPOINT_PORT, ENDPOINT_REDIRECT, Endpoint,
    EndpointKey, FloodKey, Judged, LEARNED_KNOWN, LEARNED_PENDING, LEARNED_REFUSED, Learned, MAX_FLOOD_PORTS,
    MAX_FLOOD_VTEPS, MAX_JUDGED, MAX_LEARNED, MAX_SLOTS, MAX_VTEPS, Member, MemberKey,
    NETWORK_DROPS_BROADCAST, NETWORK_DROPS_MULTICAST, NETWORK_FLOODS_UNKNOWN, NETWORK_HAS_PORTS,
    NETWORK_TRUNK, Neighbour, NeighbourKey, Network, PORT_FULL, PORT_ROWS, Port, PortRow,
    RESERVED_BITS_IGNORE, SELF_VTEP, Traffic, UDP6_ZERO_CHECKSUM, UNDERLAY_V6, VTEP_CHECKSUM, VTEP_RESOLVED,
    VTEP_V6, Vtep, XDP_ATTACHED, XdpMeta,
};
pub use outcome::{COUNTERS, Class, Hook, OUTCOMES, Outcome};

/// Version of every layout in this module. It is part of the pin directory's name, so that two
/// daemons that disagree never share a map.
pub const SCHEMA: u32 = 1;

/// First word of [`XdpMeta`]: says that our XDP program wrote it.
pub const META_MAGIC: u32 = 0x6f76_6c59;

/// `skb->mark` of a packet that the uplink program checked and left to the kernel's VXLAN device.
/// That device's program delivers nothing without it.
pub const CHECKED_MARK: u32 = 0x6f76_6c43;

/// `BPF_F_ADJ_ROOM_DECAP_L4_UDP` of `bpf_skb_adjust_room`: what is stripped is a UDP tunnel, so that the
/// packet is no longer marked as in one. In the kernel's development tree since August 2026; older
/// kernels refuse it.
pub const DECAP_L4_UDP: u32 = 1 << 10;

/// IANA's UDP port for VXLAN (RFC 7348, section 8).
pub const VXLAN_PORT: u16 = 4789;

/// Bytes in front of the inner frame on an IPv4 underlay: Ethernet 14, IPv4 20, UDP 8, VXLAN 8.
pub const OUTER_LEN: usize = 50;
/// The same on an IPv6 underlay, whose header has 40 bytes.
pub const OUTER_LEN_V6: usize = 70;

/// What the overlay takes off the underlay's MTU over IPv4: the outer headers after Ethernet, and
/// the inner Ethernet header.
pub const OVERHEAD: u16 = 50;
/// The same over IPv6.
pub const OVERHEAD_V6: u16 = 70;
