//! What the doctor found, shown: each finding with its cause and its cure.

use super::output::Show;
use crate::api::{Finding, Report, Severity};

impl Show for Report {
    fn text(&self) -> String {
        let mut text = String::new();
        if self.findings.is_empty() {
            text.push_str("nothing found\n");
        }
        for Finding { severity, what, cause, cure, area: _ } in &self.findings {
            let severity = match severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            };
            text.extend([severity, ": ", what, "\n  cause: ", cause, "\n  cure:  ", cure, "\n"]);
        }
        for (index, finding) in self.fixed.iter().enumerate() {
            if index == 0 {
                text.push_str("\nFixed:\n");
            }
            text.extend(["  ", &finding.what, "\n"]);
        }
        for (index, note) in self.notes.iter().enumerate() {
            if index == 0 {
                text.push_str("\nTo know:\n");
            }
            text.extend(["  ", note, "\n"]);
        }
        text
    }
}
