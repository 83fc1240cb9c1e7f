//! Docker's own overlay driver with an external store, as it was until Docker 23: a real dockerd on
//! each node, and etcd with its old API.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::contender::{Carries, Side, prepare};
use crate::{
    cleanup::{self, Resource, Undo},
    exec::{self, Process, eventually},
    netns::Netns,
    wire::{Card, Port, UPLINK, Wire},
};

/// The last version with the overlay driver for an external store.
const VERSION: &str = "20.10.";
const NETWORK: &str = "bench";
const IMAGE: &str = "box";
/// How long a daemon may take to start on a busy machine.
const READY: Duration = Duration::from_secs(40);

/// Two nodes with a dockerd each.
pub struct Docker {
    daemons: [Dockerd; 2],
    _etcd: Process,
    wire: Wire,
    _undo: Undo,
}

/// A dockerd and the node it runs on. It has its own process and mount namespaces, so that nothing of
/// it is seen on the host, and nothing outlives it.
struct Dockerd {
    process: Process,
    socket: PathBuf,
    port: Port,
    node: Netns,
}

impl Docker {
    pub fn start(carries: Carries) -> Result<(Self, [Side; 2])> {
        let version = exec::output(Command::new("dockerd").arg("--version"))?;
        ensure!(version.contains(VERSION), "needs dockerd {VERSION}x, here is: {}", version.trim());
        let wire = Wire::new()?;
        let dir = std::env::temp_dir().join(cleanup::unique("docker"));
        let undo = Undo::new(Resource::Directory(dir.clone()));
        fs::create_dir_all(&dir)?;
        let etcd = etcd(&wire, &dir)?;
        let daemons =
            [Dockerd::start(&wire, &dir, "a", carries)?, Dockerd::start(&wire, &dir, "b", carries)?];
        for daemon in &daemons {
            daemon.wait_ready()?;
            daemon.import(&dir)?;
        }
        // No container needs the world, and without it Docker needs no firewall rules.
        daemons[0].docker(&[
            "network",
            "create",
            "-d",
            "overlay",
            "--internal",
            "--subnet",
            "10.77.0.0/24",
            NETWORK,
        ])?;
        let sides = [daemons[0].container("client")?, daemons[1].container("server")?];
        Ok((Self { daemons, _etcd: etcd, wire, _undo: undo }, sides))
    }

    pub const fn node(&self, index: usize) -> &Netns {
        &self.daemons[index].node
    }

    pub const fn port(&self, index: usize) -> &Port {
        &self.daemons[index].port
    }

    pub const fn wire(&self) -> &Netns {
        self.wire.netns()
    }
}

/// etcd with the API of its second version.
fn etcd(wire: &Wire, dir: &Path) -> Result<Process> {
    let log = File::create(dir.join("etcd.log"))?;
    let url = format!("http://{}:2379", Wire::gateway());
    let mut command = wire.netns().command("etcd");
    command
        .arg("--data-dir")
        .arg(dir.join("etcd"))
        .args(["--enable-v2", "--listen-client-urls", &url, "--advertise-client-urls", &url])
        .args(["--listen-peer-urls", "http://127.0.0.1:2380"])
        .stdout(log.try_clone()?)
        .stderr(log);
    let etcd = Process::spawn(&mut command)?;
    eventually(READY, || {
        let mut health = wire.netns().command("etcdctl");
        health.env("ETCDCTL_API", "3").args(["--endpoints", &url, "endpoint", "health"]);
        exec::output(&mut health)
    })?;
    Ok(etcd)
}

