//! One of the two nodes: a daemon on one of the machine's cards, and a container.

use std::{
    cell::RefCell,
    fs::{self, File},
    path::PathBuf,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use overlay_tests::{
    exec::{self, Process, eventually},
    netns::Netns,
    node::program,
};
use serde_json::Value;

use crate::{
    PATIENCE,
    card::{Card, ip},
    meeting::Meeting,
    report::Report,
    store,
};

const VLAN: u16 = 42;
const NETWORK: &str = "blue";

/// One node in one round.
pub struct Side<'a> {
    /// 1 or 2.
    pub number: u8,
    /// What the round is called.
    pub round: &'static str,
    /// Its card.
    pub card: Card,
    /// Whether it tunnels from a VLAN on that.
    pub vlan: bool,
    /// Where it meets the other.
    pub meeting: &'a RefCell<Meeting>,
    /// Where it says how far it is.
    pub report: &'a Report,
}

/// What a node is once it takes part.
pub struct Running {
    /// overlayd.
    pub daemon: Process,
    /// Its container.
    pub container: Netns,
    /// The data path, and why that one.
    pub datapath: String,
}

/// The address in the overlay of a node's container.
pub const fn overlay_address(number: u8) -> std::net::Ipv4Addr {
    std::net::Ipv4Addr::new(10, 10, 0, number + 10)
}

/// The data path that must be chosen on a card, and what the reason must say.
const fn expected(card: Card) -> (&'static str, &'static str) {
    match card {
        Card::E1000 => ("tc", "no native XDP"),
        Card::Control | Card::Virtio => ("xdp", "native XDP works"),
    }
}

impl Side<'_> {
    /// Does this node's part; both leave together, and nothing stays for the next round.
    pub fn run(&self, part: impl FnOnce(&Self) -> Result<String>) -> Result<String> {
        let result = part(self);
        let met = self.gather("done");
        let purged = self.overlayd("overlayd").and_then(|mut command| exec::output(command.arg("--purge")));
        let met = met.and(self.gather("gone"));
        let text = result?;
        met?;
        purged.context("overlayd --purge")?;
        Ok(text)
    }

    /// Starts the daemon, and attaches a container once the other node takes part as well.
    pub fn join(&self) -> Result<Running> {
        let uplink = self.uplink()?;
        fs::create_dir_all(self.dir())?;
        let daemon = self.launch("overlayd", &[])?;
        self.wait_ready()?;
        let status = self.status()?;
        let path = &status["datapath"];
        let (mode, reason) = (path["mode"].as_str().unwrap_or("?"), path["reason"].as_str().unwrap_or("?"));
        let (wanted, why) = expected(self.card);
        ensure!(
            mode == wanted && reason.contains(why),
            "the data path on {uplink} is {mode}, not {wanted}: {reason}"
        );
        if self.number == 1 {
            self.ctl(&["network", "create", NETWORK, "--subnet", "10.10.0.0/24"])?;
        }
        self.meet("network")?;
        let container = Netns::new("c")?;
        let netns = container.path();
        let address = overlay_address(self.number).to_string();
        let name = format!("c{}", self.number);
        let attach = ["endpoint", "attach", NETWORK, "--netns", &netns.to_string_lossy(), "--ifname", "eth0"]
            .map(str::to_owned);
        let attach: Vec<&str> =
            attach.iter().map(String::as_str).chain(["--name", &name, "--ip", &address]).collect();
        eventually(PATIENCE, || self.ctl(&attach))?;
        self.meet("attached")?;
        Ok(Running { daemon, container, datapath: format!("{mode} ({reason})") })
    }

    /// The interface to tunnel from, set up.
    fn uplink(&self) -> Result<String> {
        let device = self.card.device(self.number)?;
        // On its wire are the other round's cards too.
        for other in [Card::Virtio, Card::E1000] {
            ip(&format!("address flush dev {}", other.device(self.number)?))?;
        }
        if !self.vlan {
            return self.card.set_up(self.number);
        }
        ip(&format!("link set {device} up"))?;
        let tagged = self.tunnels_from()?;
        ip(&format!("link add link {device} name {tagged} type vlan id {VLAN}"))?;
        ip(&format!("link set {tagged} up"))?;
        ip(&format!("address add {}/24 dev {tagged}", self.card.address(self.number)))?;
        Ok(tagged)
    }

    /// The name of that interface.
    pub fn tunnels_from(&self) -> Result<String> {
        let device = self.card.device(self.number)?;
        Ok(if self.vlan { format!("{device}.{VLAN}") } else { device })
    }

    /// The command line of a daemon by the name of its program.
    pub fn overlayd(&self, name: &str) -> Result<Command> {
        let mut command = Command::new(program(name)?);
        command
            .args(["--etcd", &store::url(), "--node", &format!("n{}", self.number)])
            .args(["--underlay", &self.tunnels_from()?, "--cluster", &self.identifier()])
            .arg("--run-dir")
            .arg(self.dir().join("run"))
            .arg("--state-dir")
            .arg(self.dir().join("state"));
        Ok(command)
    }

    /// Starts a daemon; `more` goes to it.
    pub fn launch(&self, name: &str, more: &[&str]) -> Result<Process> {
        let log = self.log("overlayd")?;
        Process::spawn(self.overlayd(name)?.args(more).stdout(log.try_clone()?).stderr(log))
    }

    /// Waits until the daemon says that it is healthy.
    pub fn wait_ready(&self) -> Result<()> {
        let ready = eventually(PATIENCE, || self.ctl(&["status", "--wait", "5"]));
        ready.map(|_| ()).with_context(|| {
            let log = fs::read_to_string(self.dir().join("overlayd.log")).unwrap_or_default();
            println!("{log}");
            format!("overlayd is not healthy: {}", log.lines().last().unwrap_or("it says nothing"))
        })
    }

    /// A file for what a program says.
    pub fn log(&self, name: &str) -> Result<File> {
        let path = self.dir().join(format!("{name}.log"));
        File::options().create(true).append(true).open(&path).with_context(|| path.display().to_string())
    }

    fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(program("overlayctl")?);
        command.arg("--socket").arg(self.dir().join("run/overlayd.sock")).args(arguments);
        exec::output(&mut command)
    }

    /// The daemon's status.
    pub fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.ctl(&["-o", "json", "status"])?)?)
    }

    fn dir(&self) -> PathBuf {
        PathBuf::from("/tmp").join(self.identifier())
    }

    /// The round's name without spaces.
    fn identifier(&self) -> String {
        self.round.replace(", ", "-").replace(' ', "-")
    }

    /// Waits for the other node at a step of this round.
    pub fn meet(&self, what: &str) -> Result<()> {
        self.exchange(what, "").map(drop)
    }

    /// Waits for the other node at a step of this round, and returns its word for ours.
    pub fn exchange(&self, what: &str, word: &str) -> Result<String> {
        if self.number == 1 {
            self.report.progress(&format!("{}: {what}", self.round));
        }
        self.meeting.borrow_mut().exchange(&format!("{}/{what}", self.round), word)
    }

    fn gather(&self, what: &str) -> Result<()> {
        self.meeting.borrow_mut().gather(&format!("{}/{what}", self.round))
    }
}
