//! Section `pods`: container to container across two nodes.

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{
    Options,
    contender::{Carries, Contender, Kind},
    measure::{self, Server},
    report::{Report, Row},
};
use crate::node::Datapath;

/// Names of what is measured; the order of a row's samples.
const MEASURES: [&str; 6] =
    ["1 TCP Gbit/s", "CPU s/Gbit", "4 TCP Gbit/s", "UDP 64 B kpps", "RTT p50 µs", "RTT p99 µs"];

pub fn run(options: &Options) -> Result<()> {
    for carries in [Carries::Gso, Carries::Mtu] {
        on_wire(options, carries).with_context(|| format!("wire {carries}"))?;
    }
    Ok(())
}

/// Who is measured on a wire.
fn kinds(carries: Carries) -> Vec<Kind> {
    let mut kinds = vec![
        Kind::Bare,
        Kind::KernelVxlan,
        Kind::Cilium,
        Kind::Docker,
        Kind::Ours(Datapath::Xdp),
        Kind::Ours(Datapath::Tc),
    ];
    if carries == Carries::Gso {
        // What they add over the others does not depend on the wire.
        kinds.extend([Kind::Flannel, Kind::Ours(Datapath::Kernel)]);
    }
    kinds
}

fn on_wire(options: &Options, carries: Carries) -> Result<()> {
    let (section, title) = (format!("pods-{carries}"), format!("container to container, wire {carries}"));
    let mut report = Report::new(&section, &title, &MEASURES);
    let mut contenders = Vec::new();
    for kind in kinds(carries) {
        eprintln!("    wire {carries}: setting up {kind}");
        let set_up = Contender::set_up(kind, carries).with_context(|| format!("cannot set up {kind}"));
        let contender = match set_up {
            // Somebody else's daemon may not run everywhere; the rest can be measured without it.
            Err(error) if kind == Kind::Docker => {
                report.note(format!("MISSING: {kind}: {error:#}"));
                continue;
            }
            set_up => set_up?,
        };
        let server = Server::start(&contender)?;
        contenders.push((contender, server, Row::new(kind.to_string(), &MEASURES)));
    }
    for round in 1..=options.rounds {
        for (contender, _, row) in &mut contenders {
            let kind = contender.kind;
            let sample = sample(contender, options).with_context(|| format!("{kind}, round {round}"))?;
            eprintln!(
                "    wire {carries}, round {round} of {}: {kind}: {:.1} Gbit/s, {:.0} kpps, {:.0} µs",
                options.rounds, sample[0], sample[3], sample[4]
            );
            row.add(&sample);
        }
    }
    for (contender, _, row) in contenders {
        if let Some((forwarded, slow)) = contender.forwarded_and_slow()? {
            report.note(format!(
                "{}: programs forwarded {forwarded} packets; {slow} left the fast path",
                contender.kind
            ));
        }
        report.push(row);
    }
    report.options =
        json!({ "rounds": options.rounds, "seconds": options.seconds, "round_trips": options.round_trips });
    report.finish(&options.output)
}

fn sample(contender: &Contender, options: &Options) -> Result<[f64; MEASURES.len()]> {
    let one = measure::tcp(contender, 1, options.seconds)?;
    let four = measure::tcp(contender, 4, options.seconds)?;
    let datagrams = measure::udp64(contender, options.seconds)?;
    let latency = measure::latency(contender, options.round_trips)?;
    Ok([one.gbit, one.cpu_per_gbit, four.gbit, datagrams, latency.p50, latency.p99])
}