impl Dockerd {
    fn start(wire: &Wire, dir: &Path, name: &str, carries: Carries) -> Result<Self> {
        let node = Netns::new(name)?;
        let port = wire.plug(&node, Card::Veth)?;
        prepare(wire.netns(), &node, &port, carries)?;
        let dir = dir.join(name);
        fs::create_dir_all(&dir)?;
        fs::create_dir_all("/run/docker")
            .context("cannot create /run/docker, where Docker keeps its namespaces")?;
        let log = File::create(dir.join("log"))?;
        let socket = dir.join("docker.sock");
        let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
        let mut command = node.command("unshare");
        command
            .args(["--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"])
            // The daemons find each other by their host names.
            .arg(format!("hostname {name} && mount -t tmpfs tmpfs /run/docker && exec dockerd \"$@\""))
            .arg("dockerd")
            .args(["--data-root", &path("data"), "--exec-root", &path("exec"), "--pidfile", &path("pid")])
            .args(["--host", &format!("unix://{}", socket.display())])
            .args(["--storage-driver", "vfs", "--bridge", "none", "--iptables=false", "--ip6tables=false"])
            .args(["--cluster-store", &format!("etcd://{}:2379", Wire::gateway())])
            .args(["--cluster-advertise", &format!("{UPLINK}:2376")])
            .stdout(log.try_clone()?)
            .stderr(log);
        let process = Process::spawn(&mut command)?;
        Ok(Self { process, socket, port, node })
    }

    fn wait_ready(&self) -> Result<()> {
        let log = || fs::read_to_string(self.socket.with_file_name("log")).unwrap_or_default();
        eventually(READY, || {
            if let Some(status) = self.process.ended()? {
                return Ok(Err(anyhow::anyhow!("dockerd ended with {status}")));
            }
            self.docker(&["info"]).map(|_| Ok(()))
        })
        .flatten()
        .with_context(|| format!("dockerd does not run; it said:\n{}", tail(&log(), 12)))
    }

    fn docker(&self, arguments: &[&str]) -> Result<String> {
        exec::output(
            Command::new("docker")
                .arg("--host")
                .arg(format!("unix://{}", self.socket.display()))
                .args(arguments),
        )
    }

    /// Makes an image without a registry.
    fn import(&self, dir: &Path) -> Result<()> {
        let root = dir.join("root");
        fs::create_dir_all(root.join("bin"))?;
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
        fs::copy(busybox.context("busybox is missing")?, root.join("bin/busybox"))?;
        let archive = dir.join("root.tar").to_string_lossy().into_owned();
        exec::output(Command::new("tar").arg("-C").arg(&root).args(["-cf", &archive, "."]))?;
        self.docker(&["import", &archive, IMAGE]).map(|_| ())
    }

    /// Starts a container that does nothing, and takes hold of its network namespace.
    fn container(&self, name: &str) -> Result<Side> {
        // The other daemon may have heard of the network a moment later.
        eventually(READY, || self.docker(&["network", "inspect", NETWORK]))?;
        self.docker(&[
            "run",
            "-d",
            "--name",
            name,
            "--network",
            NETWORK,
            IMAGE,
            "/bin/busybox",
            "sleep",
            "86400",
        ])?;
        let key = self.docker(&["inspect", "-f", "{{.NetworkSettings.SandboxKey}}", name])?;
        let addr = self.docker(&[
            "inspect",
            "-f",
            "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}",
            name,
        ])?;
        // /var/run would be the host's.
        let key = key.trim().replacen("/var/run/", "/run/", 1);
        let path = PathBuf::from(format!("/proc/{}/root{key}", self.inside()?));
        let container = Netns::adopt(name, &path)?;
        let addr = addr.trim().parse().with_context(|| format!("Docker gave no address but {addr:?}"))?;
        let interface = exec::output(container.command("ip").args(["-brief", "-4", "address"]))?;
        let interface = interface
            .lines()
            .find(|line| line.contains(&format!("{addr}/")))
            .and_then(|line| line.split(['@', ' ']).next())
            .context("the container has no interface with its address")?
            .to_owned();
        let mac = container.mac(&interface)?;
        Ok(Side { container, interface, addr, mac, host_device: String::new() })
    }

    /// A process inside the daemon's namespaces: the daemon, which unshare forked off.
    fn inside(&self) -> Result<String> {
        let pid = self.process.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        Ok(children.split_whitespace().next().context("dockerd does not run")?.to_owned())
    }
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
