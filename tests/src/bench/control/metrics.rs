//! What etcd tells of itself.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use anyhow::{Context as _, Result};

use crate::wire::Wire;

/// All figures of etcd's `/metrics` at one moment.
pub struct Metrics(String);

impl Metrics {
    /// Asks for them.
    pub fn read(wire: &Wire) -> Result<Self> {
        let text = wire.netns().run(|| {
            let mut stream = TcpStream::connect((Wire::gateway(), 2379))?;
            stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        });
        Ok(Self(text.context("etcd does not tell its metrics")?))
    }

    /// The sum of a figure over all its labels.
    pub fn sum(&self, name: &str) -> f64 {
        let lines = self.0.lines().filter_map(|line| line.strip_prefix(name));
        let of_it = lines.filter(|rest| rest.starts_with(['{', ' ']));
        of_it.filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_the_sum_of_its_labels() {
        let metrics = Metrics("# HELP a\na{b=\"1 2\"} 3\na{b=\"c\"} 1e+01\nab 5\nd 7\n".into());
        assert_eq!(["a", "d"].map(|name| metrics.sum(name).to_string()), ["13", "7"]);
    }
}
