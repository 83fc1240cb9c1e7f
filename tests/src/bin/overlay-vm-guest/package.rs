//! The Debian package on a machine that systemd runs: installed, upgraded under load, removed and purged.

use std::{
    fs,
    net::Ipv4Addr,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use overlay_tests::{
    cluster::Network,
    container::Container,
    etcd::Etcd,
    exec::{self, eventually},
    netns::Netns,
    node::{Datapath, Node},
    probe::Flood,
    wire::{Card, Wire},
};

use crate::{PATIENCE, report::Report};

const SETTINGS: &str = "/etc/overlay/overlayd.toml";
const BLUE: Network<'_> = Network { name: "blue", vni: 4242, subnet: "10.1.0.0/24" };

/// Between two datagrams, which are answered.
const INTERVAL: Duration = Duration::from_millis(5);

/// What is there once the package is installed, and not once it is purged.
const THINGS: [&str; 7] = [
    "/usr/sbin/overlayd",
    "/usr/bin/overlayctl",
    "/usr/share/man/man8/overlayctl-network-create.8.gz",
    "/usr/share/bash-completion/completions/overlayctl",
    SETTINGS,
    "/var/lib/overlay",
    "/sys/fs/bpf/overlay",
];

/// Does it all; every step needs the one before it.
pub fn run(package: &Path, report: &Report) {
    let begin = Instant::now();
    let result = Machine::new().and_then(|machine| machine.go_through(package, report));
    report.result("package", result.map(|text| format!("{text}; in {} s", begin.elapsed().as_secs())));
}

/// This machine, with another node to talk to.
struct Machine {
    peer: Node,
    _etcd: Etcd,
    _this: Netns,
    _wire: Wire,
}

impl Machine {
    fn new() -> Result<Self> {
        exec::output(Command::new("modprobe").args(["-a", "veth", "bridge", "vxlan"]))?;
        let wire = Wire::new()?;
        let etcd = Etcd::start(&wire)?;
        let peer = Node::start(&wire, "peer", Card::Veth, Datapath::Auto, &[])?;
        let this = Netns::adopt("this", Path::new("/proc/1/ns/net"))?;
        wire.plug(&this, Card::Veth)?;
        Ok(Self { peer, _etcd: etcd, _this: this, _wire: wire })
    }

    fn go_through(&self, package: &Path, report: &Report) -> Result<String> {
        report.progress("package: install");
        dpkg(&["--install"], Some(package))?;
        // Nobody told it of an etcd: what waits for it at boot goes on nevertheless.
        systemctl(&["is-active", "overlayd"])?;
        systemctl(&["is-enabled", "overlayd"])?;
        for thing in THINGS {
            ensure!(Path::new(thing).exists(), "{thing} is not there after the installation");
        }
        let settings = fs::read_to_string(SETTINGS)?;
        let settings = format!("{settings}\netcd = \"http://{}:2379\"\nnode = \"this\"\n", Wire::gateway());
        fs::write(SETTINGS, &settings)?;
        systemctl(&["restart", "overlayd"])?;
        eventually(PATIENCE, || ctl(&["status", "--wait", "5"]))?;

        report.progress("package: attach");
        self.peer.wait_ready()?;
        self.peer.ctl(&["network", "create", BLUE.name, "--subnet", BLUE.subnet, "--vni", "4242"])?;
        let there = Container::attach(&self.peer, BLUE.name, "there", &[])?;
        let here = Netns::new("here")?;
        let (netns, addr) = (here.path(), Ipv4Addr::new(10, 1, 0, 77));
        let (netns, address) = (netns.to_string_lossy(), addr.to_string());
        eventually(PATIENCE, || {
            ctl(&["endpoint", "attach", BLUE.name, "--netns", &netns, "--name", "here", "--ip", &address])
        })?;
        let ping = format!("ping -c 1 -W 2 {addr}");
        eventually(PATIENCE, || there.netns.exec(&ping))?;
        let devices = devices()?;
        let device = devices.iter().find(|name| name.len() == 14).context("no endpoint's interface")?;
        let known = format!("/sys/class/net/{device}");
        let udev = exec::output(Command::new("udevadm").args(["info", "--query=property", &known]))?;
        ensure!(udev.contains("10-overlay.link"), "udev takes other settings for {device}: {udev}");

        report.progress("package: upgrade");
        let flood = || Flood::start(&there.netns, &here, addr, INTERVAL);
        let (before, under_way) = (main_pid()?, flood()?);
        dpkg(&["--install"], Some(package))?;
        eventually(PATIENCE, || ctl(&["status", "--wait", "5"]))?;
        let upgrade = under_way.stop()?;
        ensure!(main_pid()? != before, "the upgrade did not restart overlayd");
        ensure!(fs::read_to_string(SETTINGS)? == settings, "the upgrade changed {SETTINGS}");
        ensure!(upgrade.lost() == 0 && upgrade.sent > 100, "upgrade: {upgrade}");

        report.progress("package: remove");
        let under_way = flood()?;
        dpkg(&["--remove", "overlayd"], None)?;
        let removal = under_way.stop()?;
        ensure!(systemctl(&["is-active", "overlayd"]).is_err(), "overlayd runs without its package");
        ensure!(removal.lost() == 0 && removal.sent > 100, "removal: {removal}");

        report.progress("package: purge");
        dpkg(&["--purge", "overlayd"], None)?;
        for thing in THINGS {
            ensure!(!Path::new(thing).exists(), "{thing} is still there after the purge");
        }
        let left = self::devices()?;
        ensure!(left.is_empty(), "interfaces are left: {left:?}");
        Ok(format!("installed, upgraded ({upgrade}), removed ({removal}) and purged under systemd"))
    }
}

/// Runs dpkg, which is to ask nothing.
fn dpkg(arguments: &[&str], package: Option<&Path>) -> Result<String> {
    let mut command = Command::new("dpkg");
    command.env("DEBIAN_FRONTEND", "noninteractive").args(arguments).args(package);
    let said = exec::output(&mut command)?;
    println!("{said}");
    Ok(said)
}

fn systemctl(arguments: &[&str]) -> Result<String> {
    exec::output(Command::new("systemctl").args(arguments))
}

/// The package's own overlayctl.
fn ctl(arguments: &[&str]) -> Result<String> {
    exec::output(Command::new("overlayctl").args(arguments))
}

fn main_pid() -> Result<String> {
    let told = systemctl(&["show", "--property=MainPID", "--value", "overlayd"])?;
    ensure!(told.trim() != "0", "overlayd does not run");
    Ok(told)
}

/// Names of overlayd's interfaces here.
fn devices() -> Result<Vec<String>> {
    let names =
        fs::read_dir("/sys/class/net")?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names: Vec<_> = names.collect::<Result<_>>()?;
    Ok(names.into_iter().filter(|name| name.starts_with("ov")).collect())
}
