//! A real etcd on the wire.

use std::{
    fs::{self, File},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use crate::{
    cleanup::{self, Resource, Undo},
    exec::{self, Process, eventually},
    wire::Wire,
};

/// How long etcd may take to answer after its start on a busy machine.
const READY: Duration = Duration::from_secs(20);

/// One etcd with its data.
pub struct Etcd {
    process: Option<Process>,
    arguments: Vec<String>,
    dir: PathBuf,
    _undo: Undo,
}

impl Etcd {
    /// Starts one at the wire's own address. The wire's namespace is its alone, so the usual ports
    /// are free.
    pub fn start(wire: &Wire) -> Result<Self> {
        Self::start_with(wire, &[])
    }

    /// As [`Self::start`]; `more` goes to etcd.
    pub fn start_with(wire: &Wire, more: &[&str]) -> Result<Self> {
        let dir = std::env::temp_dir().join(cleanup::unique("etcd"));
        let undo = Undo::new(Resource::Directory(dir.clone()));
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let arguments = more.iter().map(|&argument| argument.to_owned()).collect();
        let mut etcd = Self { process: None, arguments, dir, _undo: undo };
        etcd.restart(wire)?;
        Ok(etcd)
    }

    /// Starts it on the data it has, and waits until it answers; kills it first if it runs.
    pub fn restart(&mut self, wire: &Wire) -> Result<()> {
        self.launch(wire)?;
        eventually(READY, || Self::ctl(wire, &["endpoint", "health"]).map(|_| ()))
            .with_context(|| format!("etcd does not answer; its log is {}", self.dir.join("log").display()))
    }

    /// As [`Self::restart`], without waiting.
    pub fn launch(&mut self, wire: &Wire) -> Result<()> {
        self.process = None;
        let log = File::options().create(true).append(true).open(self.dir.join("log"))?;
        let mut command = wire.netns().command("etcd");
        command
            .arg("--data-dir")
            .arg(self.dir.join("data"))
            .args(["--listen-client-urls", &wire.etcd(), "--advertise-client-urls", &wire.etcd()])
            // One member has no peers to listen for.
            .args(["--listen-peer-urls", "http://127.0.0.1:2380"])
            // Lets hostile values of several megabytes in.
            .args(["--max-request-bytes", "33554432", "--unsafe-no-fsync"])
            .args(&self.arguments)
            .stdout(log.try_clone()?)
            .stderr(log);
        self.process = Some(Process::spawn(&mut command)?);
        Ok(())
    }

    /// Its process.
    pub fn process(&self) -> Result<&Process> {
        self.process.as_ref().context("etcd does not run")
    }

    /// Kills it as a power cut would.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Kills it, takes its data away, and starts it anew at the same place.
    pub fn wipe(&mut self, wire: &Wire) -> Result<()> {
        self.kill();
        fs::remove_dir_all(self.dir.join("data"))?;
        self.restart(wire)
    }

    /// Saves what it has, for [`Self::restore`].
    pub fn save(&self, wire: &Wire) -> Result<()> {
        let copy = self.dir.join("snapshot");
        Self::ctl(wire, &["snapshot", "save", &copy.to_string_lossy()]).map(drop)
    }

    /// Kills it and starts it anew with what was saved.
    pub fn restore(&mut self, wire: &Wire) -> Result<()> {
        self.kill();
        let [copy, data] =
            ["snapshot", "data"].map(|name| self.dir.join(name).to_string_lossy().into_owned());
        fs::remove_dir_all(&data)?;
        Self::ctl(wire, &["snapshot", "restore", &copy, "--data-dir", &data])?;
        self.restart(wire)
    }

    /// Freezes it: connections stay, answers do not come.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on after [`Self::freeze`].
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        self.process()?.signal(signal)
    }

    /// Runs etcdctl.
    pub fn ctl(wire: &Wire, arguments: &[&str]) -> Result<String> {
        let mut command = wire.netns().command("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &wire.etcd(), "--dial-timeout", "2s"]);
        exec::output(command.args(arguments))
    }

    /// Writes a key.
    pub fn put(wire: &Wire, key: &str, value: Vec<u8>) -> Result<()> {
        let (key, url) = (key.to_owned(), wire.etcd());
        wire.netns().run(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
                let mut client = etcd_client::Client::connect([url], None).await?;
                client.put(key, value, None).await?;
                Ok(())
            })
        })
    }
}
