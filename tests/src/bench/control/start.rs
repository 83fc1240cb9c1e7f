//! A daemon starts: with empty maps, and with full ones.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};

use super::{maps::Maps, population::Simulated, scene::Scene};

/// Endpoints that are looked for while the maps fill.
const SAMPLE: u32 = 1_000;

/// How long it may take.
const LIMIT: Duration = Duration::from_mins(10);

/// Between two looks at the maps.
const LOOK: Duration = Duration::from_millis(1);

/// Starts the node's daemon as on a new node, and waits until all rows of so many endpoints, of whoever came
/// and did not go, and of its own are in its maps and it says that it is ready. Returns how long both took.
pub fn cold(scene: &mut Scene, endpoints: u32, room: u32) -> Result<Duration> {
    scene.node().forget()?;
    let begun = scene.start_node(room)?;
    let maps = loop {
        if let Ok(maps) = Maps::open(scene.node()) {
            break maps;
        }
        ensure!(begun.elapsed() < LIMIT, "no maps after {} s", LIMIT.as_secs());
        thread::sleep(LOOK);
    };
    // A prime and its multiples: spread over nodes and networks.
    let numbers = (0..SAMPLE).map(|n| u64::from(n) * 7_368_787 % u64::from(endpoints));
    let mut missing: Vec<_> = numbers.map(|n| Simulated::settled(u32::try_from(n).unwrap_or(0))).collect();
    let comers = scene.writer.expected().filter(|(_, there)| *there).count();
    let all = endpoints as usize + comers + Scene::own_endpoints();
    let complete = loop {
        while let Some(endpoint) = missing.last()
            && maps.agree(*endpoint, true)?
        {
            missing.pop();
        }
        let now = Instant::now();
        if missing.is_empty() && maps.count()? >= all {
            break now;
        }
        if let Some(status) = scene.node().daemon()?.ended()? {
            bail!("overlayd ended with {status}; its log:\n{}", scene.node().log());
        }
        if begun.elapsed() > LIMIT {
            bail!(
                "{} rows of {all} after {} s; its log:\n{}",
                maps.count()?,
                LIMIT.as_secs(),
                scene.node().log()
            );
        }
        thread::sleep(if missing.is_empty() { LOOK * 20 } else { LOOK });
    };
    let ready = scene.node_ready()?;
    ensure!(maps.agree(Simulated::settled(endpoints - 1), true)?, "a row is gone again");
    Ok(complete.max(ready) - begun)
}

/// Stops the node's daemon when it has nothing left to do and starts it again with the maps as they are. Returns
/// how long it took to be ready, and how many rows it changed.
pub fn warm(scene: &mut Scene, room: u32) -> Result<(Duration, u64)> {
    scene.settled()?;
    scene.cluster.nodes[0].stop()?;
    let begun = scene.start_node(room)?;
    let ready = scene.node_ready()?;
    Ok((ready - begun, scene.rows_changed()?))
}
