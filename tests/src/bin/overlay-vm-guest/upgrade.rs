//! The second node's daemon is replaced in every way there is, while the first node's container floods the
//! second's by native XDP on a card of several queues. A veth cannot show a bad replacement; virtio-net loses
//! packets whenever its XDP program goes and comes.
//!
//! As many datagrams again are sent while nothing is replaced. The rule: over all floods together no more
//! datagrams are lost with replacements than without, and the one TCP connection carries every byte in order.
//! Two more floods are of bad replacements. In one the program is taken off the card each time before the next daemon puts
//! its own on it: how much that loses is the kernel's affair (often none). In the other nothing forwards from the card for
//! a moment, which shows that the rule can be broken; to set the card down does not, for its emulation holds what comes.

use std::{
    fs,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use overlay_tests::{exec, probe::Loss};
use serde_json::Value;

use crate::{
    Pair,
    card::{Card, ip},
    load::{Sink, Source},
    side::{Running, Side, overlay_address},
};

/// Floods with replacements, and as many without.
const REPETITIONS: u32 = 2;

/// The floods with bad replacements, and how many the first has: one loses a packet or two, if any.
const BAD: &str = "bad";
const BAD_REPLACEMENTS: u32 = 4;
const WORSE: &str = "worse";

/// How long a flood goes on before the first replacement and behind each.
const BETWEEN: Duration = Duration::from_secs(1);

/// How long a daemon may take to end.
const ENDING: Duration = Duration::from_secs(30);

const NAME: &str = "upgrade, virtio-net";

/// Where the daemon pins what stays.
const PINS: &str = "/sys/fs/bpf/overlay";

/// Goes through it.
pub fn run(pair: &Pair<'_>) {
    let part = if pair.number == 1 { flood } else { replace };
    let result = pair.round(NAME, Card::Virtio, false, part);
    if pair.number == 2 {
        pair.report.result(NAME, result);
    } else if result.is_err() {
        pair.report.result(&format!("{NAME}, other end"), result);
    }
}

/// The first node's part.
fn flood(side: &Side<'_>) -> Result<String> {
    let running = side.join()?;
    side.meet("listening")?;
    let mut source = Source::open(&running.container, overlay_address(2))?;
    for repetition in 1..=REPETITIONS {
        let (first, end) = flood_meanwhile(side, &mut source, &repetition.to_string())?;
        side.meet(&format!("flood {repetition} without"))?;
        let (first, end) = source.flood(|sent| sent < end - first)?;
        side.exchange(&format!("flood {repetition} without is over"), &format!("{first} {end}"))?;
    }
    for which in [BAD, WORSE] {
        flood_meanwhile(side, &mut source, which)?;
    }
    let numbers = source.close()?;
    side.exchange("stream", &numbers.to_string())?;
    Ok(running.datapath)
}

/// Floods until the other node has replaced what it wanted. Returns the first number sent, and the one behind the last.
fn flood_meanwhile(side: &Side<'_>, source: &mut Source, which: &str) -> Result<(u64, u64)> {
    side.meet(&format!("flood {which} with"))?;
    let over = AtomicBool::new(false);
    let (first, end) = thread::scope(|scope| {
        let flood = scope.spawn(|| source.flood(|_| !over.load(Ordering::Relaxed)));
        let replaced = side.meet(&format!("replaced {which}"));
        over.store(true, Ordering::Relaxed);
        let sent = flood.join().ok().context("the flood panicked")?;
        replaced.and(sent)
    })?;
    side.exchange(&format!("flood {which} is over"), &format!("{first} {end}"))?;
    Ok((first, end))
}

/// The second node's part, which judges.
fn replace(side: &Side<'_>) -> Result<String> {
    let running = side.join()?;
    let datapath = running.datapath.clone();
    let sink = Sink::open(&running.container, overlay_address(2))?;
    side.meet("listening")?;
    let mut node = Replaced { side, running, schema_steps: 0, refusals: 0, swaps: 0 };
    let (mut with, mut without) = (NOTHING, NOTHING);
    for repetition in 1..=REPETITIONS {
        side.meet(&format!("flood {repetition} with"))?;
        thread::sleep(BETWEEN);
        for way in [Way::Restart, Way::Kill, Way::Upgrade, Way::RefusedDowngrade] {
            node.replace(way).with_context(|| format!("{way:?} {repetition}"))?;
            thread::sleep(BETWEEN);
        }
        side.meet(&format!("replaced {repetition}"))?;
        let flood = count(side, &sink, &format!("flood {repetition} is over"), &mut with)?;
        side.report.progress(&format!("{NAME}: flood {repetition}, 4 replacements: {flood}"));
        side.meet(&format!("flood {repetition} without"))?;
        let flood = count(side, &sink, &format!("flood {repetition} without is over"), &mut without)?;
        side.report.progress(&format!("{NAME}: flood {repetition}, nothing replaced: {flood}"));
    }
    let Replaced { swaps, refusals, schema_steps, .. } = node;
    let (mut bad, mut worse) = (NOTHING, NOTHING);
    for (which, way, times, sum) in
        [(BAD, Way::TakenOff, BAD_REPLACEMENTS, &mut bad), (WORSE, Way::CutOff, 1, &mut worse)]
    {
        side.meet(&format!("flood {which} with"))?;
        thread::sleep(BETWEEN);
        for _ in 0..times {
            node.replace(way).with_context(|| format!("{way:?}"))?;
            thread::sleep(BETWEEN);
        }
        side.meet(&format!("replaced {which}"))?;
        count(side, &sink, &format!("flood {which} is over"), sum)?;
        side.report.progress(&format!("{NAME}: flood {which}, {way:?}: {sum}"));
    }

    let wanted = side.exchange("stream", "")?;
    let came = sink.close()?;
    ensure!(wanted == came.to_string(), "{came} of {wanted} numbers came by TCP");

    let text = format!(
        "{swaps} times replaced, {schema_steps} of them by another schema, and {refusals} downgrades refused: {with}; \
         without: {without}; program off the card and on again {BAD_REPLACEMENTS} times: {bad}; nothing on the card: \
         {worse}; TCP {} kB whole",
        came * 8 / 1000
    );
    ensure!(with.sent > 1000, "the flood was a trickle: {text}");
    ensure!(with.lost() <= without.lost(), "more lost than without: {text}");
    ensure!(worse.lost() > without.lost(), "such a flood shows no bad replacement: {text}");
    Ok(format!("{datapath}; {text}"))
}

const NOTHING: Loss = Loss { sent: 0, received: 0 };

/// Learns what was sent in the flood that is over now, and counts what came.
fn count(side: &Side<'_>, sink: &Sink, place: &str, sum: &mut Loss) -> Result<Loss> {
    let sent = side.exchange(place, "")?;
    let (first, end) = sent.split_once(' ').context("the other node does not tell what it sent")?;
    let (first, end) = (first.parse()?, end.parse::<u64>()?);
    let sent = end.saturating_sub(first);
    let flood = Loss { sent, received: sent - sink.missing(first, end) };
    sum.sent += flood.sent;
    sum.received += flood.received;
    Ok(flood)
}

/// A way to replace a daemon.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Stopped, and the same started.
    Restart,
    /// Killed, and the same started.
    Kill,
    /// Stopped, and one with a later schema of maps started.
    Upgrade,
    /// Killed, and this version's started, which refuses; then the later one again.
    RefusedDowngrade,
    /// Stopped, its program taken off the card, and the same started: what must never happen.
    TakenOff,
    /// Stopped, all that forwards from the card taken off it, and the same started.
    CutOff,
}

