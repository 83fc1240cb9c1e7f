//! Section `programs`: nanoseconds that each program takes for a packet, by how many endpoints there are.
//!
//! The kernel adds up the time a program runs (`BPF_ENABLE_STATS`, Linux 5.8). The packets are live
//! frames: each is new to the program, whose helpers do all that they do to a real one, which a repeated
//! test run of one packet could not have. What an empty program takes in the same place is subtracted.

use anyhow::{Context as _, Result, ensure};
use aya::sys::{Stats, enable_stats};
use serde_json::json;

use self::fixture::Fixture;
use super::{
    Options,
    core::OneCore,
    report::{Report, Row},
};

mod fixture;

/// How many endpoints there are on other nodes.
const ENDPOINTS: [u32; 3] = [1_000, 100_000, 1_000_000];
/// Names of what is measured, in the same order.
const MEASURES: [&str; 3] = ["1 k ns", "100 k ns", "1 M ns"];

/// A program at one of its jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// `endpoint_in` sends to another node.
    Encapsulate,
    /// `endpoint_in` delivers on the same node.
    Switch,
    /// `uplink_xdp` strips.
    StripXdp,
    /// `uplink_in` delivers what `uplink_xdp` stripped.
    Deliver,
    /// `uplink_in` alone strips and delivers.
    StripTc,
}

impl Job {
    pub const ALL: [Self; 5] =
        [Self::Encapsulate, Self::Switch, Self::StripXdp, Self::Deliver, Self::StripTc];

    /// The name in the table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Encapsulate => "encapsulate (endpoint_in)",
            Self::Switch => "deliver on the node (endpoint_in)",
            Self::StripXdp => "strip (uplink_xdp)",
            Self::Deliver => "deliver what XDP stripped (uplink_in)",
            Self::StripTc => "strip and deliver (uplink_in)",
        }
    }

    const fn program(self) -> &'static str {
        match self {
            Self::Encapsulate | Self::Switch => "endpoint_in",
            Self::StripXdp => "uplink_xdp",
            Self::Deliver | Self::StripTc => "uplink_in",
        }
    }

    const fn empty(self) -> &'static str {
        if matches!(self, Self::StripXdp) { "nothing_xdp" } else { "nothing" }
    }
}

pub fn run(options: &Options) -> Result<()> {
    let _core = OneCore::take()?;
    let _stats = enable_stats(Stats::RunTime).context("the kernel does not count run times")?;
    let mut report =
        Report::new("programs", "ns per packet, keys at random, by endpoints in the maps", &MEASURES);
    let mut fixtures = Vec::new();
    for endpoints in ENDPOINTS {
        eprintln!("    programs: filling the maps with {endpoints} endpoints");
        fixtures.push(Fixture::new(endpoints).with_context(|| format!("{endpoints} endpoints"))?);
    }
    let mut rows: Vec<_> =
        Job::ALL.iter().map(|job| (*job, Row::new(job.name().into(), &MEASURES))).collect();
    let mut empty: Vec<_> = ["nothing", "nothing_xdp"]
        .iter()
        .map(|name| (*name, Row::new(format!("an empty program ({name}), subtracted"), &MEASURES)))
        .collect();
    for round in 0..=options.forward_rounds {
        let mut nothing = Vec::new();
        for (name, row) in &mut empty {
            let mut values = Vec::new();
            for fixture in &mut fixtures {
                values.push(fixture.empty(name, options)?);
            }
            // The first round fills caches.
            if round > 0 {
                row.add(&values);
            }
            nothing.push((*name, values));
        }
        for (job, row) in &mut rows {
            let (_, nothing) =
                nothing.iter().find(|(name, _)| *name == job.empty()).context("no empty program")?;
            let mut values = Vec::new();
            for (fixture, nothing) in fixtures.iter_mut().zip(nothing) {
                values.push(fixture.measure(*job, options).with_context(|| job.name())? - nothing);
            }
            if round > 0 {
                row.add(&values);
            }
        }
        if round > 0 {
            let shown: Vec<_> =
                rows.iter().map(|(job, row)| format!("{} {:.0}", job.program(), row.last())).collect();
            eprintln!("    programs, round {round} of {}: {} ns", options.forward_rounds, shown.join(", "));
        }
    }
    for (_, row) in rows.into_iter().chain(empty.into_iter().map(|(_, row)| (Job::Switch, row))) {
        report.push(row);
    }
    report.note(
        "measured in place with live frames; the best of a round's bursts, less an empty program".into(),
    );
    report.options =
        json!({ "rounds": options.forward_rounds, "bursts": options.bursts, "frames": options.frames });
    ensure!(report.rounds() > 0, "nothing was measured");
    report.finish(&options.output)
}
