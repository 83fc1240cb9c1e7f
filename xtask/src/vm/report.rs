//! What came of it: a table of kernels, cards and results.

use anyhow::{Result, bail};

use super::machine::Reported;

/// One step on one kernel.
pub struct Outcome {
    rows: Vec<Row>,
    verified: Vec<(String, String)>,
}

struct Row {
    kernel: String,
    part: String,
    passed: bool,
    detail: String,
}

impl Outcome {
    /// Reads what guests reported.
    pub fn of(kernel: &str, part: &str, reports: Vec<Reported>) -> Self {
        let mut outcome = Self { rows: Vec::new(), verified: Vec::new() };
        let mut row = |part: &str, passed: bool, detail: String| {
            outcome.rows.push(Row { kernel: kernel.to_owned(), part: part.to_owned(), passed, detail });
        };
        for report in reports {
            for line in report.lines {
                let fields: Vec<&str> = line.iter().map(String::as_str).collect();
                match fields[..] {
                    ["result", part, verdict, detail] => row(part, verdict == "ok", detail.to_owned()),
                    ["verified", program, count] => {
                        outcome.verified.push((program.to_owned(), count.to_owned()));
                    }
                    _ => {}
                }
            }
            if !report.complete {
                row(part, false, format!("did not come to its end: see {}", report.console.display()));
            }
        }
        outcome
    }
}

/// Everything so far.
#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// Adds what a step came to.
    pub fn add(&mut self, mut outcome: Outcome) {
        if let Some(kernel) = outcome.rows.first().map(|row| row.kernel.clone())
            && !outcome.verified.is_empty()
        {
            let counts = outcome.verified.iter().map(|(program, count)| format!("{program} {count}"));
            let detail = counts.collect::<Vec<_>>().join(", ");
            let part = "verifier's instructions".to_owned();
            self.rows.push(Row { kernel, part, passed: true, detail });
        }
        self.rows.append(&mut outcome.rows);
    }

    /// Prints the table.
    ///
    /// # Errors
    /// If anything failed.
    pub fn finish(self) -> Result<()> {
        let width = |field: fn(&Row) -> &str| self.rows.iter().map(|row| field(row).len()).max().unwrap_or(0);
        let (kernels, parts) = (width(|row| &row.kernel), width(|row| &row.part));
        println!();
        for Row { kernel, part, passed, detail } in &self.rows {
            let verdict = if *passed { "ok" } else { "FAILED" };
            println!("{kernel:kernels$}  {part:parts$}  {verdict:6}  {detail}");
        }
        let failed = self.rows.iter().filter(|row| !row.passed).count();
        if failed > 0 {
            bail!("{failed} of {} failed; what the guests said is in target/vm/logs", self.rows.len());
        }
        Ok(())
    }
}
