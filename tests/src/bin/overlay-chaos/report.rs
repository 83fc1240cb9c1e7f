//! Progress while it runs, what came of it, and what to look at after a failure.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;
use comfy_table::{Table, presets};

use crate::{journal::Journal, oracle::Settled, stage::Stage, step::Step};

/// What has been done so far.
pub struct Report {
    begin: Instant,
    seed: u64,
    wanted: usize,
    done: usize,
    kinds: BTreeMap<&'static str, usize>,
    settled: Vec<Settled>,
}

impl Report {
    pub fn new(seed: u64, wanted: usize) -> Self {
        let begin = Instant::now();
        Self { begin, seed, wanted, done: 0, kinds: BTreeMap::new(), settled: Vec::new() }
    }

    pub fn count(&mut self, step: &Step) {
        self.done += 1;
        *self.kinds.entry(step.kind()).or_default() += 1;
    }

    /// Takes what a check came to, and says so.
    pub fn settled(&mut self, settled: Settled) {
        let Self { begin, done, wanted, .. } = self;
        let rate = f64::from(u32::try_from(*done).unwrap_or(u32::MAX)) / begin.elapsed().as_secs_f64();
        println!(
            "step {done:5} of {wanted}: {:2} containers, {:3} datagrams, all as it should be after {:4.1} s; {rate:.1} steps/s",
            settled.guests,
            settled.heard,
            settled.took.as_secs_f64()
        );
        self.settled.push(settled);
    }

    /// Says what was done, once all went well.
    pub fn finish(&self) {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(["step", "times"]);
        for (kind, times) in &self.kinds {
            table.add_row([(*kind).to_owned(), times.to_string()]);
        }
        let mut took: Vec<_> = self.settled.iter().map(|settled| settled.took).collect();
        took.sort_unstable();
        let at = |part: usize| took.get(took.len() * part / 100).or(took.last()).copied().unwrap_or_default();
        let heard: usize = self.settled.iter().map(|settled| settled.heard).sum();
        println!("{table}");
        println!(
            "seed {}: {} steps and {} checks in {:.0} s, all passed. {heard} datagrams heard where they should be. \
             From healing to all well: half within {:.1} s, 99 of 100 within {:.1} s, the longest {:.1} s.",
            self.seed,
            self.done,
            self.settled.len(),
            self.begin.elapsed().as_secs_f64(),
            at(50).as_secs_f64(),
            at(99).as_secs_f64(),
            took.last().copied().unwrap_or(Duration::ZERO).as_secs_f64()
        );
    }

    /// Says what failed after which steps, and how to have it again; keeps what the daemons said.
    pub fn fail(
        &self,
        error: &anyhow::Error,
        journal: &Journal,
        checked: usize,
        stage: &Stage,
        folder: &Path,
    ) -> Result<()> {
        println!("\nsteps since the last time all was well:\n{}", journal.from(checked + 1));
        println!("FAILED after step {}: {error:#}", self.done);
        journal.keep(folder)?;
        for node in &stage.cluster.nodes {
            fs::write(folder.join(format!("{}.log", node.name())), node.log())?;
            let status = node.ctl(&["status"]).unwrap_or_else(|error| format!("{error:#}"));
            fs::write(folder.join(format!("{}.status", node.name())), status)?;
        }
        println!("all steps and what the daemons said: {}", folder.display());
        println!("again: cargo xtask chaos --seed {} --until {}", self.seed, self.done);
        Ok(())
    }
}
