//! Medians and spreads, as a table on the terminal and as JSON in a file.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use comfy_table::{Table, presets};
use serde_json::{Map, Value, json};

/// The samples of one contender.
pub struct Row {
    name: String,
    samples: Vec<Vec<f64>>,
}

/// What a section came to.
pub struct Report {
    section: String,
    measures: Vec<&'static str>,
    rows: Vec<Row>,
    notes: Vec<String>,
    more: Map<String, Value>,
}

// === impl Row ===

impl Row {
    pub fn new(name: String, measures: &[&str]) -> Self {
        Self { name, samples: vec![Vec::new(); measures.len()] }
    }

    /// Adds one round, a value for each measure.
    pub fn add(&mut self, round: &[f64]) {
        for (samples, value) in self.samples.iter_mut().zip(round) {
            samples.push(*value);
        }
    }
}

// === impl Report ===

impl Report {
    pub fn new(section: &str, measures: &[&'static str]) -> Self {
        let measures = measures.to_vec();
        Self { section: section.into(), measures, rows: Vec::new(), notes: Vec::new(), more: Map::new() }
    }

    pub fn push(&mut self, row: Row) {
        self.rows.push(row);
    }

    pub fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    pub fn set(&mut self, name: &str, value: Value) {
        self.more.insert(name.into(), value);
    }

    /// Prints the table and writes `<section>.json`.
    pub fn finish(&self, output: &Path) -> Result<()> {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header([&[self.section.as_str()][..], &self.measures].concat());
        for row in &self.rows {
            let cells = row.samples.iter().map(|samples| shown(samples));
            table.add_row(std::iter::once(row.name.clone()).chain(cells));
        }
        eprintln!("\n{table}");
        eprintln!("medians of {} rounds; ± half the spread from least to most, in percent", self.rounds());
        for note in &self.notes {
            eprintln!("{note}");
        }
        eprintln!("{}\n", machine());
        fs::create_dir_all(output)?;
        let file = output.join(format!("{}.json", self.section));
        fs::write(&file, serde_json::to_vec_pretty(&self.json())?)
            .with_context(|| format!("cannot write {}", file.display()))
    }

    fn rounds(&self) -> usize {
        self.rows.first().and_then(|row| row.samples.first()).map_or(0, Vec::len)
    }

    fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let measures = self.measures.iter().zip(&row.samples);
            let measures: Map<_, _> = measures
                .map(|(name, samples)| {
                    ((*name).to_owned(), json!({ "median": median(samples), "samples": samples }))
                })
                .collect();
            json!({ "contender": row.name, "measures": measures })
        });
        let mut all = self.more.clone();
        all.insert("section".into(), json!(self.section));
        all.insert("machine".into(), json!(machine()));
        all.insert("notes".into(), json!(self.notes));
        all.insert("rows".into(), rows.collect());
        Value::Object(all)
    }
}

fn shown(samples: &[f64]) -> String {
    let least = samples.iter().copied().fold(f64::INFINITY, f64::min);
    let most = samples.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let median = median(samples);
    format!("{median:.2} ±{:.0}%", (most - least) / 2.0 / median * 100.0)
}

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The machine and its kernel, in one line.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    let cpuinfo = read("/proc/cpuinfo");
    let models: Vec<_> = cpuinfo.lines().filter_map(|line| line.strip_prefix("model name")).collect();
    let model = models.first().map_or("unknown CPU", |model| model.trim_start_matches([' ', '\t', ':']));
    format!("{} x {model}, Linux {}", models.len(), kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_middles() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
    }
}
