//! Two nodes that forward for each other, over one card after the other.

use std::{process::Command, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use overlay_tests::exec::{self, Process, eventually};
use serde_json::Value;

use crate::{
    PATIENCE, Pair,
    card::Card,
    side::{Running, Side, overlay_address},
};

/// Pings while a daemon is killed and another started.
const PINGS: u32 = 400;

/// What a round is about.
struct Round {
    name: &'static str,
    /// Each node's card.
    cards: [Card; 2],
    vlan: bool,
}

const ROUNDS: [Round; 3] = [
    Round { name: "virtio-net", cards: [Card::Virtio; 2], vlan: false },
    Round { name: "virtio-net to e1000", cards: [Card::Virtio, Card::E1000], vlan: false },
    Round { name: "e1000, VLAN", cards: [Card::E1000; 2], vlan: true },
];

/// Goes through all rounds; one that fails is reported, and the next begins.
pub fn run(pair: &Pair<'_>) {
    for Round { name, cards, vlan } in ROUNDS {
        let [first, second] = cards;
        let card = if pair.number == 1 { first } else { second };
        let result = pair.round(name, card, vlan, forward);
        if pair.number == 1 {
            pair.report.result(name, result);
        } else if result.is_err() || first != second {
            pair.report.result(&format!("{name}, other end"), result);
        }
    }
}

fn forward(side: &Side<'_>) -> Result<String> {
    let mut running = side.join()?;
    let mut server = running.container.command("iperf3");
    let _server = Process::spawn(server.args(["--server", "--json"]).stdout(side.log("iperf3")?))?;
    side.meet("serving")?;
    let text = if side.number == 1 { format!("; {}", measure(side, &mut running)?) } else { String::new() };
    side.meet("measured")?;
    let counters = side.status()?;
    let fast = [count(&counters, "endpoint", "encapsulated"), count(&counters, "uplink", "delivered")];
    ensure!(fast.iter().all(|packets| *packets > 1000), "not the fast path carried it: {counters}");
    Ok(running.datapath + &text)
}

/// From the first node: ping, TCP both ways, and a daemon that is killed and comes back.
fn measure(side: &Side<'_>, running: &mut Running) -> Result<String> {
    let to = overlay_address(2).to_string();
    let Running { daemon, container, .. } = running;
    eventually(PATIENCE, || exec::output(container.command("ping").args(["-c", "1", "-W", "2", &to])))?;
    let mut rates = Vec::new();
    for way in [&[][..], &["--reverse"]] {
        let mut iperf = container.command("iperf3");
        iperf.args(["--client", &to, "--time", "5", "--json"]).args(way);
        let said: Value = serde_json::from_str(&exec::output(&mut iperf)?)?;
        let rate = said["end"]["sum_received"]["bits_per_second"].as_f64().unwrap_or(0.0);
        ensure!(rate > 1e6, "iperf3 {way:?}: {rate} bit/s");
        rates.push(format!("{:.0}", rate / 1e6));
    }
    let mut ping: Command = container.command("ping");
    ping.args(["-q", "-i", "0.02", "-c", &PINGS.to_string(), "-W", "5", &to]);
    let flood = thread::spawn(move || exec::output(&mut ping));
    thread::sleep(Duration::from_secs(1));
    daemon.signal(nix::sys::signal::Signal::SIGKILL)?;
    *daemon = side.launch("overlayd", &[])?;
    side.wait_ready()?;
    let said = flood.join().ok().context("ping panicked")??;
    let received = said.split(" received").next().and_then(|text| text.rsplit(' ').next());
    let received: u32 = received.and_then(|n| n.parse().ok()).context("ping does not tell")?;
    ensure!(received == PINGS, "{} of {PINGS} pings lost when the daemon was replaced", PINGS - received);
    Ok(format!("TCP {} Mbit/s, no ping of {PINGS} lost when the daemon was replaced", rates.join(" and ")))
}

/// Packets of an outcome at a hook.
fn count(status: &Value, hook: &str, outcome: &str) -> u64 {
    let counters = status["counters"].as_array();
    let wanted = counters.and_then(|all| all.iter().find(|c| c["hook"] == hook && c["outcome"] == outcome));
    wanted.and_then(|counter| counter["packets"].as_u64()).unwrap_or(0)
}
