//! The cluster: an etcd with room for all records, a node that carries every network, and another one.

use std::{
    os::unix::net::UnixDatagram,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::Pid;

use super::{
    maps::FIRST_VNI,
    population::{NETWORKS, network_name},
    writer::Writer,
};
use crate::{
    cluster::{Cluster, Network},
    container::Container,
    etcd::Etcd,
    exec,
    node::{Datapath, Node},
    wire::{Card, Wire},
};

/// 10 GB: three million keys, and what else is written here; most of them in large transactions.
const ETCD: [&str; 6] =
    ["--quota-backend-bytes", "10000000000", "--snapshot-count", "10000", "--max-txn-ops", "1500"];

/// The network of [`Scene::node`] and [`Scene::other`] alone, in which containers are attached for a ping.
pub const SMALL: Network<'_> = Network { name: "small", vni: FIRST_VNI + NETWORKS, subnet: "10.200.0.0/16" };

/// How long a daemon may take to get ready, whatever there is to read.
const READY: Duration = Duration::from_mins(10);

/// Last two bytes of the address that the node's own endpoint has in each network.
const OWN: &str = "255.10";

/// The cluster and whoever writes to its etcd.
pub struct Scene {
    /// Writes for everybody else.
    pub writer: Writer,
    /// In [`SMALL`], on the node.
    pub container: Container,
    // What the node carries the networks for.
    _containers: Vec<Container>,
    /// Where the kernel hears daemons say that they are ready.
    ready: (PathBuf, UnixDatagram),
    /// The node and the other one, in this order.
    pub cluster: Cluster,
    _dir: tempfile::TempDir,
}

// === impl Scene ===

impl Scene {
    /// Sets it up, without simulated endpoints; no daemon runs.
    pub fn set_up() -> Result<Self> {
        let wire = Wire::new()?;
        let etcd = Etcd::start_with(&wire, &ETCD)?;
        let mut cluster = Cluster { nodes: Vec::new(), etcd, wire };
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("ready");
        let ready = (socket.clone(), UnixDatagram::bind(&socket)?);
        for name in ["node", "other"] {
            cluster.add(name, Card::Veth, Datapath::Auto, &["--log", "info"])?;
        }
        cluster.wait_ready()?;
        let names: Vec<_> = (0..NETWORKS).map(network_name).collect();
        let mut containers = Vec::new();
        for (number, name) in (0..).zip(&names) {
            let subnet = format!("10.{number}.0.0/16");
            cluster.create_network(Network { name, vni: FIRST_VNI + number, subnet: &subnet })?;
            let own = ["--ip", &format!("10.{number}.{OWN}")];
            containers.push(Container::attach(&cluster.nodes[0], name, name, &own)?);
        }
        cluster.create_network(SMALL)?;
        let container = Container::attach(&cluster.nodes[0], SMALL.name, "b", &[])?;
        containers.push(Container::attach(&cluster.nodes[1], SMALL.name, "a", &[])?);
        for node in &mut cluster.nodes {
            node.stop()?;
        }
        let writer = Writer::connect(&cluster.wire)?;
        Ok(Self { writer, container, _containers: containers, ready, cluster, _dir: dir })
    }

    /// The node that carries all networks.
    pub fn node(&self) -> &Node {
        &self.cluster.nodes[0]
    }

    /// The other node.
    pub fn other(&self) -> &Node {
        &self.cluster.nodes[1]
    }

    /// The node's daemon.
    pub fn daemon(&self) -> Result<Pid> {
        Ok(self.node().daemon()?.pid())
    }

    /// How many endpoints the node itself has in the simulated networks and in [`SMALL`], and the other
    /// one there.
    pub const fn own_endpoints() -> usize {
        NETWORKS as usize + 2
    }

    /// Starts the node's daemon, with room for so many endpoints; when.
    pub fn start_node(&mut self, room: u32) -> Result<Instant> {
        let notify = self.notify()?;
        let room = format!("OVERLAY_MAX_ENDPOINTS={room}");
        let begun = Instant::now();
        self.cluster.nodes[0].launch_by(&["env", &notify, &room])?;
        Ok(begun)
    }

    /// Starts the other node's daemon and waits until nothing is left to do for both: one is ready with what it knew
    /// from before, and reads the store then.
    pub fn start_other(&mut self) -> Result<()> {
        let notify = self.notify()?;
        self.cluster.nodes[1].launch_by(&["env", &notify])?;
        self.wait_ready(1)?;
        exec::eventually(READY, || {
            let status = self.other().status()?;
            ensure!(status["store"]["state"] == "synced", "the store is {}", status["store"]["state"]);
            Ok(())
        })?;
        self.settled()
    }

    /// Waits until the node's daemon says that it is ready; when it did.
    pub fn node_ready(&self) -> Result<Instant> {
        self.wait_ready(0)
    }

    /// Keeps the node's daemon on one core, or lets it go where it likes again.
    pub fn on_one_core(&self, only: bool) -> Result<()> {
        let allowed = |pid: Pid| nix::sched::sched_getaffinity(pid);
        let own = allowed(Pid::from_raw(0))?;
        let cores: Vec<_> = (0..nix::sched::CpuSet::count())
            .filter(|core| own.is_set(*core).unwrap_or(false))
            .map(|core| core.to_string())
            .collect();
        let list = if only { cores.last().context("no core to run on")?.clone() } else { cores.join(",") };
        let mut command = Command::new("taskset");
        command.args(["--all-tasks", "--cpu-list", "--pid", &list, &self.daemon()?.to_string()]);
        exec::output(&mut command).map(|_| ())
    }

    /// Bytes that came to the node by its uplink.
    pub fn received(&self) -> Result<u64> {
        let text = self.node().netns().run(|| Ok(std::fs::read_to_string("/proc/thread-self/net/dev")?))?;
        let line = text.lines().find_map(|line| line.trim().strip_prefix("eth0:"));
        let bytes = line.and_then(|line| line.split_whitespace().next());
        Ok(bytes.context("the node has no eth0")?.parse()?)
    }

    /// Waits until the node's daemon has written what nothing waits for too: the forwarding databases of the
    /// kernel's devices.
    pub fn settled(&self) -> Result<()> {
        let begun = Instant::now();
        let mut last = None;
        while begun.elapsed() < READY {
            let status = self.node().status()?;
            let changed = status["datapath"]["rows_changed"].as_u64();
            if changed.is_some() && changed == last {
                return Ok(());
            }
            last = changed;
            std::thread::sleep(Duration::from_secs(1));
        }
        bail!("rows are changed on and on for {} s", READY.as_secs())
    }

    /// Rows that the node's daemon has changed since its start, once it follows etcd and is up to date.
    pub fn rows_changed(&self) -> Result<u64> {
        let synced = || {
            let status = self.node().status()?;
            let store = &status["store"];
            ensure!(store["state"] == "synced", "the store is {}", store["state"]);
            ensure!(store["applied"] == store["revision"], "applied is {}", store["applied"]);
            status["datapath"]["rows_changed"].as_u64().context("status tells no rows_changed")
        };
        exec::eventually(READY, synced)?;
        // What was restored is looked at once more when the store has been read.
        std::thread::sleep(Duration::from_secs(3));
        exec::eventually(READY, synced)
    }

    /// The assignment for the daemon's environment; nobody is ready yet.
    fn notify(&self) -> Result<String> {
        let (path, socket) = &self.ready;
        socket.set_nonblocking(true)?;
        while socket.recv(&mut [0; 64]).is_ok() {}
        socket.set_nonblocking(false)?;
        Ok(format!("NOTIFY_SOCKET={}", path.display()))
    }

    fn wait_ready(&self, node: usize) -> Result<Instant> {
        let (_, socket) = &self.ready;
        let node = &self.cluster.nodes[node];
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        let begun = Instant::now();
        let mut message = [0; 256];
        while begun.elapsed() < READY {
            match socket.recv(&mut message) {
                Ok(length) if message[..length].starts_with(b"READY=1") => return Ok(Instant::now()),
                _ => {}
            }
            if let Some(status) = node.daemon()?.ended()? {
                bail!("overlayd of {} ended with {status}; its log:\n{}", node.name(), node.log());
            }
        }
        bail!("{} was not ready after {} s; its log:\n{}", node.name(), READY.as_secs(), node.log())
    }
}
