//! Section `pods`: container to container across two nodes.

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{
    Options,
    measure::{self, Server},
    peer::{Carries, Kind, Peer},
    report::{Report, Row},
};
use crate::node::Datapath;

const CONTENDERS: [Kind; 6] = [
    Kind::Bare,
    Kind::KernelVxlan,
    Kind::Flannel,
    Kind::Ours(Datapath::Kernel),
    Kind::Ours(Datapath::Xdp),
    Kind::Ours(Datapath::Tc),
];

/// Names of what is measured; the order of a row's samples.
const MEASURES: [&str; 6] =
    ["1 TCP Gbit/s", "CPU s/Gbit", "4 TCP Gbit/s", "UDP 64 B kpps", "RTT p50 µs", "RTT p99 µs"];

pub fn run(options: &Options) -> Result<()> {
    for carries in [Carries::Gso, Carries::Mtu] {
        on_wire(options, carries).with_context(|| format!("wire {carries}"))?;
    }
    Ok(())
}

fn on_wire(options: &Options, carries: Carries) -> Result<()> {
    let mut contenders = Vec::new();
    for kind in CONTENDERS {
        eprintln!("    wire {carries}: setting up {kind}");
        let peer = Peer::set_up(kind, carries).with_context(|| format!("cannot set up {kind}"))?;
        let server = Server::start(&peer)?;
        contenders.push((peer, server, Row::new(kind.to_string(), &MEASURES)));
    }
    for round in 1..=options.rounds {
        for (peer, _, row) in &mut contenders {
            let kind = peer.kind;
            let sample = sample(peer, options).with_context(|| format!("{kind}, round {round}"))?;
            eprintln!(
                "    wire {carries}, round {round} of {}: {kind}: {:.1} Gbit/s",
                options.rounds, sample[0]
            );
            row.add(&sample);
        }
    }
    let mut report = Report::new(&format!("pods-{carries}"), &MEASURES);
    for (peer, _, row) in contenders {
        if let Some(slow) = peer.slow()? {
            report.note(format!("{}: {slow} packets left the fast path", peer.kind));
        }
        report.push(row);
    }
    report.set("options", json!({ "rounds": options.rounds, "seconds": options.seconds }));
    report.finish(&options.output)
}

fn sample(peer: &Peer, options: &Options) -> Result<[f64; MEASURES.len()]> {
    let one = measure::tcp(peer, 1, options.seconds)?;
    let four = measure::tcp(peer, 4, options.seconds)?;
    let datagrams = measure::udp64(peer, options.seconds)?;
    let latency = measure::latency(peer, options.round_trips)?;
    Ok([one.gbit, one.cpu_per_gbit, four.gbit, datagrams, latency.p50, latency.p99])
}
