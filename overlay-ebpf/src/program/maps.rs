//! The maps. Names are the pins' names; ARCHITECTURE.md lists who reads and writes each.

#![expect(non_upper_case_globals, reason = "a map's name in the kernel is its static's name")]

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, DevMapHash, HashMap, PerCpuArray},
    macros::btf_map,
};
use overlay_ebpf::abi::{
    Addr, Bucket, COUNTERS, Config, Endpoint, EndpointKey, FdbBucket, FloodKey, Judged, Learned,
    MAX_FLOOD_VTEPS, MAX_JUDGED, MAX_LEARNED, MAX_SLOTS, MAX_VTEPS, Member, MemberKey, Neighbour,
    NeighbourKey, Network, PER_BUCKET, PORT_ROWS, Port, PortRow, Traffic, Vtep,
};

/// Default sizes; the loader sets those that grow with the cluster.
const ENDPOINTS: usize = 65_536;
const NETWORKS: usize = 4_096;

/// Memory for the rows that are there, not for all there may be: of maps that hardly ever have many.
const AS_NEEDED: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
pub static config: Array<Config, 1> = Array::new();

#[btf_map]
pub static ports: HashMap<u32, Port, { MAX_SLOTS as usize }, AS_NEEDED> = HashMap::new();

/// By the lower bits of the interface index: what `ports` has, without a hash.
#[btf_map]
pub static port_rows: Array<PortRow, { PORT_ROWS as usize }> = Array::new();

#[btf_map]
pub static endpoints: HashMap<EndpointKey, Endpoint, ENDPOINTS> = HashMap::new();

/// The daemon writes it by way of memory; so its rows also begin where cache lines do.
#[btf_map]
pub static fdb: Array<FdbBucket, { ENDPOINTS / PER_BUCKET as usize }, { BPF_F_MMAPABLE as usize }> =
    Array::new();

/// By slot: this node's endpoints, as `endpoints` has them.
#[btf_map]
pub static locals: Array<Endpoint, { MAX_SLOTS as usize }> = Array::new();

/// But for addresses that the MAC address is made of: those are found in `endpoints`.
#[btf_map]
pub static neighbours: HashMap<NeighbourKey, Neighbour, ENDPOINTS, AS_NEEDED> = HashMap::new();

#[btf_map]
pub static members: HashMap<MemberKey, Member, ENDPOINTS, AS_NEEDED> = HashMap::new();

#[btf_map]
pub static vtep_addrs: HashMap<Addr, Member, { MAX_VTEPS as usize }, AS_NEEDED> = HashMap::new();

#[btf_map]
pub static vteps: Array<Vtep, { MAX_VTEPS as usize }> = Array::new();

#[btf_map]
pub static networks: HashMap<u32, Network, NETWORKS, AS_NEEDED> = HashMap::new();

/// By VNI.
#[btf_map]
pub static bum_buckets: HashMap<u32, Bucket, NETWORKS, AS_NEEDED> = HashMap::new();

/// By slot: one for each endpoint here.
#[btf_map]
pub static too_big_buckets: Array<Bucket, { MAX_SLOTS as usize }> = Array::new();

#[btf_map]
pub static slow_devices: HashMap<u32, u32, NETWORKS, AS_NEEDED> = HashMap::new();

#[btf_map]
pub static flood_vteps: HashMap<FloodKey, u32, { NETWORKS * MAX_FLOOD_VTEPS as usize }, AS_NEEDED> =
    HashMap::new();

#[btf_map]
pub static flood_ports: HashMap<FloodKey, u32, { MAX_SLOTS as usize }, AS_NEEDED> = HashMap::new();

#[btf_map]
pub static learned: HashMap<EndpointKey, Learned, { MAX_LEARNED as usize }, AS_NEEDED> = HashMap::new();

/// By [`Judged::index`].
#[btf_map]
pub static judged: PerCpuArray<Judged, { MAX_JUDGED as usize }> = PerCpuArray::new();

/// Another number each time that what `judged` rests upon may have changed.
#[btf_map]
pub static port_epoch: Array<u32, 1> = Array::new();

/// Interfaces that frames are redirected to by XDP, by their own index.
#[btf_map]
pub static redirect_targets: DevMapHash<{ MAX_SLOTS as usize }> = DevMapHash::new();

#[btf_map]
pub static counters: PerCpuArray<Traffic, { COUNTERS as usize }> = PerCpuArray::new();

#[btf_map]
pub static endpoint_stats: PerCpuArray<Traffic, { MAX_SLOTS as usize }> = PerCpuArray::new();

#[btf_map]
pub static peer_stats: PerCpuArray<Traffic, { MAX_VTEPS as usize }> = PerCpuArray::new();