/// The node whose daemon is replaced.
struct Replaced<'a> {
    side: &'a Side<'a>,
    running: Running,
    /// How many schemas later than this version's the daemon's is.
    schema_steps: u32,
    refusals: u32,
    swaps: u32,
}

impl Replaced<'_> {
    fn replace(&mut self, way: Way) -> Result<()> {
        let before = self.program_on_card()?;
        let signal = match way {
            Way::Restart | Way::Upgrade | Way::TakenOff | Way::CutOff => Signal::SIGTERM,
            Way::Kill | Way::RefusedDowngrade => Signal::SIGKILL,
        };
        self.running.daemon.signal(signal)?;
        self.running.daemon.wait(ENDING)?;
        match way {
            Way::Restart | Way::Kill => {}
            Way::Upgrade => self.schema_steps += 1,
            Way::RefusedDowngrade => self.downgrade()?,
            Way::TakenOff => self.take_off()?,
            Way::CutOff => self.cut_off()?,
        }
        self.running.daemon = if self.schema_steps == 0 {
            self.side.launch("overlayd", &[])?
        } else {
            self.side.launch("overlayd-next", &["--schemas-later", &self.schema_steps.to_string()])?
        };
        self.side.wait_ready()?;
        let pinned = schemas()?;
        ensure!(pinned == [format!("v{}", self.schema_steps + 1)], "pins of {pinned:?}");
        // The kernel numbers programs: had it the same, nothing would have been replaced.
        let after = self.program_on_card()?;
        ensure!(before != after, "XDP program {before} is still on the card");
        self.swaps += 1;
        Ok(())
    }

    /// Starts this version's daemon, which must end with a line that says why, and leave what forwards.
    fn downgrade(&mut self) -> Result<()> {
        let (before, pinned) = (self.program_on_card()?, schemas()?);
        let refused = exec::run(&mut self.side.overlayd("overlayd")?)?;
        let said = String::from_utf8_lossy(&refused.stderr);
        let reason = format!("a newer overlayd forwards by maps of schema {}", self.schema_steps + 1);
        let last = said.lines().last().unwrap_or_default();
        if refused.status.success() || !last.contains(&reason) || !last.contains("--purge") {
            bail!("overlayd ended with {} and said {said:?}", refused.status);
        }
        ensure!(self.program_on_card()? == before && schemas()? == pinned, "it changed what forwards");
        self.refusals += 1;
        Ok(())
    }

    /// Removes the pin that alone holds the program on the card.
    fn take_off(&self) -> Result<()> {
        ensure!(self.unpin("links", "uplink_xdp")?, "no XDP program of ours is pinned");
        Ok(())
    }

    /// Takes both programs off the card, sets the devices down that take what these leave, and lets that be felt.
    fn cut_off(&self) -> Result<()> {
        self.take_off()?;
        if !self.unpin("links", "uplink_in")? {
            ensure!(self.unpin("filters", "uplink_in")?, "no tc program of ours is pinned");
            let device = self.side.tunnels_from()?;
            exec::output(Command::new("tc").args(["qdisc", "del", "dev", &device, "clsact"]))?;
        }
        for entry in fs::read_dir("/sys/class/net")? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.starts_with("ovv") {
                ip(&format!("link set {name} down"))?;
            }
        }
        thread::sleep(BETWEEN);
        Ok(())
    }

    /// Removes the pin of a program's link or filter. Returns whether there was one.
    fn unpin(&self, kind: &str, program: &str) -> Result<bool> {
        for entry in fs::read_dir(format!("{PINS}/v{}/{kind}", self.schema_steps + 1))? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(program)) {
                fs::remove_file(path)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The kernel's number of the native XDP program on the card.
    fn program_on_card(&self) -> Result<u64> {
        let device = self.side.tunnels_from()?;
        let listed = exec::output(Command::new("ip").args(["-json", "-details", "link", "show", &device]))?;
        let listed: Value = serde_json::from_str(&listed)?;
        let xdp = &listed[0]["xdp"];
        // if_link.h: XDP_ATTACHED_DRV
        ensure!(xdp["mode"] == 1, "no native XDP on {device}: {xdp}");
        xdp["prog"]["id"].as_u64().with_context(|| format!("no XDP program on {device}: {xdp}"))
    }
}

/// The schemas that there are pins of.
fn schemas() -> Result<Vec<String>> {
    let entries = fs::read_dir(PINS)?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}
