//! A node that is a machine: a Debian with systemd as its first process, in namespaces of its own.
//!
//! Its root is the Debian that `cargo xtask setup` makes, under a layer of memory that outlives a reboot. Its interface
//! to the wire does, too: it is as the card of a machine whose addresses are set before systemd runs.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    cleanup::{self, Resource, Undo},
    exec::{self, Process, child, eventually},
    netns::Netns,
    node::target,
    wire::{Card, Port, Wire},
};

/// How long a boot may take on a busy machine.
const BOOT: Duration = Duration::from_mins(1);

/// How long everything on it may take to stop.
const SHUT_DOWN: Duration = Duration::from_mins(3);

/// Where its programs are.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Keeps the root, and what is written to it, over reboots. It is given a directory and what lies below the layer.
const LAYER: &str = "\
    mount -t tmpfs tmpfs $1 && mkdir $1/upper $1/work $1/root &&
    mount -t overlay -o lowerdir=$2,upperdir=$1/upper,workdir=$1/work overlay $1/root &&
    exec sleep infinity";

/// What a boot loader and a kernel do. It is given the root, a host name and a control group.
const BOOT_SCRIPT: &str = r"
    hostname $2
    echo $2 > $1/etc/hostname
    mount -t cgroup2 cgroup2 $1/mnt
    mkdir -p $1/mnt/$3
    echo 0 > $1/mnt/$3/cgroup.procs
    umount $1/mnt
    exec unshare --cgroup sh -ec '
        cd $1
        mount -t proc proc proc
        # Settings of the kernel are those of the whole lab, but for those of the network.
        mount --bind proc/sys proc/sys
        mount -o remount,bind,ro proc/sys
        mount --bind proc/sys/net proc/sys/net
        mount -o remount,bind,rw proc/sys/net
        mount -t sysfs sysfs sys
        mount -t cgroup2 cgroup2 sys/fs/cgroup
        mount -t bpf bpf sys/fs/bpf
        mount -o remount,bind,ro sys
        mount -t tmpfs -o mode=755 tmpfs dev
        for device in null zero full random urandom tty; do
            touch dev/$device
            mount --bind /dev/$device dev/$device
        done
        mkdir dev/pts dev/shm
        ln -s pts/ptmx dev/ptmx
        mount -t tmpfs -o mode=755 tmpfs run
        mkdir run/netns run/old
        # Those of containers that the lab makes later, too.
        mount --rbind /run/netns run/netns
        pivot_root . run/old
        umount -l run/old
        rmdir run/old
        exec env -i container=lab PATH=$PATH /lib/systemd/systemd
    ' sh $1";

/// A machine on the wire.
pub struct Machine {
    name: String,
    port: Port,
    // What it runs goes first, then its files, then its namespace.
    booted: Option<Booted>,
    layer: Process,
    dir: PathBuf,
    group: String,
    _undo: [Undo; 2],
    netns: Netns,
}

struct Booted {
    process: Process,
    init: Pid,
}

impl Machine {
    /// Plugs one in, boots it, and waits until systemd has started everything.
    pub fn boot(wire: &Wire, name: &str) -> Result<Self> {
        let lower = root()?;
        let netns = Netns::new(name)?;
        let port = wire.plug(&netns, Card::Veth)?;
        let group = cleanup::unique(name);
        let dir = std::env::temp_dir().join(&group);
        let undo = [Resource::Cgroup(group.clone()), Resource::Directory(dir.clone())].map(Undo::new);
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let mut layer = Command::new("unshare");
        layer.args(["--mount", "--propagation", "slave", "sh", "-ec", LAYER, "sh"]).args([&dir, &lower]);
        let layer = Process::spawn(&mut layer)?;
        let mut machine =
            Self { name: name.to_owned(), port, booted: None, layer, dir, group, _undo: undo, netns };
        machine.start()?;
        Ok(machine)
    }

    /// Cuts its power and boots it again.
    pub fn reboot(&mut self) -> Result<()> {
        self.booted = None;
        self.start()
    }

    /// Has systemd stop everything and power it off, and tells how long that took.
    pub fn shut_down(&mut self) -> Result<Duration> {
        let begin = Instant::now();
        self.run("systemctl poweroff")?;
        let process = &self.booted.as_ref().context("it is off")?.process;
        process.wait(SHUT_DOWN)?;
        self.booted = None;
        Ok(begin.elapsed())
    }

