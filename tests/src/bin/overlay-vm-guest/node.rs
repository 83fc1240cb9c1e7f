//! One of two nodes that forward for each other, over one card after the other.
//!
//! Both go through the same steps and wait for each other at the store, which is in the first.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use overlay_tests::{
    exec::{self, Process, eventually},
    node::program,
};
use serde_json::Value;

use crate::{
    card::{Card, ip},
    report::Report,
};

/// Emulated, and beside another.
const PATIENCE: Duration = Duration::from_mins(2);
const VLAN: u16 = 42;
const CONTAINER: &str = "c";
const NETWORK: &str = "blue";
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

/// The data path that must be chosen on a card, and what the reason must say.
const fn expected(card: Card) -> (&'static str, &'static str) {
    match card {
        Card::E1000 => ("tc", "no native XDP"),
        Card::Control | Card::Virtio => ("xdp", "native XDP works"),
    }
}

impl Round {
    /// The name without spaces.
    fn identifier(&self) -> String {
        self.name.replace(", ", "-").replace(' ', "-")
    }
}

/// Goes through all rounds; one that fails is reported, and the next begins.
pub fn run(number: u8, report: &Report) -> Result<()> {
    exec::output(Command::new("modprobe").args(["-a", "virtio_net", "e1000", "8021q"]))?;
    ip("link set lo up")?;
    eventually(PATIENCE, || Card::Control.set_up(number))?;
    let _etcd = if number == 1 { Some(etcd()?) } else { None };
    for round in &ROUNDS {
        report.progress(round.name);
        let begin = Instant::now();
        let dir = PathBuf::from("/tmp").join(round.identifier());
        let result = Side { number, round, dir, report }.run();
        let result = result.map(|text| format!("{text}; in {} s", begin.elapsed().as_secs()));
        // The other one must not wait for what does not come.
        let failed = result.is_err();
        let [first, second] = round.cards;
        if number == 1 {
            report.result(round.name, result);
        } else if failed || first != second {
            report.result(&format!("{}, other end", round.name), result);
        }
    }
    meet(number, "over")
}

/// One node in one round.
struct Side<'a> {
    number: u8,
    round: &'a Round,
    dir: PathBuf,
    report: &'a Report,
}

