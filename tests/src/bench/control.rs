//! Section `control`: how soon, and at what cost, records in etcd are rows in a node's maps, by how many
//! endpoints there are in the cluster.
//!
//! A real etcd has the records of 5,000 nodes and their endpoints in 16 networks, all as attaching writes
//! them. Two nodes run overlayd: `node` has an endpoint in each network and so carries them all, `other`
//! shares one small network with it.

mod attach;
mod cost;
mod figure;
mod load;
mod maps;
mod metrics;
mod population;
mod propagation;
mod scene;
mod start;
mod writer;

use std::{fmt::Display, time::Instant};

use anyhow::{Context as _, Result, ensure};
pub use figure::Figure;
use serde_json::json;

use self::{figure::Figures, maps::Maps, metrics::Metrics, propagation::at, scene::Scene, writer::COMERS};
use super::{Options, report::Report};

/// How many endpoints there are, and what that is called in the table.
const SIZES: [(u32, &str); 3] = [(10_000, "10 k"), STARTS, (1_000_000, "1 M")];

/// With so many only starts are measured: what all else costs, the ends tell.
const STARTS: (u32, &str) = (100_000, "100 k");

/// Changes a second that a record competes with.
const BUSY: u32 = 1_000;

/// Attachments, and records in each round.
const ATTACHMENTS: usize = 30;
const RECORDS: usize = 200;

/// A mebibyte.
const MIB: f64 = 1_048_576.0;

pub fn run(options: &Options) -> Result<()> {
    let sizes: Vec<_> = SIZES.into_iter().filter(|(size, _)| *size <= options.endpoints).collect();
    ensure!(!sizes.is_empty(), "fewer than {} endpoints show nothing", SIZES[0].0);
    let names: Vec<_> = sizes.iter().map(|(_, name)| *name).collect();
    let mut report = Report::new("control", "Control plane, by endpoints in the cluster", &names);
    let mut figures = Figures::new();
    eprintln!("    control: setting up");
    let mut scene = Scene::set_up()?;
    scene.writer.nodes()?;
    scene.writer.first_comers()?;
    let mut filled = 0;
    for (size, name) in sizes {
        let begun = Instant::now();
        scene.writer.fill(filled..size)?;
        eprintln!(
            "    control, {name}: {} more endpoints written in {:.0} s",
            size - filled,
            begun.elapsed().as_secs_f32()
        );
        filled = size;
        let measured = Measurement {
            options,
            scene: &mut scene,
            size,
            name,
            figures: &mut figures,
            report: &mut report,
        };
        if let Err(error) = measured.run() {
            // What was measured before is worth telling.
            report.note(format!("MISSING all else from {name} on: {error:#}"));
            break;
        }
    }
    figures.into_rows().into_iter().for_each(|row| report.push(row));
    report.options = json!({
        "endpoints": options.endpoints, "records": RECORDS, "attachments": ATTACHMENTS, "changes": options.changes
    });
    report.finish(&options.output)
}

/// All that is measured with as many endpoints.
struct Measurement<'a> {
    options: &'a Options,
    scene: &'a mut Scene,
    size: u32,
    name: &'static str,
    figures: &'a mut Figures,
    report: &'a mut Report,
}

