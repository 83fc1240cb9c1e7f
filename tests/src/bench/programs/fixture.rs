//! One node with our programs and as many endpoints in its maps as wanted, without a daemon.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, MapData},
    programs::Program,
};
use overlay_ebpf::{
    abi::{
        Addr, Config, Endpoint, EndpointKey, MacAddr, Member, MemberKey, Neighbour, NeighbourKey, Network,
        PORT_ROWS, Port, PortRow, SELF_VTEP, VTEP_RESOLVED, Vtep, XDP_ATTACHED,
    },
    bench::{self, REWRITTEN, Stream},
    wire::encap,
};
use overlay_user::datapath::ebpf::{self, Fdb, Features};

use super::Job;
use crate::{
    bench::{
        Options,
        object::{self, Object},
    },
    frame::{self, Station, Vxlan},
    netns::Netns,
};

const VNI: u32 = 77;
/// Endpoints of this node, all behind one interface. They have the first numbers.
const LOCAL: u32 = 256;
const HERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const THERE_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
/// Row of the other node.
const VTEP: u32 = 1;
/// How often a sample with losses is taken again.
const ATTEMPTS: usize = 3;
const PORTS: (u16, u16) = (0x4000, 9);

/// The node, the wire's end of its uplink, and a container.
pub struct Fixture {
    endpoints: u32,
    ebpf: Ebpf,
    /// Programs are loaded again and again, with it.
    fdb: Fdb,
    bench: Object,
    /// Frames in and out, as their first packet has them.
    frames: (Vec<u8>, Vec<u8>),
    /// The generator's interfaces: the wire's end and the container's.
    senders: (u32, u32),
    node: Netns,
    wire: Netns,
    container: Netns,
}

impl Fixture {
    pub fn new(endpoints: u32) -> Result<Self> {
        let (node, wire, container) = (Netns::new("node")?, Netns::new("wire")?, Netns::new("container")?);
        for (device, peer, there) in [("eth0", "port", &wire), ("ve", "eth0", &container)] {
            node.exec(&format!("ip link add {device} type veth peer name {peer} netns {}", there.name()))?;
            node.exec(&format!("ip link set {device} up"))?;
            there.exec(&format!("ip link set {peer} up"))?;
            // Frames redirected into a veth are taken up only with GRO on (veth_xdp_xmit).
            node.exec(&format!("ethtool -K {device} gro on"))?;
        }
        let features = Features::probe();
        let mut loader = ebpf::loader(features);
        loader.override_global("AYA_LOG_LEVEL", &0_u8, true);
        for map in ["endpoints", "neighbours"] {
            loader.map_max_entries(map, endpoints + LOCAL);
        }
        loader.map_max_entries("fdb", ebpf::buckets(endpoints + LOCAL));
        let mut ebpf = loader.load(&ebpf::object_for(features))?;
        for (name, program) in ebpf.programs_mut() {
            match program {
                Program::SchedClassifier(program) => program.load(),
                Program::Xdp(program) => program.load(),
                _ => Ok(()),
            }
            .with_context(|| format!("cannot load {name}"))?;
        }
        let mut bench = Object::load()?;
        bench.attach("sink", &wire, "port")?;
        bench.attach("sink", &container, "eth0")?;
        let mac = node.mac("eth0")?;
        let senders = (wire.ifindex("port")?, container.ifindex("eth0")?);
        let frames = frames(mac);
        let fdb = Fdb::open(&mut ebpf)?;
        let mut fixture = Self { endpoints, ebpf, fdb, bench, frames, senders, node, wire, container };
        fixture.fill(mac)?;
        Ok(fixture)
    }

