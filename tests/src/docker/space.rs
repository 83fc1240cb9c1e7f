//! Where the daemons of a node live: the machine's files, but places of their own for what Docker keeps at
//! fixed paths.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    exec::{Process, child, eventually},
    netns::Netns,
};

/// Where Docker keeps namespaces and plugins' sockets, containerd its sockets, and both their settings.
const PLACES: [&str; 3] = ["/run/docker", "/run/containerd", "/etc/docker"];

/// How long namespaces may take to be made on a busy machine.
const READY: Duration = Duration::from_secs(10);

/// A mount namespace that overlayd and dockerd share, and within it, for dockerd and all its containers, a
/// process namespace: nothing of it outlives this.
pub struct Space {
    inner: Process,
    init: Pid,
    outer: Process,
    netns: PathBuf,
}

impl Space {
    /// Makes it for a node by its namespace, which gets `name` for its host name.
    pub fn new(netns: &Netns, name: &str) -> Result<Self> {
        for place in PLACES {
            fs::create_dir_all(place)
                .with_context(|| format!("cannot create {place}, where Docker has its files"))?;
        }
        // Shared, so that namespaces dockerd mounts in the inner one are seen by overlayd in the outer one.
        let mounts =
            PLACES.map(|place| format!("mount -t tmpfs tmpfs {place} && mount --make-shared {place}"));
        let script = format!("hostname {name} && {} && exec sleep infinity", mounts.join(" && "));
        let mut command = netns.command("unshare");
        // Namespaces that the lab makes later are seen inside.
        command.args(["--mount", "--propagation", "slave", "--uts", "sh", "-c", &script]);
        let outer = Process::spawn(&mut command)?;
        eventually(READY, || runs(outer.pid(), "sleep"))?;

        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", netns.path().display()))
            .args(["--target", &outer.pid().to_string(), "--mount", "--uts"])
            .args(["unshare", "--mount", "--propagation", "unchanged", "--pid", "--fork", "--kill-child"])
            // Reaps whom a killed dockerd leaves behind: it would take a dead containerd for a living one.
            .args(["--mount-proc", "docker-init", "--", "sleep", "infinity"]);
        let inner = Process::spawn(&mut command)?;
        let init = eventually(READY, || {
            let init = child(inner.pid())?;
            runs(init, "docker-init").map(|()| init)
        })?;
        Ok(Self { inner, init, outer, netns: netns.path() })
    }

    /// Words that put a command of the node's network namespace into the outer namespace.
    #[must_use]
    pub fn entry(&self) -> [String; 2] {
        ["nsenter".to_owned(), format!("--mount=/proc/{}/ns/mnt", self.outer.pid())]
    }

    /// A command that runs beside dockerd. It is a child of the process that this starts.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.netns.display()))
            .args(["--target", &self.init.to_string(), "--mount", "--uts", "--pid"])
            .arg(program);
        command
    }

    /// A file of dockerd's, as it is seen from outside.
    #[must_use]
    pub fn file(&self, path: &str) -> PathBuf {
        // /var/run is a link, and would be the machine's own /run.
        let path =
            path.strip_prefix("/var/run/").map_or_else(|| path.to_owned(), |rest| format!("/run/{rest}"));
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // It ends when all in it have, and only then does its parent.
        let _ = kill(self.init, Signal::SIGKILL);
        let _ = self.inner.wait(READY);
    }
}

/// Whether a process has become a program.
fn runs(pid: Pid, program: &str) -> Result<()> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm"))?;
    ensure!(name.trim() == program, "process {pid} is {} and not yet {program}", name.trim());
    Ok(())
}
