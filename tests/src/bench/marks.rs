//! The marks that are to be reached, and whether they were.

mod control;
mod docker;

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use comfy_table::{Table, presets};
use serde::Serialize;

use super::{
    contender::{
        Kind,
        Kind::{Bare, Cilium, Docker, GatewayPort, KernelVxlan, Ours, Redirect, Redirected},
    },
    programs::Job,
    report::Report,
};
use crate::node::Datapath::{Tc, Xdp};

/// All reports there can be.
pub const SECTIONS: [&str; 9] = [
    "pods-gso",
    "pods-mtu",
    "forward-in",
    "forward-in-xdp",
    "forward-out",
    "forward-gateway",
    "programs",
    "control",
    "docker",
];

/// What is asked for.
enum Ask {
    /// Our value by another contender's is at least this.
    AtLeast(Kind, f64),
    /// Our value is no greater than another contender's.
    NoWorse(Kind),
    /// Our value is at most this, in a unit unless the value's name has it.
    AtMost(f64, &'static str),
    /// Our value is at least this.
    NoLess(f64),
    /// Our value is at most this many times our value of another measure.
    AtMostTimes(&'static str, f64),
}

/// One line of the table.
struct Mark {
    what: &'static str,
    section: &'static str,
    measure: &'static str,
    ours: String,
    ask: Ask,
}

/// A mark and what came of it.
#[derive(Debug, Serialize)]
pub struct Judged {
    pub what: String,
    pub section: String,
    pub measure: String,
    pub ours: String,
    pub against: String,
    /// The bound.
    pub mark: String,
    pub measured: Option<f64>,
    pub reached: Option<bool>,
}

fn marks() -> Vec<Mark> {
    let mut marks = Vec::new();
    let mut add = |what, section, measure, ours: String, asks: Vec<Ask>| {
        marks.extend(asks.into_iter().map(|ask| Mark { what, section, measure, ours: ours.clone(), ask }));
    };
    let at_least = |kind, ratio| Ask::AtLeast(kind, ratio);
    // On a veth the daemon chooses tc.
    let (tc, xdp) = (|| Ours(Tc).to_string(), || Ours(Xdp).to_string());
    let (one, four, udp) = ("1 TCP Gbit/s", "4 TCP Gbit/s", "UDP 64 B kpps");
    add(
        "TCP, one stream, wire gso",
        "pods-gso",
        one,
        tc(),
        vec![at_least(KernelVxlan, 1.15), at_least(Bare, 0.98), at_least(Docker, 1.25)],
    );
    add(
        "TCP, one stream, wire mtu",
        "pods-mtu",
        one,
        tc(),
        vec![at_least(KernelVxlan, 1.05), at_least(Bare, 0.98)],
    );
    add("TCP, four streams, wire gso", "pods-gso", four, tc(), vec![at_least(KernelVxlan, 1.05)]);
    add("TCP, four streams, wire mtu", "pods-mtu", four, tc(), vec![at_least(KernelVxlan, 1.05)]);
    for (what, section) in [("UDP 64 B, wire gso", "pods-gso"), ("UDP 64 B, wire mtu", "pods-mtu")] {
        let asks = vec![at_least(KernelVxlan, 1.8), at_least(Cilium, 1.2), at_least(Docker, 2.5)];
        add(what, section, udp, tc(), asks);
    }
    for (what, section) in [("latency, wire gso", "pods-gso"), ("latency, wire mtu", "pods-mtu")] {
        for measure in ["RTT p50 µs", "RTT p99 µs"] {
            add(what, section, measure, tc(), vec![Ask::NoWorse(KernelVxlan)]);
        }
    }
    add(
        "forward in: XDP path, ordinary endpoint",
        "forward-in",
        "Mpps",
        xdp(),
        vec![at_least(KernelVxlan, 3.7)],
    );
    add("forward in: tc path", "forward-in", "Mpps", tc(), vec![at_least(KernelVxlan, 2.7)]);
    add(
        "forward in: XDP path, endpoint with XDP",
        "forward-in-xdp",
        "Mpps",
        Redirected.to_string(),
        vec![at_least(Redirect, 0.90)],
    );
    add(
        "forward out: tc path",
        "forward-out",
        "Mpps",
        tc(),
        vec![at_least(KernelVxlan, 2.1), at_least(Bare, 1.35)],
    );
    add(
        "forward out: gateway port",
        "forward-gateway",
        "Mpps",
        GatewayPort.to_string(),
        vec![at_least(Redirect, 0.85)],
    );
    for (job, limit) in [(Job::Encapsulate, 150.0), (Job::StripXdp, 80.0)] {
        add("programs", "programs", "1 k ns", job.name().into(), vec![Ask::AtMost(limit, " ns")]);
    }
    for job in Job::ALL {
        add(
            "cost at 1 M endpoints",
            "programs",
            "1 M ns",
            job.name().into(),
            vec![Ask::AtMostTimes("1 k ns", 1.3)],
        );
    }
    marks.extend(control::marks());
    marks.extend(docker::marks());
    marks
}

impl Mark {
    fn judge(&self, report: Option<&Report>) -> Judged {
        let of = |contender: &str, measure| report.and_then(|report| report.median(contender, measure));
        let ours = of(&self.ours, self.measure);
        let by = |ratio: Option<f64>, bound: f64| (ratio, ratio.map(|ratio| ratio >= bound));
        let (against, mark, (measured, reached)) = match &self.ask {
            Ask::AtLeast(kind, ratio) => {
                let theirs = of(&kind.to_string(), self.measure);
                (
                    kind.to_string(),
                    format!("≥ {ratio:.2} x"),
                    by(ours.zip(theirs).map(|(o, t)| o / t), *ratio),
                )
            }
            Ask::NoWorse(kind) => {
                let theirs = of(&kind.to_string(), self.measure);
                let ratio = ours.zip(theirs).map(|(o, t)| o / t);
                (kind.to_string(), "≤ 1.00 x".into(), (ratio, ratio.map(|ratio| ratio <= 1.0)))
            }
            Ask::AtMost(limit, unit) => {
                (String::new(), format!("≤ {limit:.0}{unit}"), (ours, ours.map(|o| o <= *limit)))
            }
            Ask::NoLess(limit) => (String::new(), format!("≥ {limit:.0}"), (ours, ours.map(|o| o >= *limit))),
            Ask::AtMostTimes(measure, times) => {
                let ratio = ours.zip(of(&self.ours, measure)).map(|(o, t)| o / t);
                let column = measure.trim_end_matches(" ns");
                (
                    format!("at {column}"),
                    format!("≤ {times:.2} x"),
                    (ratio, ratio.map(|ratio| ratio <= *times)),
                )
            }
        };
        Judged {
            what: self.what.into(),
            section: self.section.into(),
            measure: self.measure.into(),
            ours: self.ours.clone(),
            against,
            mark,
            measured,
            reached,
        }
    }
}

impl Judged {
    fn cells(&self) -> [String; 7] {
        let measured = self.measured.map_or("–".into(), |measured| format!("{measured:.2}"));
        let verdict = match self.reached {
            Some(true) => "reached",
            Some(false) => "NOT REACHED",
            None => "not measured",
        };
        [&self.what, &self.measure, &self.ours, &self.against, &self.mark, &measured, &verdict.to_owned()]
            .map(ToString::to_string)
    }
}

const HEADER: [&str; 7] = ["what", "measure", "ours", "against", "mark", "measured", "verdict"];

/// Judges what a folder has, prints it, and writes `marks.json` and `README.md`.
pub fn judge(output: &Path) -> Result<()> {
    let mut reports = Vec::new();
    for section in SECTIONS {
        reports.extend(Report::read(output, section)?);
    }
    let judged: Vec<_> = marks()
        .iter()
        .map(|mark| mark.judge(reports.iter().find(|report| report.section == mark.section)))
        .collect();
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(HEADER);
    for mark in &judged {
        table.add_row(mark.cells());
    }
    eprintln!("\n{table}");
    let write = |name: &str, text: Vec<u8>| {
        let file = output.join(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    };
    fs::create_dir_all(output)?;
    write("marks.json", serde_json::to_vec_pretty(&judged)?)?;
    write("README.md", markdown(&reports, &judged).into_bytes())
}

/// The tables for a README: each section's medians, then the marks.
fn markdown(reports: &[Report], judged: &[Judged]) -> String {
    let mut lines = vec!["![Benchmark](bench.svg)".to_owned()];
    for report in reports {
        lines.extend([String::new(), report.title.clone(), String::new()]);
        lines.push(line(std::iter::once("").chain(report.measures.iter().map(String::as_str))));
        lines.push(line(std::iter::repeat_n("---", report.measures.len() + 1)));
        for row in &report.rows {
            let values = report.measures.iter().map(|measure| row.shown(measure));
            lines.push(line(std::iter::once(row.contender.clone()).chain(values)));
        }
        let missing = report.notes.iter().filter(|note| note.starts_with("MISSING"));
        lines.extend(missing.flat_map(|note| [String::new(), note.clone()]));
    }
    lines.extend([
        String::new(),
        "Marks".to_owned(),
        String::new(),
        line(HEADER),
        line(HEADER.map(|_| "---")),
    ]);
    lines.extend(judged.iter().map(|mark| line(mark.cells())));
    if let Some(report) = reports.first() {
        let rounds = reports.iter().map(Report::rounds).min().unwrap_or(0);
        let by = format!("Medians of {rounds} or more rounds, `cargo xtask bench`, {}.", report.machine);
        lines.extend([String::new(), by]);
    }
    lines.join("\n") + "\n"
}

fn line<T: AsRef<str>>(cells: impl IntoIterator<Item = T>) -> String {
    let cells: Vec<_> = cells.into_iter().map(|cell| format!(" {} |", cell.as_ref())).collect();
    format!("|{}", cells.concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::Row;

    #[test]
    fn a_mark_is_reached_missed_or_not_measured() {
        let mut report = Report::new("forward-in", "in", &["Mpps"]);
        for (contender, value) in
            [("kernel VXLAN + bridge", 1.0), ("overlay, xdp", 3.8), ("overlay, tc", 2.0)]
        {
            let mut row = Row::new(contender.into(), &["Mpps"]);
            row.add(&[value]);
            report.push(row);
        }
        let verdict = |what: &str| {
            let marks = marks();
            let mark = marks.iter().find(|mark| mark.what == what).expect("it is a mark");
            mark.judge(Some(&report).filter(|report| report.section == mark.section)).reached
        };
        assert_eq!(verdict("forward in: XDP path, ordinary endpoint"), Some(true));
        assert_eq!(verdict("forward in: tc path"), Some(false));
        assert_eq!(verdict("forward out: tc path"), None);
    }
}