    fn fill(&mut self, mac: MacAddr) -> Result<()> {
        let (uplink, ve) = (self.node.ifindex("eth0")?, self.node.ifindex("ve")?);
        let port = Port {
            vni: VNI,
            slot: 0,
            mac: MacAddr(bench::mac(0)),
            addr4: bench::addr(0),
            mtu: u16::MAX,
            ..Port::default()
        };
        insert(&mut self.ebpf, "ports", [(ve, port)])?;
        set(&mut self.ebpf, "port_rows", ve % PORT_ROWS, PortRow { port, ifindex: ve })?;
        let row = |index: u32| {
            let addr4 = bench::addr(index);
            if index >= LOCAL {
                return Endpoint { vtep: VTEP, addr4, ..Endpoint::default() };
            }
            let slot = u16::try_from(index).unwrap_or_default();
            Endpoint { vtep: SELF_VTEP, ifindex: ve, slot, addr4, ..Endpoint::default() }
        };
        let all = 0..LOCAL + self.endpoints;
        let mac_of = |index: u32| MacAddr(bench::mac(index));
        let endpoints = || all.clone().map(|i| (EndpointKey::new(VNI, mac_of(i)), row(i)));
        insert(&mut self.ebpf, "endpoints", endpoints())?;
        for (key, row) in endpoints() {
            self.fdb.ensure(&key, &row);
        }
        for slot in 0..LOCAL {
            set(&mut self.ebpf, "locals", slot, row(slot))?;
        }
        let neighbour = |i: u32| {
            let key = NeighbourKey { vni: VNI, addr: Addr::from_v4(bench::addr(i)) };
            (key, Neighbour { mac: mac_of(i), ..Neighbour::default() })
        };
        let untold = |i: &u32| MacAddr::of_ipv4(bench::addr(*i).into()) != mac_of(*i);
        insert(&mut self.ebpf, "neighbours", all.clone().filter(untold).map(neighbour))?;
        let vtep = Vtep {
            addr: Addr::from_v4(THERE.octets()),
            next_hop: Addr::from_v4(THERE.octets()),
            ifindex: uplink,
            flags: VTEP_RESOLVED,
            header: encap::in_row(encap::template((mac, THERE_MAC), (HERE, THERE), 4789)),
            mtu: 1450,
            ..Vtep::default()
        };
        set(&mut self.ebpf, "vteps", VTEP, vtep)?;
        let member = MemberKey { vni: VNI, addr: Addr::from_v4(THERE.octets()) };
        insert(&mut self.ebpf, "members", [(member, Member { vtep: VTEP })])?;
        insert(&mut self.ebpf, "networks", [(VNI, Network::default())])?;
        for addr in [HERE, THERE] {
            insert(&mut self.ebpf, "vtep_addrs", [(Addr::from_v4(addr.octets()), Member { vtep: VTEP })])?;
        }
        let config = Config {
            addr: Addr::from_v4(HERE.octets()),
            addr4: HERE.octets(),
            uplink,
            port: 4789,
            mtu: 1500,
            flags: XDP_ATTACHED,
            fdb_mask: self.fdb.mask(),
            mac,
            ..Config::default()
        };
        set(&mut self.ebpf, "config", 0, config)
    }

    /// Nanoseconds of a program at a job, everything included.
    pub fn measure(&mut self, job: Job, options: &Options) -> Result<f64> {
        let attached: &[(&str, &str)] = match job {
            Job::Encapsulate | Job::Switch => &[("endpoint_in", "ve")],
            Job::StripXdp | Job::Deliver => &[("uplink_in", "eth0"), ("uplink_xdp", "eth0")],
            Job::StripTc => &[("uplink_in", "eth0")],
        };
        for (program, device) in attached {
            object::attach(&mut self.ebpf, program, &self.node, device)?;
        }
        let mut measured =
            self.bursts(job, options, |fixture| object::run_time(&fixture.ebpf, job.program()));
        for _ in 0..ATTEMPTS {
            // Somebody else's packet can have an interface polled on another core, and the generator then
            // outruns it.
            if matches!(measured, Ok((_, 0)) | Err(_)) {
                break;
            }
            measured = self.bursts(job, options, |fixture| object::run_time(&fixture.ebpf, job.program()));
        }
        for (program, _) in attached {
            object::detach(&mut self.ebpf, program)?;
        }
        let (nanoseconds, lost) = measured?;
        ensure!(lost == 0, "{lost} frames were not forwarded");
        Ok(nanoseconds)
    }