impl Measurement<'_> {
    /// Measures; what cannot be is named in the report.
    fn run(mut self) -> Result<()> {
        // Whoever comes and goes has room, and the node's own.
        let room = self.size + COMERS * 2;
        let cold = start::cold(self.scene, self.size, room).context("cold start")?;
        self.add(Figure::ColdStart, cold.as_secs_f64());
        let mut maps = None;
        if self.size != STARTS.0 {
            self.scene.start_other().context("start of the other node")?;
            let maps = maps.insert(Maps::open(self.scene.node())?);
            self.part("idle node", Self::idle);
            self.part("propagation", |this| this.propagation(maps));
            self.part("attach", Self::attach);
            self.part("cost", |this| this.cost(maps));
            self.part("burst", |this| this.burst(maps));
        }
        self.part("memory", Self::memory);
        if let Some(maps) = &maps {
            self.part("doctor", |this| this.doctor(maps));
        }
        self.part("warm restart", |this| {
            let (took, rows) = start::warm(this.scene, room)?;
            this.add(Figure::WarmStart, took.as_secs_f64());
            this.add(Figure::WarmRows, to_f64(rows));
            let memory = cost::memory(this.scene.daemon()?)?;
            this.add(Figure::WarmMemory, to_f64(memory.most) / MIB);
            Ok(())
        });
        for node in self.scene.cluster.nodes.iter_mut().filter(|node| node.daemon().is_ok()) {
            node.stop()?;
        }
        Ok(())
    }

    fn idle(&mut self) -> Result<()> {
        let (watches, requests) = load::of_an_idle_node(self.scene)?;
        self.add(Figure::Watches, watches);
        self.add(Figure::IdleRequests, requests);
        Ok(())
    }

    fn propagation(&mut self, maps: &Maps) -> Result<()> {
        for _ in 0..self.options.control_rounds {
            let times = propagation::measure(self.scene, maps, RECORDS)?;
            self.add(Figure::PutP50, at(&times, 50));
            self.add(Figure::PutP99, at(&times, 99));
        }
        for _ in 0..self.options.control_rounds {
            let stream = self.scene.writer.changes(BUSY);
            let times = propagation::measure(self.scene, maps, RECORDS);
            let (_, a_second) = self.scene.writer.stop(stream)?;
            let times = times?;
            self.add(Figure::ChangesMeanwhile, a_second);
            self.add(Figure::BusyP50, at(&times, 50));
            self.add(Figure::BusyP99, at(&times, 99));
        }
        load::caught_up(self.scene, maps).map(|_| ())
    }

    fn attach(&mut self) -> Result<()> {
        let attachments = attach::measure(self.scene, ATTACHMENTS)?;
        let lost = attachments.iter().filter(|a| a.first_ping.is_none()).count();
        let mut pings: Vec<_> = attachments.iter().filter_map(|a| a.first_ping).collect();
        let mut commands: Vec<_> = attachments.iter().map(|a| a.command).collect();
        pings.sort_by(f64::total_cmp);
        commands.sort_by(f64::total_cmp);
        self.add(Figure::Attach, at(&commands, 50));
        self.add(Figure::FirstPing, at(&pings, 50));
        self.add(Figure::SlowestFirstPing, at(&pings, 100));
        self.add(Figure::LostFirstPings, to_f64(lost as u64));
        Ok(())
    }

    fn cost(&mut self, maps: &Maps) -> Result<()> {
        for _ in 0..self.options.control_rounds {
            let cost = load::of_a_change(self.scene, maps)?;
            self.add(Figure::CpuOfChange, cost.node);
            self.add(Figure::BytesOfChange, cost.bytes);
            self.add(Figure::EtcdOfChange, cost.etcd);
        }
        let of_a_watcher = load::of_a_watcher(self.scene, maps)?;
        self.add(Figure::EtcdOfWatcher, of_a_watcher);
        Ok(())
    }

    fn burst(&mut self, maps: &Maps) -> Result<()> {
        let burst = load::sustained(self.scene, maps, self.options.changes)?;
        self.add(Figure::Sustained, burst.kept_up);
        self.add(Figure::Written, burst.written);
        self.add(Figure::CpuOfBurst, burst.cpu);
        Ok(())
    }

    fn memory(&mut self) -> Result<()> {
        let memory = cost::memory(self.scene.daemon()?)?;
        self.add(Figure::Memory, to_f64(memory.now) / MIB);
        self.add(Figure::MostMemory, to_f64(memory.most) / MIB);
        let maps = to_f64(maps::memory(self.scene.node())?);
        self.add(Figure::MapMemory, maps / f64::from(self.size));
        let etcd = Metrics::read(&self.scene.cluster.wire)?;
        self.add(Figure::EtcdData, etcd.sum("etcd_mvcc_db_total_size_in_use_in_bytes") / MIB);
        self.add(Figure::EtcdMemory, etcd.sum("process_resident_memory_bytes") / MIB);
        Ok(())
    }

    fn doctor(&mut self, maps: &Maps) -> Result<()> {
        let mut doctor = self.scene.node().ctl_command(&["doctor"])?;
        let (took, slowest) = propagation::beside(self.scene, maps, &mut doctor)?;
        self.add(Figure::Doctor, took.as_secs_f64());
        self.add(Figure::PutBesideDoctor, slowest);
        let memory = cost::memory(self.scene.daemon()?)?;
        self.add(Figure::DoctorMemory, to_f64(memory.most) / MIB);
        Ok(())
    }

    fn part(&mut self, what: &str, measure: impl FnOnce(&mut Self) -> Result<()>) {
        let begun = Instant::now();
        match measure(self) {
            Ok(()) => {
                eprintln!("    control, {}: {what} took {:.0} s", self.name, begun.elapsed().as_secs_f32());
            }
            Err(error) => self.missing(what, &format!("{error:#}")),
        }
    }

    fn missing(&mut self, what: &str, why: &dyn Display) {
        self.report.note(format!("MISSING {what} at {}: {why}", self.name));
    }

    fn add(&mut self, figure: Figure, value: f64) {
        eprintln!("    control, {}: {} {value:.2}", self.name, figure.name());
        self.figures.add(figure, self.name, value);
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures of a machine of today")]
const fn to_f64(count: u64) -> f64 {
    count as f64
}
