//! From a record in etcd to the row in a map of another node.

use std::{
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use super::{maps::Maps, scene::Scene, writer::Writer};
use crate::exec::Process;

/// Endpoints that take turns.
const GUESTS: u32 = 256;

/// How long a record may take.
const LIMIT: Duration = Duration::from_mins(1);

/// A round ends after this, with fewer samples, where each takes long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at the map. The machine has other things to do as well.
const LOOK: Duration = Duration::from_micros(20);

/// Milliseconds from etcd's acknowledgement of an endpoint to its rows in the node's maps, in order. Between
/// two endpoints there is a pause of other lengths than anything in the daemon has.
pub fn measure(scene: &Scene, maps: &Maps, samples: usize) -> Result<Vec<f64>> {
    let mut times = Vec::with_capacity(samples);
    let begun = Instant::now();
    for (sample, number) in (0..samples).zip((0..GUESTS).cycle()) {
        times.push(one(scene, maps, number)?);
        if begun.elapsed() > PATIENCE {
            break;
        }
        thread::sleep(Duration::from_micros(5_000 + sample as u64 * 7_919 % 10_000));
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// The same for as long as a command runs, whatever it ends with: how long it ran, and the slowest.
pub fn beside(scene: &Scene, maps: &Maps, command: &mut Command) -> Result<(Duration, f64)> {
    let begun = Instant::now();
    let process = Process::spawn(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
    let mut slowest = 0.0_f64;
    for number in (0..GUESTS).cycle() {
        if process.ended()?.is_some() {
            break;
        }
        slowest = slowest.max(one(scene, maps, number)?);
    }
    Ok((begun.elapsed(), slowest))
}

/// Milliseconds that one endpoint takes.
fn one(scene: &Scene, maps: &Maps, number: u32) -> Result<f64> {
    let guest = Writer::guest(number);
    let acknowledged = scene.writer.attach(guest)?;
    wait(|| maps.agree(guest, true))?;
    let took = acknowledged.elapsed().as_secs_f64() * 1e3;
    scene.writer.detach(guest)?;
    wait(|| maps.agree(guest, false))?;
    Ok(took)
}

/// The value that so many percent do not exceed.
pub fn at(sorted: &[f64], percent: usize) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last * percent).div_ceil(100)).copied().unwrap_or(f64::NAN)
}

fn wait(done: impl Fn() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !done()? {
        if begun.elapsed() > LIMIT {
            bail!("a record was not in the maps after {} s", LIMIT.as_secs());
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<_> = (1..=200).map(f64::from).collect();
        assert_eq!([50, 99, 100].map(|percent| at(&values, percent).to_string()), ["101", "199", "200"]);
    }
}