impl Side<'_> {
    fn run(&self) -> Result<String> {
        let result = self.forward();
        // Whatever came of it, both leave together, and nothing stays for the next round.
        let met = self.meet("done");
        let purged = self.overlayd().and_then(|mut command| exec::output(command.arg("--purge")));
        for name in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
            exec::output(Command::new("ip").args(["netns", "delete"]).arg(name.file_name()))?;
        }
        let met = met.and(self.meet("gone"));
        let text = result?;
        met?;
        purged.context("overlayd --purge")?;
        Ok(text)
    }

    fn forward(&self) -> Result<String> {
        let uplink = self.uplink()?;
        fs::create_dir_all(&self.dir)?;
        let mut daemon = self.launch()?;
        self.wait_ready()?;
        let status = self.status()?;
        let path = &status["datapath"];
        let (mode, reason) = (path["mode"].as_str().unwrap_or("?"), path["reason"].as_str().unwrap_or("?"));
        let (wanted, why) = expected(self.card());
        ensure!(
            mode == wanted && reason.contains(why),
            "the data path on {uplink} is {mode}, not {wanted}: {reason}"
        );
        if self.number == 1 {
            self.ctl(&["network", "create", NETWORK, "--subnet", "10.10.0.0/24"])?;
        }
        self.meet("network")?;
        exec::output(Command::new("ip").args(["netns", "add", CONTAINER]))?;
        let netns = format!("/run/netns/{CONTAINER}");
        let address = format!("10.10.0.{}", self.number + 10);
        let name = format!("c{}", self.number);
        let attach = ["endpoint", "attach", NETWORK, "--netns", &netns, "--ifname", "eth0", "--name", &name];
        eventually(PATIENCE, || self.ctl(&[&attach[..], &["--ip", &address]].concat()))?;
        self.meet("attached")?;

        let mut server = container("iperf3");
        let _server = Process::spawn(server.args(["--server", "--json"]).stdout(self.log("iperf3")?))?;
        self.meet("serving")?;
        let text = if self.number == 1 { format!("; {}", self.measure(&mut daemon)?) } else { String::new() };
        self.meet("measured")?;
        let counters = self.status()?;
        let fast = [count(&counters, "endpoint", "encapsulated"), count(&counters, "uplink", "delivered")];
        ensure!(fast.iter().all(|packets| *packets > 1000), "not the fast path carried it: {counters}");
        Ok(format!("{mode} ({reason}){text}"))
    }

    /// From the first node: ping, TCP both ways, and a daemon that is killed and comes back.
    fn measure(&self, daemon: &mut Process) -> Result<String> {
        let to = "10.10.0.12";
        eventually(PATIENCE, || exec::output(container("ping").args(["-c", "1", "-W", "2", to])))?;
        let mut rates = Vec::new();
        for way in [&[][..], &["--reverse"]] {
            let mut iperf = container("iperf3");
            iperf.args(["--client", to, "--time", "5", "--json"]).args(way);
            let said: Value = serde_json::from_str(&exec::output(&mut iperf)?)?;
            let rate = said["end"]["sum_received"]["bits_per_second"].as_f64().unwrap_or(0.0);
            ensure!(rate > 1e6, "iperf3 {way:?}: {rate} bit/s");
            rates.push(format!("{:.0}", rate / 1e6));
        }
        let count = PINGS.to_string();
        let mut ping = container("ping");
        ping.args(["-q", "-i", "0.02", "-c", &count, "-W", "5", to]);
        let flood = thread::spawn(move || exec::output(&mut ping));
        thread::sleep(Duration::from_secs(1));
        daemon.signal(nix::sys::signal::Signal::SIGKILL)?;
        *daemon = self.launch()?;
        self.wait_ready()?;
        let said = flood.join().ok().context("ping panicked")??;
        let received = said.split(" received").next().and_then(|text| text.rsplit(' ').next());
        let received: u32 = received.and_then(|n| n.parse().ok()).context("ping does not tell")?;
        ensure!(received == PINGS, "{} of {PINGS} pings lost when the daemon was replaced", PINGS - received);
        Ok(format!(
            "TCP {} Mbit/s, no ping of {PINGS} lost when the daemon was replaced",
            rates.join(" and ")
        ))
    }

    fn card(&self) -> Card {
        self.round.cards[usize::from(self.number) - 1]
    }

    /// The interface to tunnel from, set up.
    fn uplink(&self) -> Result<String> {
        let card = self.card();
        let device = card.device(self.number)?;
        // On its wire are the other round's cards too.
        for other in [Card::Virtio, Card::E1000] {
            ip(&format!("address flush dev {}", other.device(self.number)?))?;
        }
        if !self.round.vlan {
            return card.set_up(self.number);
        }
        ip(&format!("link set {device} up"))?;
        let tagged = format!("{device}.{VLAN}");
        ip(&format!("link add link {device} name {tagged} type vlan id {VLAN}"))?;
        ip(&format!("link set {tagged} up"))?;
        ip(&format!("address add {}/24 dev {tagged}", card.address(self.number)))?;
        Ok(tagged)
    }

    fn overlayd(&self) -> Result<Command> {
        let device = self.card().device(self.number)?;
        let uplink = if self.round.vlan { format!("{device}.{VLAN}") } else { device };
        let mut command = Command::new(program("overlayd")?);
        command
            .args(["--etcd", &store(), "--node", &format!("n{}", self.number), "--underlay", &uplink])
            .args(["--cluster", &self.round.identifier()])
            .arg("--run-dir")
            .arg(self.dir.join("run"))
            .arg("--state-dir")
            .arg(self.dir.join("state"));
        Ok(command)
    }

    fn launch(&self) -> Result<Process> {
        let log = self.log("overlayd")?;
        Process::spawn(self.overlayd()?.stdout(log.try_clone()?).stderr(log))
    }

    fn wait_ready(&self) -> Result<()> {
        let ready = eventually(PATIENCE, || self.ctl(&["status", "--wait", "5"]));
        ready.map(|_| ()).with_context(|| {
            let log = fs::read_to_string(self.dir.join("overlayd.log")).unwrap_or_default();
            println!("{log}");
            format!("overlayd is not healthy: {}", log.lines().last().unwrap_or("it says nothing"))
        })
    }

    fn log(&self, name: &str) -> Result<File> {
        let path = self.dir.join(format!("{name}.log"));
        File::options().create(true).append(true).open(&path).with_context(|| path.display().to_string())
    }

    fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(program("overlayctl")?);
        command.arg("--socket").arg(self.dir.join("run/overlayd.sock")).args(arguments);
        exec::output(&mut command)
    }

    fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.ctl(&["-o", "json", "status"])?)?)
    }

    /// Waits for the other node at a step of this round.
    fn meet(&self, what: &str) -> Result<()> {
        if self.number == 1 {
            self.report.progress(&format!("{}: {what}", self.round.name));
        }
        meet(self.number, &format!("{}/{what}", self.round.name))
    }
}

/// Waits until the other node is here too.
fn meet(number: u8, place: &str) -> Result<()> {
    let key = |number: u8| format!("/meet/{place}/{number}");
    etcdctl(&["put", &key(number), "here"])?;
    let other = key(3 - number);
    eventually(PATIENCE, || {
        if etcdctl(&["get", &other])?.is_empty() {
            bail!("the other node did not come to {place}");
        }
        Ok(())
    })
}

fn etcdctl(arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").args(["--endpoints", &store(), "--dial-timeout", "5s"]);
    eventually(PATIENCE, || exec::output(command.args(arguments)))
}

fn etcd() -> Result<Process> {
    let dir = Path::new("/tmp/etcd");
    fs::create_dir_all(dir)?;
    let log = File::create(dir.join("log"))?;
    let mut command = Command::new("etcd");
    command
        .arg("--data-dir")
        .arg(dir.join("data"))
        .args(["--listen-client-urls", &store(), "--advertise-client-urls", &store()])
        .args(["--listen-peer-urls", "http://127.0.0.1:2380", "--unsafe-no-fsync"])
        .stdout(log.try_clone()?)
        .stderr(log);
    Process::spawn(&mut command)
}

fn store() -> String {
    format!("http://{}:2379", Card::Control.address(1))
}

/// A command in the container.
fn container(program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{CONTAINER}")).arg(program);
    command
}

/// Packets of an outcome at a hook.
fn count(status: &Value, hook: &str, outcome: &str) -> u64 {
    let counters = status["counters"].as_array();
    let wanted = counters.and_then(|all| all.iter().find(|c| c["hook"] == hook && c["outcome"] == outcome));
    wanted.and_then(|counter| counter["packets"].as_u64()).unwrap_or(0)
}
