//! A node: a namespace on the wire with its own overlayd.

use std::{
    fmt,
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Mutex,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::{
    mount::{MsFlags, mount},
    sys::{
        signal::Signal,
        statfs::{BPF_FS_MAGIC, statfs},
    },
    unistd::{SysconfVar, sysconf},
};
use overlay_user::api::{Finding, Report};
use serde_json::Value;

use crate::{
    cleanup::{self, BPFFS, Resource, Undo},
    exec::{self, Process, eventually},
    netns::Netns,
    wire::{Card, Port, UPLINK, Wire},
};

/// How long a daemon may take to become healthy on a busy machine.
const READY: Duration = Duration::from_secs(30);

/// What is asked for with `--datapath`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datapath {
    /// The daemon's choice.
    Auto,
    /// Native XDP on the uplink.
    Xdp,
    /// tc on the uplink.
    Tc,
    /// The kernel's VXLAN device.
    Kernel,
}

/// A node and its daemon.
pub struct Node {
    name: String,
    port: Port,
    daemon: Option<Process>,
    datapath: Datapath,
    program: &'static str,
    arguments: Vec<String>,
    dir: PathBuf,
    bpffs: PathBuf,
    // The daemon goes first, then its pins, then the namespace with its devices.
    _undo: [Undo; 2],
    netns: Netns,
}

impl Node {
    /// Plugs a node in and starts its daemon. Does not wait for it.
    pub fn start(wire: &Wire, name: &str, card: Card, datapath: Datapath, more: &[&str]) -> Result<Self> {
        let mut node = Self::plug(wire, name, card, datapath, more)?;
        node.launch()?;
        Ok(node)
    }

    /// Plugs a node in; [`Self::launch`] starts its daemon.
    pub fn plug(wire: &Wire, name: &str, card: Card, datapath: Datapath, more: &[&str]) -> Result<Self> {
        mount_bpffs()?;
        let netns = Netns::new(name)?;
        let port = wire.plug(&netns, card)?;
        let unique = cleanup::unique(name);
        let (dir, bpffs) = (std::env::temp_dir().join(&unique), Path::new(BPFFS).join(&unique));
        let undo = [&dir, &bpffs].map(|path| Undo::new(Resource::Directory(path.clone())));
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;

        let path = |path: PathBuf| path.to_string_lossy().into_owned();
        let etcd = if more.contains(&"--etcd") { Vec::new() } else { vec!["--etcd".to_owned(), wire.etcd()] };
        let arguments = [
            ["--node", name].map(str::to_owned),
            ["--underlay", UPLINK].map(str::to_owned),
            ["--run-dir".to_owned(), path(dir.join("run"))],
            ["--state-dir".to_owned(), path(dir.join("state"))],
            ["--bpffs".to_owned(), path(bpffs.clone())],
        ];
        // No node is to meet this machine's Docker, or another node, on the usual sockets.
        let plugin = path(dir.join("run/docker.sock"));
        let docker = [["--docker", "none"], ["--docker-plugin", &plugin]];
        let docker = docker.iter().filter(|[flag, _]| !more.contains(flag)).flatten();
        let docker: Vec<_> = docker.map(|&argument| argument.to_owned()).collect();
        let log = ["--log", "info,overlay_user=debug"];
        let log = if more.contains(&"--log") { &[][..] } else { &log };
        let more = log.iter().chain(more);
        let more = more.map(|&argument| argument.to_owned());
        let arguments = arguments.into_iter().flatten().chain(etcd).chain(docker).chain(more).collect();
        Ok(Self {
            name: name.to_owned(),
            port,
            daemon: None,
            datapath,
            program: "overlayd",
            arguments,
            dir,
            bpffs,
            _undo: undo,
            netns,
        })
    }

    /// Its name in the cluster.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace it is in.
    #[must_use]
    pub const fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its tunnel address on a wire that carries IPv4.
    #[must_use]
    pub const fn addr(&self) -> Ipv4Addr {
        self.port.addr
    }

    /// Its tunnel address, whatever the wire carries.
    #[must_use]
    pub const fn tunnel(&self) -> IpAddr {
        self.port.tunnel
    }

    /// Where it is plugged in.
    #[must_use]
    pub const fn port(&self) -> &Port {
        &self.port
    }

