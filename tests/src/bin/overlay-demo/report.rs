//! Progress while it runs, and the table at the end.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use comfy_table::{Table, presets};

/// Set when Ctrl-C is being answered: whatever fails from now on fails because of that.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Says that the demo is being ended.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// What one check came to.
struct Row {
    title: &'static str,
    passed: bool,
    detail: String,
    took: Duration,
}

/// All checks so far.
pub struct Report {
    rows: Vec<Row>,
    begin: Instant,
}

impl Report {
    pub fn new() -> Self {
        Self { rows: Vec::new(), begin: Instant::now() }
    }

    /// Runs something that everything else needs, which says what it did.
    ///
    /// # Errors
    /// If it fails: there is nothing to go on with.
    pub fn require<T>(
        &mut self,
        title: &'static str,
        work: impl FnOnce() -> Result<(T, String)>,
    ) -> Result<T> {
        let begin = Self::announce(title);
        let (value, detail) = work()?;
        self.record(title, begin, Ok(detail));
        Ok(value)
    }

    /// Runs a check and goes on whatever comes of it. What it returns is shown in the table.
    pub fn check(&mut self, title: &'static str, work: impl FnOnce() -> Result<String>) {
        let begin = Self::announce(title);
        self.record(title, begin, work());
    }

    fn announce(title: &str) -> Instant {
        println!("\n==> {title}");
        Instant::now()
    }

    fn record(&mut self, title: &'static str, begin: Instant, result: Result<String>) {
        while INTERRUPTED.load(Ordering::Relaxed) {
            // The other thread ends the program.
            thread::park();
        }
        let took = begin.elapsed();
        let (passed, detail) = match result {
            Ok(detail) => (true, detail),
            Err(error) => (false, format!("{error:#}")),
        };
        println!("    {}: {detail} ({:.1} s)", verdict(passed), took.as_secs_f32());
        self.rows.push(Row { title, passed, detail, took });
    }

    /// Prints the table; whether all passed.
    pub fn finish(self) -> bool {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(["check", "", "what was seen", "seconds"]);
        for Row { title, passed, detail, took } in &self.rows {
            // The rest of a long error is above.
            let detail = detail.lines().next().unwrap_or_default();
            table.add_row([*title, verdict(*passed), detail, &format!("{:.1}", took.as_secs_f32())]);
        }
        println!("\n{table}");
        let failed = self.rows.iter().filter(|row| !row.passed).count();
        let seconds = self.begin.elapsed().as_secs_f32();
        if failed == 0 {
            println!("All {} checks passed in {seconds:.0} s; everything is cleaned up.", self.rows.len());
        } else {
            println!(
                "{failed} of {} checks failed ({seconds:.0} s); everything is cleaned up.",
                self.rows.len()
            );
        }
        failed == 0
    }
}

const fn verdict(passed: bool) -> &'static str {
    if passed { "ok" } else { "FAILED" }
}
