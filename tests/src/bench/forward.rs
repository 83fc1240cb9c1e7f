//! Section `forward`: live frames from the kernel's own generator through one node, one core.
//!
//! The kernel makes frames in batches (`BPF_F_TEST_XDP_LIVE_FRAMES`) and hands each to a veth; the
//! other end takes them up in the same core's softirq, and so on until they are counted and dropped at
//! the far end. No socket and no second core takes part, so the rate is the price of the path alone.

use anyhow::{Context as _, Result, ensure};
use overlay_ebpf::bench::{REWRITTEN, Stream};
use serde_json::json;

use super::{
    Options,
    contender::{Carries, Contender, Kind, VNI},
    core::OneCore,
    object::Object,
    report::{Report, Row},
};
use crate::{
    frame::{self, Station, Vxlan},
    netns::Netns,
    node::Datapath,
    wire::UPLINK,
};

/// Flows told apart by their ports.
const FLOWS: u32 = 4096;
/// The discard service: where inner datagrams go.
const PORTS: (u16, u16) = (0x4000, 9);
/// Makes a 64-byte frame.
const PAYLOAD: [u8; 22] = [0; 22];
/// Bursts of a round. The generator's thread gets its core back from the softirq with a tick of the clock, every
/// 4 ms at 250 Hz: bursts of 100,000 frames, most of which take some 50 ms, would be told apart by steps of 8 %.
const BURSTS: usize = 3;
/// How many times as many frames as in section `programs` a burst has.
const LONGER: u32 = 6;
/// How often a sample with losses is taken again.
const ATTEMPTS: usize = 3;
/// What is measured.
const MEASURES: [&str; 2] = ["Mpps", "lost"];

/// Which way through the node, and who counts at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// From the wire to a container that drops at its tc ingress.
    In,
    /// From the wire to a container that drops by XDP.
    InToXdp,
    /// From a container to the wire.
    Out,
    /// From a host behind a gateway port to the wire, by XDP alone.
    OutOfPort,
}

/// One contender on one way.
struct Lane<'a> {
    name: String,
    way: Way,
    contender: &'a Contender,
    object: Object,
    frame: Vec<u8>,
}

/// What a node of ours counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counted {
    received: u64,
    forwarded: u64,
}

pub fn run(options: &Options) -> Result<()> {
    let kinds = [
        Kind::Bare,
        Kind::KernelVxlan,
        Kind::Cilium,
        Kind::Redirect,
        Kind::Ours(Datapath::Xdp),
        Kind::Ours(Datapath::Tc),
        Kind::Redirected,
        Kind::GatewayPort,
    ];
    let _core = OneCore::take()?;
    let mut contenders = Vec::new();
    for kind in kinds {
        eprintln!("    forward: setting up {kind}");
        contenders
            .push(Contender::set_up(kind, Carries::Gso).with_context(|| format!("cannot set up {kind}"))?);
    }
    for way in [Way::In, Way::InToXdp, Way::Out, Way::OutOfPort] {
        measure(options, way, &contenders).with_context(|| way.section())?;
    }
    Ok(())
}

fn measure(options: &Options, way: Way, contenders: &[Contender]) -> Result<()> {
    let mut report = Report::new(way.section(), way.title(), &MEASURES);
    let mut lanes = Vec::new();
    for contender in contenders.iter().filter(|contender| way.is_for(contender.kind)) {
        let lane = Lane::open(way, contender).with_context(|| format!("{}", contender.kind))?;
        // Caches, neighbours, and the machine's clock; and whether it forwards at all.
        let probe = lane.send(1, 64)?;
        if probe.lost == 64 {
            report.note(format!("{}: forwards nothing on this way, not measured", lane.name));
            continue;
        }
        lane.send(2, options.frames)?;
        lanes.push((lane, Row::new(contender.kind.to_string(), &MEASURES)));
    }
    let mut repeated = 0;
    for round in 1..=options.forward_rounds {
        for (lane, row) in &mut lanes {
            let (sample, again) = lane.sample(options)?;
            repeated += again;
            #[expect(clippy::cast_precision_loss, reason = "a run loses less than 2^52 frames")]
            row.add(&[sample.mpps, sample.lost as f64]);
        }
        let shown: Vec<_> =
            lanes.iter().map(|(lane, row)| format!("{} {:.2}", lane.name, row.last())).collect();
        eprintln!(
            "    {}, round {round} of {}: {} Mpps",
            way.section(),
            options.forward_rounds,
            shown.join(", ")
        );
    }
    for (lane, row) in lanes {
        if let Some(counted) = lane.counted()? {
            report.note(format!(
                "{}: programs counted {} in and {} forwarded",
                lane.name, counted.received, counted.forwarded
            ));
        }
        report.push(row);
    }
    if repeated > 0 {
        report.note(format!("{repeated} samples were taken again because frames were lost"));
    }
    report.note(format!(
        "{FLOWS} flows, frames of {} bytes, one core; each round the best of {} bursts of {}",
        way.frame_len(),
        BURSTS,
        LONGER * options.frames
    ));
    report.options =
        json!({ "rounds": options.forward_rounds, "bursts": BURSTS, "frames": LONGER * options.frames });
    report.finish(&options.output)
}