    /// Boots it, and waits until systemd has started everything.
    pub fn start(&mut self) -> Result<()> {
        let root = self.dir.join("root");
        let layer = PathBuf::from(format!("/proc/{}/root", self.layer.pid()));
        eventually(BOOT, || {
            ensure!(layer.join(root.strip_prefix("/")?).join("usr").is_dir(), "it has no root yet");
            Ok(())
        })?;
        let mut command = self.netns.command("nsenter");
        command
            .args(["--target", &self.layer.pid().to_string(), "--mount"])
            .args(["unshare", "--mount", "--propagation", "slave", "--pid", "--fork", "--kill-child"])
            .args(["--uts", "--ipc", "sh", "-ec", BOOT_SCRIPT, "sh"])
            .arg(&root)
            .args([&self.name, &self.group])
            .env("PATH", PATH);
        let log = File::create(self.log())?;
        let process = Process::spawn(command.stdout(log.try_clone()?).stderr(log))?;
        let init = eventually(BOOT, || {
            ensure!(process.ended()?.is_none(), "its first process ended");
            let init = child(process.pid())?;
            let name = fs::read_to_string(format!("/proc/{init}/comm"))?;
            ensure!(name.trim() == "systemd", "{} is not systemd yet", name.trim());
            Ok(init)
        });
        let init = init.with_context(|| format!("it does not boot: {}", self.said()))?;
        self.booted = Some(Booted { process, init });
        // A unit that failed stays so: there is nothing to wait for.
        eventually(BOOT, || match self.state().as_str() {
            "running" => Ok(Ok(())),
            "degraded" => Ok(Err(anyhow::anyhow!("{}", self.run("systemctl --failed --no-legend")?))),
            state => bail!("systemd says {state:?}: {}", self.said()),
        })
        .flatten()
        .context("not everything was started")
    }

    /// What systemd says of the whole.
    #[must_use]
    pub fn state(&self) -> String {
        let said =
            self.command("systemctl").and_then(|mut command| exec::run(command.arg("is-system-running")));
        said.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    fn said(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Its namespace.
    #[must_use]
    pub const fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Where it is plugged in.
    #[must_use]
    pub const fn port(&self) -> &Port {
        &self.port
    }

    /// A file of its, as it is seen from outside.
    pub fn file(&self, path: &str) -> Result<PathBuf> {
        Ok(PathBuf::from(format!("/proc/{}/root{path}", self.init()?)))
    }

    fn init(&self) -> Result<Pid> {
        Ok(self.booted.as_ref().context("it is off")?.init)
    }

    /// A command that root types on it.
    pub fn command(&self, program: &str) -> Result<Command> {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.init()?.to_string()])
            .args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"])
            .arg(program)
            .env_clear()
            .envs([
                ("PATH", PATH),
                ("LC_ALL", "C"),
                ("HOME", "/root"),
                ("DEBIAN_FRONTEND", "noninteractive"),
            ]);
        Ok(command)
    }

    /// Runs a command line of words separated by blanks and returns what it printed.
    pub fn run(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let mut command = self.command(words.next().context("an empty command line")?)?;
        exec::output(command.args(words))
    }

    /// Runs overlayctl and reads its JSON.
    pub fn overlayctl(&self, arguments: &[&str]) -> Result<Value> {
        let mut command = self.command("overlayctl")?;
        let text = exec::output(command.args(["-o", "json"]).args(arguments))?;
        serde_json::from_str(&text)
            .with_context(|| format!("overlayctl {arguments:?} printed no JSON: {text}"))
    }

    /// A property of a unit.
    pub fn property(&self, unit: &str, name: &str) -> Result<String> {
        Ok(self.run(&format!("systemctl show --property {name} --value {unit}"))?.trim().to_owned())
    }

    /// Has apt install a package from a file outside.
    pub fn install(&self, package: &Path) -> Result<String> {
        let name = package.file_name().context("a package without a name")?.to_string_lossy();
        let inside = format!("/run/{name}");
        let copy = self.file(&inside)?;
        fs::copy(package, &copy).with_context(|| format!("cannot copy {}", package.display()))?;
        let said = self.run(&format!("apt-get install -y --no-install-recommends {inside}"));
        fs::remove_file(copy)?;
        said
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let journal = self.run("journalctl --no-pager --lines 200");
            eprintln!("---- {}:\n{}", self.name, journal.unwrap_or_else(|error| format!("{error:#}")));
        }
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        // It ends when all in it have, and only then does its parent.
        let _ = kill(self.init, Signal::SIGKILL);
        let _ = self.process.wait(BOOT);
    }
}

/// The Debian that `cargo xtask test` has made.
fn root() -> Result<PathBuf> {
    let root = target()?.join("debian/root");
    ensure!(root.join("usr/bin/apt-get").is_file(), "no Debian in {}: run cargo xtask setup", root.display());
    Ok(root)
}
