//! Medians and spreads, as a table on the terminal and as JSON in a file.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};
use comfy_table::{Table, presets};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The samples of one contender.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub contender: String,
    /// By measure.
    pub samples: BTreeMap<String, Vec<f64>>,
    /// Their medians, by measure; for whoever reads the file.
    #[serde(default)]
    medians: BTreeMap<String, f64>,
    #[serde(skip)]
    measures: Vec<&'static str>,
}

/// What a section came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub section: String,
    pub title: String,
    pub machine: String,
    pub measures: Vec<String>,
    pub options: Value,
    pub rows: Vec<Row>,
    pub notes: Vec<String>,
}

// === impl Row ===

impl Row {
    pub fn new(contender: String, measures: &[&'static str]) -> Self {
        let samples = measures.iter().map(|measure| ((*measure).to_owned(), Vec::new())).collect();
        Self { contender, samples, medians: BTreeMap::new(), measures: measures.to_vec() }
    }

    /// Adds one round, a value for each measure.
    pub fn add(&mut self, round: &[f64]) {
        for (measure, value) in self.measures.iter().zip(round) {
            self.samples.entry((*measure).to_owned()).or_default().push(*value);
        }
    }

    /// Adds one value of one measure.
    pub fn add_one(&mut self, measure: &str, value: f64) {
        self.samples.entry(measure.to_owned()).or_default().push(value);
    }

    /// A measure's median and spread; nothing if it was not measured.
    pub fn shown(&self, measure: &str) -> String {
        self.samples.get(measure).map_or_else(String::new, |samples| shown(samples))
    }

    /// A measure's greatest value; nothing if it was not measured.
    pub fn most(&self, measure: &str) -> Option<f64> {
        self.samples.get(measure)?.iter().copied().max_by(f64::total_cmp)
    }

    /// The first measure's newest value.
    pub fn last(&self) -> f64 {
        let first = self.measures.first().and_then(|measure| self.samples.get(*measure));
        first.and_then(|samples| samples.last()).copied().unwrap_or(f64::NAN)
    }
}

// === impl Report ===

impl Report {
    pub fn new(section: &str, title: &str, measures: &[&str]) -> Self {
        Self {
            section: section.into(),
            title: title.into(),
            machine: machine(),
            measures: measures.iter().map(|measure| (*measure).to_owned()).collect(),
            options: Value::Null,
            rows: Vec::new(),
            notes: Vec::new(),
        }
    }

    pub fn push(&mut self, mut row: Row) {
        row.medians = row.samples.iter().map(|(name, samples)| (name.clone(), median(samples))).collect();
        self.rows.push(row);
    }

    /// Says something about the run, at once and in the report.
    pub fn note(&mut self, note: String) {
        eprintln!("    {}: {note}", self.section);
        self.notes.push(note);
    }

    /// The median of a measure of a contender, if it was measured.
    pub fn median(&self, contender: &str, measure: &str) -> Option<f64> {
        let row = self.rows.iter().find(|row| row.contender == contender)?;
        row.samples.get(measure).filter(|samples| !samples.is_empty()).map(|samples| median(samples))
    }

    /// The least number of rounds of any contender.
    pub fn rounds(&self) -> usize {
        let rounds = self.rows.iter().filter_map(|row| row.samples.values().map(Vec::len).min());
        rounds.min().unwrap_or(0)
    }

    /// Prints the table and writes `<section>.json`.
    pub fn finish(&self, output: &Path) -> Result<()> {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(std::iter::once(&self.section).chain(&self.measures));
        for row in &self.rows {
            let cells = self.measures.iter().map(|measure| row.shown(measure));
            table.add_row(std::iter::once(row.contender.clone()).chain(cells));
        }
        eprintln!("\n{}\n{table}", self.title);
        eprintln!("medians of {} rounds; ± half the spread from least to most, in percent", self.rounds());
        for note in &self.notes {
            eprintln!("{note}");
        }
        eprintln!("{}\n", self.machine);
        fs::create_dir_all(output)?;
        let file = output.join(format!("{}.json", self.section));
        fs::write(&file, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("cannot write {}", file.display()))
    }

    /// Reads what [`Self::finish`] wrote for a section; `None` if it was not measured.
    pub fn read(output: &Path, section: &str) -> Result<Option<Self>> {
        let file = output.join(format!("{section}.json"));
        let Ok(text) = fs::read(&file) else { return Ok(None) };
        let report = serde_json::from_slice(&text);
        report.map(Some).with_context(|| format!("{} is no report of this version", file.display()))
    }
}

/// A median with its spread.
fn shown(samples: &[f64]) -> String {
    let median = median(samples);
    match spread(samples) {
        Some(_) if samples.len() == 1 => format!("{median:.2}"),
        Some(spread) => format!("{median:.2} ±{:.0}%", spread * 100.0),
        None => format!("{median:.0}"),
    }
}

/// Half the way from least to most, as a share of the median; `None` if that is zero.
fn spread(samples: &[f64]) -> Option<f64> {
    let least = samples.iter().copied().fold(f64::INFINITY, f64::min);
    let most = samples.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let median = median(samples);
    (median.abs() > f64::EPSILON).then(|| (most - least) / 2.0 / median)
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
pub fn machine() -> String {
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

    #[test]
    fn a_report_is_read_back_as_it_was_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut report = Report::new("forward-in", "in", &["Mpps"]);
        let mut row = Row::new("overlay, tc".into(), &["Mpps"]);
        row.add(&[1.5]);
        report.push(row);
        report.finish(dir.path()).expect("it can be written");
        let read = Report::read(dir.path(), "forward-in").expect("it can be read").expect("it is there");
        assert_eq!(read.median("overlay, tc", "Mpps"), Some(1.5));
        assert_eq!(read.rounds(), 1);
        assert!(Report::read(dir.path(), "programs").expect("nothing is no error").is_none());
    }
}