struct Sample {
    sent: u64,
    lost: u64,
    mpps: f64,
}

// === impl Way ===

impl Way {
    const fn section(self) -> &'static str {
        match self {
            Self::In => "forward-in",
            Self::InToXdp => "forward-in-xdp",
            Self::Out => "forward-out",
            Self::OutOfPort => "forward-gateway",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::In => "wire to container",
            Self::InToXdp => "wire to container with XDP",
            Self::Out => "container to wire",
            Self::OutOfPort => "gateway port to wire",
        }
    }

    const fn frame_len(self) -> usize {
        match self {
            Self::In | Self::InToXdp => 114,
            Self::Out | Self::OutOfPort => 64,
        }
    }

    fn is_for(self, kind: Kind) -> bool {
        match self {
            // What comes in without an overlay is not VXLAN.
            Self::In => ![Kind::Bare, Kind::GatewayPort].contains(&kind),
            // What is delivered by redirect_peer has passed the interface that XDP is on.
            Self::InToXdp => [Kind::KernelVxlan, Kind::Redirect, Kind::Redirected].contains(&kind),
            // Which way in our data path has makes no difference to the way out.
            Self::Out => {
                [Kind::Bare, Kind::KernelVxlan, Kind::Cilium, Kind::Ours(Datapath::Tc)].contains(&kind)
            }
            Self::OutOfPort => [Kind::Redirect, Kind::GatewayPort].contains(&kind),
        }
    }
}

// === impl Lane ===

impl<'a> Lane<'a> {
    fn open(way: Way, contender: &'a Contender) -> Result<Self> {
        let Contender { client, server, kind, .. } = contender;
        let mut object = Object::load()?;
        let (frame, ifindex) = match way {
            Way::In | Way::InToXdp => {
                let node = contender.node(1);
                // Frames redirected into a veth are taken up only with GRO on (veth_xdp_xmit).
                node.exec(&format!("ethtool -K {UPLINK} gro on"))?;
                let sink = if way == Way::In { "sink" } else { "sink_xdp" };
                object.attach(sink, &server.container, &server.interface)?;
                (vxlan(contender)?, contender.wire().ifindex(&contender.port(1).name)?)
            }
            Way::Out | Way::OutOfPort => {
                let node = contender.node(0);
                node.exec(&format!("ethtool -K {} gro on", client.host_device))?;
                let sink = if way == Way::Out { "sink" } else { "sink_xdp" };
                object.attach(sink, contender.wire(), &contender.port(0).name)?;
                (inner(contender), client.container.ifindex(&client.interface)?)
            }
        };
        ensure!(frame.len() == way.frame_len(), "the frame has {} bytes", frame.len());
        let head = frame.first_chunk::<REWRITTEN>().context("the frame is too short")?;
        let mut stream = Stream { ifindex, flows: FLOWS, ..Stream::default() };
        for (word, bytes) in stream.head.iter_mut().zip(head.as_chunks().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        object.set("stream", stream)?;
        Ok(Self { name: kind.to_string(), way, contender, object, frame })
    }

    /// One sample without losses if there can be one, and how often it was begun anew: somebody else's
    /// packet can have an interface polled on another core, and the generator then outruns it.
    fn sample(&self, options: &Options) -> Result<(Sample, usize)> {
        let mut again = 0;
        loop {
            let before = self.counted()?;
            let sample = self.send(BURSTS, LONGER * options.frames)?;
            if sample.lost == 0 || again == ATTEMPTS {
                self.check(before, &sample)?;
                return Ok((sample, again));
            }
            again += 1;
        }
    }

    /// Sends bursts, and waits for the last frame.
    fn send(&self, bursts: usize, frames: u32) -> Result<Sample> {
        let (sent, arrived) = (self.object.sent()?, self.object.arrived()?);
        let bursts = self.object.send(self.generator(), self.sender(), &self.frame, bursts, frames)?;
        let arrived = self.object.settled()? - arrived;
        let sent = self.object.sent()? - sent;
        let asked: u64 = bursts.iter().map(|burst| u64::from(burst.frames)).sum();
        ensure!(sent == asked, "the generator made {sent} frames of {asked}");
        ensure!(arrived <= sent, "{arrived} frames arrived of {sent}: somebody else sends");
        // Whatever else happens on the machine makes a burst slower, never faster: the best is the truest.
        let rates = bursts.iter().map(|burst| f64::from(burst.frames) / burst.took.as_secs_f64() / 1e6);
        let best = rates.fold(0.0, f64::max);
        #[expect(clippy::cast_precision_loss, reason = "a run sends less than 2^52 frames")]
        let share = arrived as f64 / sent as f64;
        Ok(Sample { sent, lost: sent - arrived, mpps: best * share })
    }

    const fn generator(&self) -> &'static str {
        match self.way {
            Way::In | Way::InToXdp => "generate_in",
            Way::Out | Way::OutOfPort => "generate_out",
        }
    }

