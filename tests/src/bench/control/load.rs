//! What changes cost: the node, and etcd.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{cost, maps::Maps, metrics::Metrics, scene::Scene};

/// How long the node may take to catch up.
const LIMIT: Duration = Duration::from_mins(10);

/// Changes a second while their cost is measured: each is by itself.
const SLOWLY: u32 = 200;

/// How long that goes on.
const PERIOD: Duration = Duration::from_secs(3);

/// For how long nothing is changed to see what nodes ask of etcd.
const IDLE: Duration = Duration::from_secs(10);

/// How many nodes are watched by in addition to see what one costs etcd.
const WATCHERS: usize = 200;

/// What a change of an endpoint costs.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Microseconds of the node's daemon.
    pub node: f64,
    /// Microseconds of etcd.
    pub etcd: f64,
    /// Bytes that come to the node.
    pub bytes: f64,
}

/// Waits until all changes are in the node's maps.
pub fn caught_up(scene: &Scene, maps: &Maps) -> Result<Instant> {
    let begun = Instant::now();
    let expected: Vec<_> = scene.writer.expected().collect();
    let mut first = 0;
    loop {
        let now = Instant::now();
        let mut wrong = None;
        // Who was not as expected is looked at first.
        for index in (first..expected.len()).chain(0..first) {
            let (endpoint, there) = expected[index];
            if !maps.agree(endpoint, there)? {
                wrong = Some(index);
                break;
            }
        }
        let Some(index) = wrong else { return Ok(now) };
        first = index;
        ensure!(begun.elapsed() < LIMIT, "not caught up after {} s", LIMIT.as_secs());
        thread::sleep(Duration::from_micros(500));
    }
}

/// The cost of a change while there are few.
pub fn of_a_change(scene: &Scene, maps: &Maps) -> Result<Cost> {
    let etcd = scene.cluster.etcd.process()?.pid();
    let before = (cost::cpu(scene.daemon()?)?, cost::cpu(etcd)?, scene.received()?);
    let stream = scene.writer.changes(SLOWLY);
    thread::sleep(PERIOD);
    let (count, _) = scene.writer.stop(stream)?;
    caught_up(scene, maps)?;
    let after = (cost::cpu(scene.daemon()?)?, cost::cpu(etcd)?, scene.received()?);
    ensure!(count > 0, "there was no change");
    #[expect(clippy::cast_precision_loss, reason = "some thousands, some megabytes")]
    let (count, bytes) = (count as f64, (after.2 - before.2) as f64);
    let micros = |before: Duration, after: Duration| after.saturating_sub(before).as_secs_f64() * 1e6 / count;
    Ok(Cost { node: micros(before.0, after.0), etcd: micros(before.1, after.1), bytes: bytes / count })
}

/// Microseconds that etcd takes for a change and each node that watches.
pub fn of_a_watcher(scene: &Scene, maps: &Maps) -> Result<f64> {
    let alone = of_a_change(scene, maps)?.etcd;
    let watchers = scene.writer.watchers(WATCHERS)?;
    let with = of_a_change(scene, maps)?.etcd;
    drop(watchers);
    #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
    Ok((with - alone) / WATCHERS as f64)
}

/// How a node gets on when there are as many changes as etcd takes.
#[derive(Clone, Copy, Debug)]
pub struct Burst {
    /// Changes a second, until all are in the maps.
    pub kept_up: f64,
    /// Changes a second that etcd took.
    pub written: f64,
    /// Microseconds of the node's daemon for each.
    pub cpu: f64,
}

/// Makes changes that the node, on one core, has to keep up with.
pub fn sustained(scene: &Scene, maps: &Maps, count: u64) -> Result<Burst> {
    scene.on_one_core(true)?;
    let before = cost::cpu(scene.daemon()?)?;
    let begun = Instant::now();
    let written = scene.writer.burst(count);
    let done = caught_up(scene, maps);
    scene.on_one_core(false)?;
    let ((count, written), took) = (written?, done? - begun);
    let cpu = cost::cpu(scene.daemon()?)?.saturating_sub(before);
    #[expect(clippy::cast_precision_loss, reason = "some ten thousands")]
    let count = count as f64;
    Ok(Burst { kept_up: count / took.as_secs_f64(), written, cpu: cpu.as_secs_f64() * 1e6 / count })
}

/// Watches, and requests and messages a second, of an idle node.
pub fn of_an_idle_node(scene: &Scene) -> Result<(f64, f64)> {
    let wire = &scene.cluster.wire;
    let nodes = u32::try_from(scene.cluster.nodes.len()).context("as many nodes?")?;
    let before = Metrics::read(wire)?;
    thread::sleep(IDLE);
    let after = Metrics::read(wire)?;
    // Of streams too each message counts.
    let messages = |metrics: &Metrics| metrics.sum("grpc_server_msg_received_total");
    let rate = (messages(&after) - messages(&before)) / IDLE.as_secs_f64();
    let watches = after.sum("etcd_debugging_mvcc_watcher_total");
    Ok((watches / f64::from(nodes), rate / f64::from(nodes)))
}
