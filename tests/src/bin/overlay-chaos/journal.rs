//! What was done and what became of it, for the report of a failure.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use overlay_tests::cleanup::lock;

/// A journal; clones write to the same.
#[derive(Clone)]
pub struct Journal {
    begin: Instant,
    entries: Arc<Mutex<Vec<Entry>>>,
}

struct Entry {
    at: Duration,
    step: usize,
    text: String,
}

impl Journal {
    pub fn new() -> Self {
        Self { begin: Instant::now(), entries: Arc::default() }
    }

    /// Notes something about a step.
    pub fn note(&self, step: usize, text: impl Into<String>) {
        let entry = Entry { at: self.begin.elapsed(), step, text: text.into() };
        lock(&self.entries).push(entry);
    }

    /// Writes everything to a file in a folder.
    pub fn keep(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(fs::write(folder.join("steps.txt"), self.from(0))?)
    }

    /// Everything noted about steps from `first` on, in the order of time.
    pub fn from(&self, first: usize) -> String {
        let mut text = String::new();
        for Entry { at, step, text: what } in lock(&self.entries).iter().filter(|entry| entry.step >= first) {
            let _ = writeln!(text, "{:10.3} s  step {step:5}  {what}", at.as_secs_f64());
        }
        text
    }
}
