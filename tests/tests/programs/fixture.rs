//! One loaded object with a small network in its maps, and packets run through its programs.

use std::collections::BTreeMap;

use aya::{
    Ebpf, Pod, TestRun as _, TestRunOptions,
    maps::{Array, HashMap, MapData, PerCpuArray, xdp::DevMapHash},
    programs::{Program, SchedClassifier, Xdp},
};
use overlay_ebpf::{
    abi::{
        Addr, Bucket, Config, ENDPOINT_LEARNED, ENDPOINT_PORT, ENDPOINT_REDIRECT, Endpoint, EndpointKey,
        FloodKey, Hook, LEARNED_KNOWN, Learned, MacAddr, Member, MemberKey, NETWORK_HAS_PORTS, Neighbour,
        NeighbourKey, Network, OUTER_LEN, OUTER_LEN_V6, Outcome, PORT_FULL, PORT_ROWS, Port, PortRow,
        SELF_VTEP, Traffic, UDP6_ZERO_CHECKSUM, UNDERLAY_V6, VTEP_CHECKSUM, VTEP_RESOLVED, VTEP_V6, Vtep,
        XDP_ATTACHED,
    },
    wire::{checksum, ecn::OuterClass, encap},
};
use overlay_user::datapath::ebpf::{self, Fdb, Features, probe};

use crate::frames::{A, B, C, D, H, HERE, Host, I, J, THERE, VNI, ipv6};

/// The loopback interface, which every namespace has and a test run of a tc program comes from.
pub const LOOPBACK: u32 = 1;
/// An interface of no consequence.
pub const ELSEWHERE: u32 = 77;
/// Rows of the other nodes in `vteps`.
pub const THERE_INDEX: u32 = 1;
pub const UNREACHABLE_INDEX: u32 = 2;

/// `TC_ACT_*` and `XDP_*` (include/uapi/linux).
pub const TC_UNSPEC: u32 = u32::MAX;
pub const TC_SHOT: u32 = 2;
pub const TC_REDIRECT: u32 = 7;
pub const XDP_DROP: u32 = 1;
pub const XDP_PASS: u32 = 2;
pub const XDP_REDIRECT: u32 = 4;

/// One packet and what must become of it.
#[derive(Clone)]
pub struct Case {
    /// In words.
    pub what: &'static str,
    /// What is different in the maps or the context for this case.
    pub setup: Setup,
    /// The packet.
    pub packet: Vec<u8>,
    /// The program's return value.
    pub action: u32,
    /// The name it is counted under.
    pub outcome: Outcome,
    /// The packet afterwards; `None`: as before.
    pub output: Option<Vec<u8>>,
}

/// What a case changes in the network of the fixtures.
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that may be so or not")]
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Setup {
    /// Settings in `config`.
    pub flags: u32,
    /// Length of a super-packet's segments.
    pub gso_size: u32,
    /// `skb->mark`.
    pub mark: u32,
    /// Nothing is bound to the interface.
    pub unbound: bool,
    /// The network has no kernel VXLAN device.
    pub no_slow_path: bool,
    /// Broadcasts are left to the kernel.
    pub kernel_floods: bool,
    /// `networks`' flags.
    pub network_flags: u32,
    /// The network has an MTU of its own.
    pub network_mtu: Option<u16>,
    /// Frames that may be flooded in a second; else 100.
    pub bum_rate: Option<u32>,
    /// The network's outer headers have a DSCP of their own.
    pub dscp: Option<u8>,
    /// There are gateway ports, the interface under test among them.
    pub gateway: Gateway,
    /// This node's endpoints are delivered to by XDP redirect.
    pub redirect: Redirect,
    /// No endpoint finds room in `fdb`.
    pub crowded: bool,
}

/// Whether this node's endpoints are delivered to by XDP redirect.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Redirect {
    #[default]
    Off,
    On,
    /// Their interfaces are gone from the map of targets.
    NoTarget,
}

/// Whether there are gateway ports in the network.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gateway {
    #[default]
    Off,
    On,
    /// The one under test may learn no more.
    Full,
}

/// The object, and its programs as they are asked for.
pub struct Fixture {
    ebpf: Ebpf,
    fdb: Fdb,
    crowded: bool,
    /// Keeps the namespace, whose interface the maps refer to.
    _netns: std::fs::File,
}

