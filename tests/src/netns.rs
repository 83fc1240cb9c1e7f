//! Named network namespaces, gone when dropped.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result, anyhow};
use nix::{
    net::if_::if_nametoindex,
    sched::{CloneFlags, setns},
};
use overlay_ebpf::abi::MacAddr;

use crate::{
    cleanup::{self, NETNS_DIR, Resource, Undo},
    exec,
};

/// A network namespace.
pub struct Netns {
    name: String,
    _undo: Undo,
}

impl Netns {
    /// Makes one with its loopback up. `role` becomes part of its name.
    pub fn new(role: &str) -> Result<Self> {
        let name = cleanup::unique(role);
        let netns = Self { _undo: Undo::new(Resource::Netns(name.clone())), name };
        exec::output(Command::new("ip").args(["netns", "add", &netns.name]))
            .context("cannot make a network namespace: the lab needs root")?;
        netns.exec("ip link set lo up")?;
        Ok(netns)
    }

    /// Gives a network namespace that somebody else made, by the path of its file, a name, so that it
    /// can be used like any other.
    pub fn adopt(role: &str, path: &Path) -> Result<Self> {
        let name = cleanup::unique(role);
        let netns = Self { _undo: Undo::new(Resource::Netns(name.clone())), name };
        // The shell becomes `ip`, so that its number is the number of a process inside.
        let attach = format!("exec ip netns attach {} $$", netns.name);
        let mut command = Command::new("nsenter");
        exec::output(command.arg(format!("--net={}", path.display())).args(["sh", "-c", &attach]))?;
        Ok(netns)
    }

    /// The MAC address of an interface inside.
    pub fn mac(&self, device: &str) -> Result<MacAddr> {
        let listed = self.exec(&format!("ip -oneline link show {device}"))?;
        let mac = listed.split("link/ether ").nth(1).and_then(|rest| rest.split_whitespace().next());
        mac.and_then(|mac| mac.parse().ok()).with_context(|| format!("{device} has no MAC address: {listed}"))
    }

    /// The index of an interface inside.
    pub fn ifindex(&self, device: &str) -> Result<u32> {
        let device = device.to_owned();
        self.run(move || if_nametoindex(device.as_str()).with_context(|| format!("no interface {device}")))
    }

    /// Its name for `ip netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file it is bound to.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(NETNS_DIR).join(&self.name)
    }

    /// A command that runs inside. Not by `ip netns exec`, which hides the BPF file system.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg(program);
        command
    }

    /// Runs a command line of words separated by blanks and returns what it printed.
    pub fn exec(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().context("an empty command line")?;
        exec::output(self.command(program).args(words))
    }

    /// Starts a thread inside.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<JoinHandle<Result<T>>> {
        let file = self.open()?;
        Ok(thread::spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).context("cannot enter the network namespace")?;
            work()
        }))
    }

    /// Runs a closure inside, on a thread of its own, and waits for it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = self.open()?;
        let inside = || {
            setns(file, CloneFlags::CLONE_NEWNET).context("cannot enter the network namespace")?;
            work()
        };
        let ended = thread::scope(|scope| scope.spawn(inside).join());
        ended.map_err(|_| anyhow!("a thread of the lab panicked"))?
    }

    fn open(&self) -> Result<File> {
        let path = self.path();
        File::open(&path).with_context(|| format!("cannot open {}", path.display()))
    }
}

/// The result of a thread of [`Netns::spawn`].
pub fn join<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread of the lab panicked"))?
}