    /// The directory of its pins.
    #[must_use]
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// What its daemon said so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("overlayd.log")
    }

    // === the daemon ===

    /// Starts the daemon.
    pub fn launch(&mut self) -> Result<()> {
        self.launch_by(&[])
    }

    /// How long the daemon's threads have run so far, in the kernel and out of it.
    pub fn cpu_time(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.daemon()?.pid()))?;
        // Behind the name, which may hold blanks: proc(5) counts utime and stime as 14 and 15.
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 =
            fields.get(11..13).context("a short stat")?.iter().flat_map(|f| f.parse::<u64>()).sum();
        let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick")?;
        Ok(Duration::from_millis(ticks * 1000 / u64::try_from(per_second)?))
    }

    /// Starts the daemon by way of another program, which gets the daemon's command line behind its
    /// own `wrapper` and must become it.
    pub fn launch_by(&mut self, wrapper: &[&str]) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut command = self.overlayd(wrapper)?;
        command.stdout(log.try_clone()?).stderr(log);
        self.daemon = Some(Process::spawn(&mut command)?);
        Ok(())
    }

    /// Asks for another data path from the next start on.
    pub const fn ask_for(&mut self, datapath: Datapath) {
        self.datapath = datapath;
    }

    /// Takes another program for the daemon from the next start on: `overlayd-next` is one whose maps have
    /// the next schema.
    pub const fn run_by(&mut self, program: &'static str) {
        self.program = program;
    }

    /// Lets the daemon serve a Docker from its next start on, by the plugin's usual socket. By itself it serves none.
    pub fn serve_docker(&mut self, docker: &str, plugin: &str) {
        for (flag, value) in [("--docker", docker), ("--docker-plugin", plugin)] {
            if let Some(at) = self.arguments.iter().position(|argument| argument == flag) {
                value.clone_into(&mut self.arguments[at + 1]);
            }
        }
    }

    /// Runs `overlayd --purge` for this node.
    pub fn purge(&self) -> Result<()> {
        exec::output(self.overlayd(&[])?.arg("--purge")).map(|_| ())
    }

    /// Removes what it keeps across restarts, its VXLAN devices included; endpoints' interfaces stay. The
    /// daemon must not run.
    pub fn forget(&self) -> Result<()> {
        for dir in [&self.bpffs, &self.dir.join("state")] {
            match fs::remove_dir_all(dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot remove {}", dir.display()));
                }
                _ => {}
            }
        }
        let listed = self.netns.exec("ip -oneline link show type vxlan")?;
        let names = listed.lines().filter_map(|line| line.split_whitespace().nth(1));
        names
            .map(|name| name.trim_end_matches(':'))
            .try_for_each(|name| self.netns.exec(&format!("ip link delete {name}")).map(|_| ()))
    }

    /// Takes from the node what a reset takes from a machine: every interface but the uplink, the firewall's rules,
    /// programs and maps. The daemon must not run.
    pub fn reset(&self) -> Result<()> {
        for dir in [&self.bpffs, &self.dir.join("run")] {
            fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        }
        let listed = self.netns.exec("ip -brief link show")?;
        let names = listed.lines().filter_map(|line| line.split(['@', ' ']).next());
        for name in names.filter(|name| !["lo", UPLINK].contains(name)) {
            // A pair's other end may have gone with the first.
            let _ = self.netns.exec(&format!("ip link delete {name}"));
        }
        self.netns.exec("nft flush ruleset").map(|_| ())
    }

    /// The daemon's command line, behind `wrapper`.
    pub fn overlayd(&self, wrapper: &[&str]) -> Result<Command> {
        let overlayd = program(self.program)?;
        let mut words = wrapper.iter().map(AsRef::as_ref).chain([overlayd.as_os_str()]);
        let mut command = self.netns.command(words.next().unwrap_or_default());
        command.args(words).args(["--datapath", &self.datapath.to_string()]).args(&self.arguments);
        Ok(command)
    }

    /// Waits until the daemon says that it is healthy.
    pub fn wait_ready(&self) -> Result<()> {
        let waited = eventually(READY, || {
            if let Some(status) = self.daemon()?.ended()? {
                return Ok(Err(anyhow!("overlayd ended with {status}")));
            }
            self.ctl(&["status", "--wait", "2"]).map(|_| Ok(()))
        });
        waited
            .flatten()
            .with_context(|| format!("{} did not become healthy; its log:\n{}", self.name, self.log()))
    }

    /// Kills the daemon with signal 9.
    pub fn kill(&mut self) -> Result<()> {
        self.daemon()?.signal(Signal::SIGKILL)?;
        self.daemon()?.wait(Duration::from_secs(5))?;
        self.daemon = None;
        Ok(())
    }

    /// Asks the daemon to stop, and waits until it did so without an error.
    pub fn stop(&mut self) -> Result<()> {
        self.daemon()?.signal(Signal::SIGTERM)?;
        let status = self.daemon()?.wait(Duration::from_secs(15))?;
        self.daemon = None;
        if !status.success() {
            bail!("overlayd of {} ended with {status}; its log:\n{}", self.name, self.log());
        }
        Ok(())
    }

    /// The daemon's process.
    pub fn daemon(&self) -> Result<&Process> {
        self.daemon.as_ref().with_context(|| format!("overlayd of {} does not run", self.name))
    }

    // === the tool ===

    /// The control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("run/overlayd.sock")
    }

    /// The socket on which Docker would find its driver, unless another was given.
    #[must_use]
    pub fn plugin_socket(&self) -> PathBuf {
        self.dir.join("run/docker.sock")
    }

    /// A command of overlayctl for this node.
    pub fn ctl_command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(program("overlayctl")?);
        command.arg("--socket").arg(self.socket()).args(arguments);
        Ok(command)
    }

    /// Runs overlayctl and returns what it printed.
    pub fn ctl(&self, arguments: &[&str]) -> Result<String> {
        exec::output(&mut self.ctl_command(arguments)?)
    }

    /// Runs overlayctl to its end, whatever that is.
    pub fn try_ctl(&self, arguments: &[&str]) -> Result<Output> {
        exec::run(&mut self.ctl_command(arguments)?)
    }

    /// Runs overlayctl and reads its JSON.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.ctl(&[&["-o", "json"], arguments].concat())?;
        serde_json::from_str(&text)
            .with_context(|| format!("overlayctl {arguments:?} printed no JSON: {text}"))
    }

    /// The daemon's status, whether it is healthy or not.
    pub fn status(&self) -> Result<Value> {
        let output = self.try_ctl(&["-o", "json", "status"])?;
        let said = || String::from_utf8_lossy(&output.stderr).into_owned();
        serde_json::from_slice(&output.stdout).with_context(said)
    }

    /// What `overlayctl doctor` finds; `more` goes to it.
    pub fn doctor(&self, more: &[&str]) -> Result<Vec<Finding>> {
        let output = self.try_ctl(&[&["-o", "json", "doctor"], more].concat())?;
        let said = || String::from_utf8_lossy(&output.stderr).into_owned();
        let report: Report = serde_json::from_slice(&output.stdout).with_context(said)?;
        ensure!(
            output.status.code() == Some(i32::from(!report.findings.is_empty())),
            "doctor ended with {} and found {:?}",
            output.status,
            report.findings
        );
        Ok(report.findings)
    }

    /// How many packets had `outcome` at `hook`.
    pub fn counter(&self, hook: &str, outcome: &str) -> Result<u64> {
        let status = self.status()?;
        let counters = status["counters"].as_array().context("status has no counters")?;
        let wanted = counters.iter().find(|c| c["hook"] == hook && c["outcome"] == outcome);
        Ok(wanted.and_then(|counter| counter["packets"].as_u64()).unwrap_or(0))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let status = self.ctl(&["status"]).unwrap_or_else(|error| format!("{error:#}"));
            eprintln!("---- overlayd of {}, {}:\n{}\n{status}", self.name, self.addr(), self.log());
        }
        self.daemon = None;
    }
}

impl fmt::Display for Datapath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::Xdp => "xdp",
            Self::Tc => "tc",
            Self::Kernel => "kernel",
        })
    }
}

/// A program of this workspace, from the directory this one was built into.
pub fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let mut dir = own.parent().context("this program is in no directory")?;
    if dir.ends_with("deps") {
        dir = dir.parent().unwrap_or(dir);
    }
    let program = dir.join(name);
    if !program.is_file() {
        bail!("{} is not there: run `cargo xtask build`", program.display());
    }
    Ok(program)
}

/// Cargo's target directory, which has what `cargo xtask` makes besides programs too.
pub fn target() -> Result<PathBuf> {
    let overlayd = program("overlayd")?;
    Ok(overlayd.ancestors().nth(2).context("overlayd is in no target directory")?.to_owned())
}

/// Mounts the BPF file system where it belongs, unless it is. On most machines the init system did.
fn mount_bpffs() -> Result<()> {
    // A second mount would hide what was pinned in the first.
    static MOUNTING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = cleanup::lock(&MOUNTING);
    if statfs(BPFFS)?.filesystem_type() == BPF_FS_MAGIC {
        return Ok(());
    }
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("cannot mount the BPF file system at {BPFFS}"))
}