/// Programs for each setup that cases ask for: loading takes longer than running.
#[derive(Default)]
pub struct Fixtures(BTreeMap<Setup, Fixture>);

impl Fixtures {
    /// The programs for a setup, with all outcomes' counters at zero.
    pub fn of(&mut self, setup: Setup) -> &mut Fixture {
        let fixture = self.0.entry(setup).or_insert_with(|| Fixture::new(setup));
        fixture.clear_counters();
        fixture
    }
}

/// What a run came to.
pub struct Run {
    pub action: u32,
    pub output: Vec<u8>,
}

impl Fixture {
    /// Loads the object with maps of its own, in a network namespace of this thread's own.
    pub fn new(setup: Setup) -> Self {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("needs root");
        let features = Features::probe();
        let mut ebpf = ebpf::loader(features)
            .override_global("AYA_LOG_LEVEL", &0_u8, true)
            .load(&ebpf::object_for(features))
            .expect("needs root");
        let netns = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
        let fdb = Fdb::open(&mut ebpf).unwrap();
        let mut fixture = Self { ebpf, fdb, crowded: setup.crowded, _netns: netns };
        fixture.fill(setup);
        fixture
    }

    /// A program, loaded when it is first asked for: most fixtures run but one of them, and the verifier takes
    /// seconds for each in an emulated machine.
    fn program(&mut self, name: &str) -> &Program {
        let program = self.ebpf.program_mut(name).unwrap();
        if program.fd().is_err() {
            let loaded = match program {
                Program::SchedClassifier(program) => program.load(),
                Program::Xdp(program) => program.load(),
                other => panic!("{name} is {other:?}"),
            };
            loaded.unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        program
    }

    /// Whether the kernel strips packets with a flag of `bpf_skb_adjust_room`.
    pub fn decap(&mut self, flag: u32) -> bool {
        self.program("probe_decap");
        probe::decap(&self.ebpf, flag)
    }

    fn fill(&mut self, setup: Setup) {
        let over_ipv6 = setup.flags & UNDERLAY_V6 != 0;
        let tunnel = |host: Host| if over_ipv6 { Addr(ipv6(host.ip)) } else { Addr::from_v4(host.ip) };
        let config = Config {
            addr: tunnel(HERE),
            addr4: if over_ipv6 { [0; 4] } else { HERE.ip },
            uplink: LOOPBACK,
            port: 4789,
            mtu: 1500,
            flags: setup.flags,
            fdb_mask: self.fdb.mask(),
            mac: MacAddr(HERE.mac),
            ..Config::default()
        };
        self.set("config", 0, config);
        if setup.gateway != Gateway::Off {
            self.gateway(setup);
        } else if !setup.unbound {
            let class = setup.dscp.map_or(OuterClass::INHERIT, OuterClass::fixed);
            let port = Port {
                vni: VNI,
                slot: 0,
                mac: MacAddr(A.mac),
                class,
                addr4: A.ip,
                addr6: A.ip6(),
                mtu: setup.network_mtu.unwrap_or(u16::MAX),
                ..Port::default()
            };
            self.bind(port);
        }
        for (slot, host) in [(0, A), (1, B)] {
            let flags = if setup.redirect == Redirect::Off { 0 } else { ENDPOINT_REDIRECT };
            let (vtep, ifindex) =
                (SELF_VTEP, if setup.gateway == Gateway::Off { LOOPBACK } else { ELSEWHERE });
            self.endpoint(host, Endpoint { vtep, ifindex, slot, flags, ..Endpoint::default() });
        }
        self.endpoint(C, Endpoint { vtep: THERE_INDEX, ..Endpoint::default() });
        self.endpoint(D, Endpoint { vtep: UNREACHABLE_INDEX, ..Endpoint::default() });
        let macs = (MacAddr(HERE.mac), MacAddr(THERE.mac));
        let (header, flags) = if over_ipv6 {
            let header = encap::template_v6(macs, (ipv6(HERE.ip).into(), ipv6(THERE.ip).into()), 4789);
            let checksum = if setup.flags & UDP6_ZERO_CHECKSUM == 0 { VTEP_CHECKSUM } else { 0 };
            (header, VTEP_V6 | checksum)
        } else {
            let template = encap::template(macs, (HERE.ip.into(), THERE.ip.into()), 4789);
            (encap::in_row(template), 0)
        };
        let there = Vtep {
            addr: tunnel(THERE),
            next_hop: tunnel(THERE),
            ifindex: LOOPBACK,
            flags: VTEP_RESOLVED | flags,
            header,
            mtu: if over_ipv6 { 1430 } else { 1450 },
            ..Vtep::default()
        };
        self.set("vteps", THERE_INDEX, there);
        self.insert("members", MemberKey { vni: VNI, addr: tunnel(THERE) }, Member { vtep: THERE_INDEX });
        for addr in [tunnel(HERE), tunnel(THERE), Addr(THERE.ip6())] {
            self.insert("vtep_addrs", addr, Member { vtep: SELF_VTEP });
        }
        self.insert(
            "networks",
            VNI,
            Network {
                slow_ifindex: if setup.no_slow_path { 0 } else { LOOPBACK },
                flood_vteps: if setup.kernel_floods { u32::MAX } else { 1 },
                flood_ports: 0,
                flags: setup.network_flags
                    | if setup.gateway == Gateway::Off { 0 } else { NETWORK_HAS_PORTS },
                bum_rate: setup.bum_rate.unwrap_or(100),
                flood_mtu: 1450,
            },
        );
        self.insert("bum_buckets", VNI, Bucket::default());
        self.insert("flood_vteps", FloodKey { vni: VNI, slot: 0 }, THERE_INDEX);
        if !setup.unbound {
            self.insert("slow_devices", LOOPBACK, VNI);
        }
        if setup.redirect == Redirect::On {
            let map = self.ebpf.map_mut("redirect_targets").unwrap();
            DevMapHash::try_from(map).unwrap().insert(LOOPBACK, LOOPBACK, None, 0).unwrap();
        }
    }

    /// Hosts behind the interface under test, and one behind the other node's.
    fn gateway(&mut self, setup: Setup) {
        if !setup.unbound {
            let flags = if setup.gateway == Gateway::Full { PORT_FULL } else { 0 };
            self.bind(Port { vni: VNI, slot: 2, flags, mtu: u16::MAX, ..Port::default() });
        }
        let flags = ENDPOINT_LEARNED | ENDPOINT_PORT;
        let behind = Endpoint { vtep: SELF_VTEP, ifindex: LOOPBACK, slot: 2, flags, ..Endpoint::default() };
        for host in [H, I] {
            self.place(host, behind);
        }
        // Of the two, only one was heard by these programs.
        let known = Learned { ifindex: LOOPBACK, state: LEARNED_KNOWN, seen: 0 };
        self.insert("learned", EndpointKey::new(VNI, MacAddr(H.mac)), known);
        let far = Endpoint { vtep: THERE_INDEX, flags: ENDPOINT_LEARNED, ..Endpoint::default() };
        self.place(J, far);
        let map = self.ebpf.map_mut("redirect_targets").unwrap();
        DevMapHash::try_from(map).unwrap().insert(LOOPBACK, LOOPBACK, None, 0).unwrap();
    }

    /// Puts an endpoint behind the interface under test in place of the gateway port.
    pub fn bind_endpoint(&mut self, host: Host) {
        let mac = MacAddr(host.mac);
        let port = Port { vni: VNI, slot: 0, mac, addr4: host.ip, mtu: u16::MAX, ..Port::default() };
        self.bind(port);
    }

    /// Binds something to the interface under test. Where it is crowded, another interface has its place.
    fn bind(&mut self, port: Port) {
        self.insert("ports", LOOPBACK, port);
        let row = if self.crowded {
            PortRow { port: Port { vni: VNI + 1, ..port }, ifindex: LOOPBACK + PORT_ROWS }
        } else {
            PortRow { port, ifindex: LOOPBACK }
        };
        self.set("port_rows", LOOPBACK, row);
    }

    /// Has every source judged anew, as the daemon does when something has changed.
    pub fn judge_anew(&mut self) {
        let map: Array<&mut MapData, u32> = self.ebpf.map_mut("port_epoch").unwrap().try_into().unwrap();
        let epoch = map.get(&0, 0).unwrap();
        self.set("port_epoch", 0, epoch + 1);
    }

    /// What the daemon says of a host behind the port under test.
    pub fn note(&mut self, host: Host, row: Learned) {
        self.insert("learned", EndpointKey::new(VNI, MacAddr(host.mac)), row);
    }

    /// Gives a host another address.
    pub fn own(&mut self, host: Host, ip: [u8; 4]) {
        let key = NeighbourKey { vni: VNI, addr: Addr::from_v4(ip) };
        self.insert("neighbours", key, Neighbour { mac: MacAddr(host.mac), ..Neighbour::default() });
    }

    fn endpoint(&mut self, host: Host, row: Endpoint) {
        let row = Endpoint { addr4: host.ip, addr6: host.ip6(), ..row };
        self.place(host, row);
        let told = MacAddr(host.mac) == MacAddr::of_ipv4(host.ip.into());
        let v4 = (!told).then_some(Addr::from_v4(host.ip));
        for addr in v4.into_iter().chain([Addr(host.ip6()), Addr(host.second().ip6())]) {
            let key = NeighbourKey { vni: VNI, addr };
            self.insert("neighbours", key, Neighbour { mac: MacAddr(host.mac), ..Neighbour::default() });
        }
    }

    /// Says where a host is, in every map that does.
    fn place(&mut self, host: Host, row: Endpoint) {
        let key = EndpointKey::new(VNI, MacAddr(host.mac));
        self.insert("endpoints", key, row);
        if row.vtep == SELF_VTEP {
            self.set("locals", row.slot.into(), row);
        }
        if !self.crowded {
            self.fdb.ensure(&key, &row);
        }
    }

    fn insert<K: Pod, V: Pod>(&mut self, map: &str, key: K, value: V) {
        let mut map: HashMap<&mut MapData, K, V> = self.ebpf.map_mut(map).unwrap().try_into().unwrap();
        map.insert(key, value, 0).unwrap();
    }

    fn set<V: Pod>(&mut self, map: &str, index: u32, value: V) {
        let mut map: Array<&mut MapData, V> = self.ebpf.map_mut(map).unwrap().try_into().unwrap();
        map.set(index, value, 0).unwrap();
    }

    /// Sets all outcomes' counters to zero.
    pub fn clear_counters(&mut self) {
        let mut map: PerCpuArray<&mut MapData, Traffic> =
            self.ebpf.map_mut("counters").unwrap().try_into().unwrap();
        for index in 0..map.len() {
            let zero = vec![Traffic::default(); map.get(&index, 0).unwrap().len()];
            map.set(index, zero.try_into().unwrap(), 0).unwrap();
        }
    }

    /// Packets counted at a hook under an outcome.
    pub fn count(&self, hook: Hook, outcome: Outcome) -> u64 {
        let map: PerCpuArray<&MapData, Traffic> = self.ebpf.map("counters").unwrap().try_into().unwrap();
        map.get(&hook.counter(outcome), 0).unwrap().iter().map(|row| row.rx_packets).sum()
    }

    /// Runs a packet through a tc program.
    pub fn run_tc(&mut self, program: &str, packet: &[u8], setup: Setup) -> Run {
        // `struct __sk_buff`, as far as the kernel takes it for a test run (net/bpf/test_run.c).
        let mut context = [0_u32; 48];
        context[2] = setup.mark;
        context[10] = LOOPBACK; // ifindex
        context[44] = setup.gso_size;
        let context: Vec<u8> = context.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut output = vec![0; packet.len() + 512];
        let program: &SchedClassifier = self.program(program).try_into().unwrap();
        let result = program
            .test_run(TestRunOptions {
                data_in: Some(packet),
                data_out: Some(&mut output),
                ctx_in: Some(&context),
                ..TestRunOptions::default()
            })
            .unwrap_or_else(|e| panic!("a packet of {} bytes: {e:?}", packet.len()));
        output.truncate(result.data_size_out as usize);
        Run { action: result.return_value, output }
    }

    /// What is known of a MAC address that was seen behind a gateway port.
    pub fn learned(&self, host: Host) -> Option<Learned> {
        let map: HashMap<&MapData, EndpointKey, Learned> =
            self.ebpf.map("learned").unwrap().try_into().unwrap();
        map.get(&EndpointKey::new(VNI, MacAddr(host.mac)), 0).ok()
    }

    /// Runs a packet through the uplink's XDP program.
    pub fn run_xdp(&mut self, packet: &[u8]) -> Run {
        self.run_xdp_of("uplink_xdp", packet)
    }

    /// Runs a packet through an XDP program.
    pub fn run_xdp_of(&mut self, program: &str, packet: &[u8]) -> Run {
        let mut output = vec![0; packet.len() + 512];
        let program: &Xdp = self.program(program).try_into().unwrap();
        let result = program
            .test_run(TestRunOptions {
                data_in: Some(packet),
                data_out: Some(&mut output),
                ..TestRunOptions::default()
            })
            .unwrap();
        output.truncate(result.data_size_out as usize);
        Run { action: result.return_value, output }
    }
}

/// Whether a case runs with XDP on the uplink.
pub fn with_xdp(setup: Setup) -> Setup {
    Setup { flags: setup.flags | XDP_ATTACHED, ..setup }
}

/// The cases, and those without a setup of their own once more where endpoints are not in `fdb`.
pub fn in_both_maps(cases: &[Case]) -> impl Iterator<Item = Case> {
    let plain = cases.iter().filter(|case| case.setup == Setup::default());
    let crowded = plain.map(|case| Case { setup: Setup { crowded: true, ..case.setup }, ..case.clone() });
    cases.iter().cloned().chain(crowded)
}

/// Runs cases through a tc program and checks all there is to check.
pub fn check_tc(program: &str, hook: Hook, cases: &[Case]) {
    let mut fixtures = Fixtures::default();
    for case in in_both_maps(cases) {
        let fixture = fixtures.of(case.setup);
        let run = fixture.run_tc(program, &case.packet, case.setup);
        if hook == Hook::Uplink && crosses_versions(&case) && !fixture.decap(probe::DECAP_L3_IPV6) {
            // Before Linux 6.3 the kernel's device strips it.
            let case = Case { outcome: Outcome::SlowEncapsulated, packet: Vec::new(), output: None, ..case };
            check(fixture, hook, &case, &run, &run.output, TC_UNSPEC);
            continue;
        }
        check(fixture, hook, &case, &run, case.output.as_deref().unwrap_or(&case.packet), case.action);
    }
}

/// Whether a packet that tc strips is of another IP version outside than inside.
fn crosses_versions(case: &Case) -> bool {
    let version = |at: usize| match case.packet.get(at + 12..at + 14) {
        Some([0x08, 0x00]) => Some(4),
        Some([0x86, 0xdd]) => Some(6),
        _ => None,
    };
    let inside = if version(0) == Some(6) { OUTER_LEN_V6 } else { OUTER_LEN };
    [Outcome::Delivered, Outcome::Flooded].contains(&case.outcome)
        && version(inside).is_some_and(|inner| Some(inner) != version(0))
}

/// Checks a run against a case.
pub fn check(fixture: &Fixture, hook: Hook, case: &Case, run: &Run, output: &[u8], action: u32) {
    let what = case.what;
    let counted: Vec<_> = overlay_ebpf::abi::OUTCOMES
        .iter()
        .filter(|o| fixture.count(hook, **o) > 0 && **o != Outcome::Received)
        .collect();
    assert_eq!(counted, [&case.outcome], "{what}: outcome");
    assert_eq!(
        fixture.count(hook, Outcome::Received),
        1,
        "{what}: every packet is counted as received, once"
    );
    assert_eq!(fixture.count(hook, case.outcome), 1, "{what}: counted once");
    assert_eq!(run.action, action, "{what}: action");
    if [TC_SHOT, XDP_DROP].contains(&action) {
        return;
    }
    let mut output = output.to_vec();
    if case.outcome == Outcome::Encapsulated {
        // The source port is a hash with a seed of the kernel's own.
        let at = if case.setup.flags & UNDERLAY_V6 != 0 { 54 } else { 34 };
        let word = |bytes: &[u8], at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let (port, expected, check) = (word(&run.output, at), word(&output, at), word(&output, at + 6));
        assert!(port >= 49_152, "{what}: source port");
        output[at..at + 2].copy_from_slice(&port.to_be_bytes());
        if check != 0 {
            let check = checksum::replaced(check, expected, port);
            output[at + 6..at + 8].copy_from_slice(&check.to_be_bytes());
        }
    }
    assert_eq!(hex(&run.output), hex(&output), "{what}: the packet afterwards");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
}
