//! Lines for the host.

use std::{fs::File, io::Write as _};

use anyhow::{Context as _, Result};

/// The guest's second serial port, which QEMU writes into a file.
const PORT: &str = "/dev/ttyS1";

/// The way to the host. A line that cannot be written is missed there.
pub struct Report(File);

impl Report {
    /// Opens it.
    pub fn open() -> Result<Self> {
        let file = File::options().write(true).open(PORT).with_context(|| format!("cannot open {PORT}"))?;
        Ok(Self(file))
    }

    /// Says what is done now.
    pub fn progress(&self, what: &str) {
        self.line(&["progress", what]);
    }

    /// What a part came to.
    pub fn result(&self, part: &str, result: Result<String>) {
        match result {
            Ok(detail) => self.line(&["result", part, "ok", &detail]),
            Err(error) => self.line(&["result", part, "FAILED", &format!("{error:#}")]),
        }
    }

    /// How many instructions of a program the verifier processed.
    pub fn verified(&self, program: &str, count: &str) {
        self.line(&["verified", program, count]);
    }

    /// That all is done.
    pub fn end(&self) {
        self.line(&["end"]);
    }

    fn line(&self, fields: &[&str]) {
        let fields: Vec<_> = fields.iter().map(|field| field.replace(['\t', '\n', '\r'], " ")).collect();
        let _ = writeln!(&self.0, "{}", fields.join("\t"));
        let _ = (&self.0).flush();
    }
}