    /// Nanoseconds of an empty program in the same places.
    pub fn empty(&mut self, program: &str, options: &Options) -> Result<f64> {
        self.bench.attach(program, &self.node, "eth0")?;
        let measured = self.bursts(Job::StripTc, options, |fixture| fixture.bench.run_time(program));
        self.bench.detach(program)?;
        Ok(measured?.0)
    }

    /// The best of some bursts, and how many frames did not get to the other side.
    fn bursts(
        &mut self,
        job: Job,
        options: &Options,
        run_time: impl Fn(&Self) -> Result<(std::time::Duration, u64)>,
    ) -> Result<(f64, u64)> {
        let inwards = !matches!(job, Job::Encapsulate | Job::Switch);
        let (frame, ifindex, from, generator) = if inwards {
            (&self.frames.0, self.senders.0, &self.wire, "generate_in_keys")
        } else {
            (&self.frames.1, self.senders.1, &self.container, "generate_out_keys")
        };
        let mut stream =
            Stream { ifindex, flows: 4096, endpoints: self.endpoints, local: LOCAL, ..Stream::default() };
        if job == Job::Switch {
            (stream.local, stream.endpoints) = (0, LOCAL);
        }
        // Another part of the sequence for each sample.
        stream.random = std::process::id().into();
        let head = frame.first_chunk::<REWRITTEN>().context("the frame is too short")?;
        for (word, bytes) in stream.head.iter_mut().zip(head.as_chunks().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        self.bench.set("stream", stream)?;
        let arrived = self.bench.arrived()?;
        let (mut best, mut sent) = (f64::INFINITY, 0);
        for _ in 0..options.bursts {
            let (before, count) = run_time(self)?;
            self.bench.send(generator, from, frame, 1, options.frames)?;
            let (after, count_after) = run_time(self)?;
            sent += u64::from(options.frames);
            #[expect(clippy::cast_precision_loss, reason = "counts of one burst")]
            let nanoseconds =
                after.saturating_sub(before).as_nanos() as f64 / (count_after - count).max(1) as f64;
            best = best.min(nanoseconds);
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
        Ok((best, sent.saturating_sub(self.bench.arrived()? - arrived)))
    }
}

/// A frame from the wire and one from the container; the generator puts keys into them.
fn frames(mac: MacAddr) -> (Vec<u8>, Vec<u8>) {
    let endpoint = |index: u32| Station { mac: MacAddr(bench::mac(index)), addr: bench::addr(index).into() };
    let mut out = frame::udp(endpoint(0), endpoint(LOCAL), PORTS, &[0; 22]);
    out[40..42].fill(0);
    let mut inner = frame::udp(endpoint(LOCAL), endpoint(0), PORTS, &[0; 22]);
    inner[40..42].fill(0);
    let (from, to) = (Station { mac: THERE_MAC, addr: THERE }, Station { mac, addr: HERE });
    let mut vxlan = Vxlan { from, to, vni: VNI, inner: &inner }.frame();
    vxlan[40..42].fill(0);
    (vxlan, out)
}

fn insert<K: Pod, V: Pod>(ebpf: &mut Ebpf, map: &str, rows: impl IntoIterator<Item = (K, V)>) -> Result<()> {
    let mut map: HashMap<&mut MapData, K, V> = ebpf.map_mut(map).context("no such map")?.try_into()?;
    rows.into_iter().try_for_each(|(key, value)| Ok(map.insert(key, value, 0)?))
}

fn set<V: Pod>(ebpf: &mut Ebpf, map: &str, index: u32, value: V) -> Result<()> {
    let mut map: Array<&mut MapData, V> = ebpf.map_mut(map).context("no such map")?.try_into()?;
    Ok(map.set(index, value, 0)?)
}