    fn sender(&self) -> &Netns {
        match self.way {
            Way::In | Way::InToXdp => self.contender.wire(),
            Way::Out | Way::OutOfPort => &self.contender.client.container,
        }
    }

    /// What our programs counted so far on this way.
    fn counted(&self) -> Result<Option<Counted>> {
        let (index, hook, outcome) = match self.way {
            Way::In | Way::InToXdp => (1, "uplink", "delivered"),
            Way::Out => (0, "endpoint", "encapsulated"),
            Way::OutOfPort => (0, "port", "encapsulated"),
        };
        let Some(node) = self.contender.with_programs(index) else { return Ok(None) };
        let status = node.status()?;
        let counters = status["counters"].as_array().context("status has no counters")?;
        let of = |outcome: &str| {
            let found = counters.iter().find(|c| c["hook"] == hook && c["outcome"] == outcome);
            found.and_then(|counter| counter["packets"].as_u64()).unwrap_or(0)
        };
        Ok(Some(Counted { received: of("received"), forwarded: of(outcome) }))
    }

    /// Makes sure that each frame of a sample was counted where it should be.
    fn check(&self, before: Option<Counted>, sample: &Sample) -> Result<()> {
        let name = &self.name;
        let (Some(before), Some(after)) = (before, self.counted()?) else { return Ok(()) };
        let forwarded = after.forwarded - before.forwarded;
        ensure!(
            forwarded >= sample.sent && forwarded - sample.sent < 100,
            "{name}: of {} frames the programs forwarded {forwarded}",
            sample.sent
        );
        ensure!(sample.lost == 0, "{name}: {} of {} frames were lost", sample.lost, sample.sent);
        Ok(())
    }
}

/// A datagram between the containers.
fn inner(contender: &Contender) -> Vec<u8> {
    let station = |side: &super::contender::Side| Station { mac: side.mac, addr: side.addr };
    let mut frame = frame::udp(station(&contender.client), station(&contender.server), PORTS, &PAYLOAD);
    // No checksum (RFC 768), since the generator changes the ports.
    frame[40..42].fill(0);
    frame
}

/// The same as it comes from the wire.
fn vxlan(contender: &Contender) -> Result<Vec<u8>> {
    let station = |index: usize| -> Result<Station> {
        Ok(Station { mac: contender.node(index).mac(UPLINK)?, addr: contender.port(index).addr })
    };
    let inner = inner(contender);
    let mut frame = Vxlan { from: station(0)?, to: station(1)?, vni: VNI, inner: &inner }.frame();
    frame[40..42].fill(0);
    Ok(frame)
}
