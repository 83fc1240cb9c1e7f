//! What came of it: a table of kernels, cards and results.

use std::path::Path;

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
    /// Program, kernel and how many instructions the verifier processed.
    verified: Vec<(String, String, String)>,
}

impl Report {
    /// Adds what a step came to on a kernel.
    pub fn add(&mut self, kernel: &str, outcome: Outcome) {
        self.rows.extend(outcome.rows);
        let verified = outcome.verified.into_iter();
        self.verified.extend(verified.map(|(program, count)| (program, kernel.to_owned(), count)));
    }

    /// Prints the tables, and writes them into a file.
    ///
    /// # Errors
    /// If anything failed.
    pub fn finish(self, file: &Path) -> Result<()> {
        let results = self.rows.iter().map(|Row { kernel, part, passed, detail }| {
            let verdict = if *passed { "ok" } else { "FAILED" };
            vec![kernel.clone(), part.clone(), verdict.to_owned(), detail.clone()]
        });
        let tables = format!("{}\n{}", table(&results.collect::<Vec<_>>()), table(&self.verifier()));
        print!("\n{tables}");
        super::write(file, tables)?;
        let failed = self.rows.iter().filter(|row| !row.passed).count();
        if failed > 0 {
            bail!("{failed} of {} failed; what the guests said is in target/vm/logs", self.rows.len());
        }
        Ok(())
    }

    /// The verifier's instructions: a line for each program, a column for each kernel.
    fn verifier(&self) -> Vec<Vec<String>> {
        let unique = |field: fn(&(String, String, String)) -> &String| {
            let mut values: Vec<&String> = Vec::new();
            for value in self.verified.iter().map(field) {
                if !values.contains(&value) {
                    values.push(value);
                }
            }
            values
        };
        let (programs, kernels) = (unique(|(program, ..)| program), unique(|(_, kernel, _)| kernel));
        if programs.is_empty() {
            return Vec::new();
        }
        let mut heading = vec!["verifier's instructions".to_owned()];
        heading.extend(kernels.iter().map(|kernel| (*kernel).clone()));
        let lines = programs.iter().map(|program| {
            let count = |kernel: &&String| {
                let found = self.verified.iter().find(|(p, k, _)| p == *program && k == *kernel);
                found.map_or_else(|| "-".to_owned(), |(.., count)| count.clone())
            };
            std::iter::once((*program).clone()).chain(kernels.iter().map(count)).collect()
        });
        std::iter::once(heading).chain(lines).collect()
    }
}

/// Columns of equal width.
fn table(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |line: &Vec<String>| {
        let fields = line.iter().zip(&widths).map(|(field, width)| format!("{field:width$}"));
        format!("{}\n", fields.collect::<Vec<_>>().join("  ").trim_end())
    };
    lines.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifiers_counts_are_a_column_for_each_kernel() {
        let mut report = Report::default();
        for (kernel, program, count) in
            [("5.10", "uplink_in", "7"), ("6.1", "uplink_in", "12"), ("6.1", "new", "1")]
        {
            let verified = vec![(program.to_owned(), count.to_owned())];
            report.add(kernel, Outcome { rows: Vec::new(), verified });
        }
        let text = "verifier's instructions  5.10  6.1\nuplink_in                7     12\n\
                    new                      -     1\n";
        assert_eq!(table(&report.verifier()), text);
    }
}
