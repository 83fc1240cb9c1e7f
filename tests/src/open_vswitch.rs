//! A VTEP of Open vSwitch, in user space: strict about checksums, where Linux's own is not.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use overlay_ebpf::abi::MacAddr;

use crate::{
    cleanup::{self, Resource, Undo},
    exec::{self, Process, eventually},
    netns::Netns,
    wire::{Card, UPLINK, Wire},
};

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

/// How long either of its programs may take to start.
const READY: Duration = Duration::from_secs(20);

/// MTU inside the overlay on a wire of 1500 bytes.
const MTU: u32 = 1450;

/// A namespace that is VTEP and endpoint in one: its end of the overlay is an interface of the switch.
pub struct OpenVSwitch {
    // They go before their directory and the namespace.
    _programs: [Process; 2],
    dir: PathBuf,
    _undo: Undo,
    /// The namespace.
    pub netns: Netns,
    /// Its tunnel address.
    pub vtep: Ipv4Addr,
}

impl OpenVSwitch {
    /// Starts one on the wire, with a database of its own.
    pub fn start(wire: &Wire, name: &str) -> Result<Self> {
        let netns = Netns::new(name)?;
        let vtep = wire.plug(&netns, Card::Veth)?.addr;
        let dir = std::env::temp_dir().join(cleanup::unique(name));
        let undo = Undo::new(Resource::Directory(dir.clone()));
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let (database, socket) = (dir.join("conf.db"), dir.join("db.sock"));
        let (database, socket) = (database.to_string_lossy(), socket.to_string_lossy());
        exec::output(Command::new("ovsdb-tool").args(["create", &database, SCHEMA]))?;
        let server =
            program(&netns, &dir, "ovsdb-server", &[&database, &format!("--remote=punix:{socket}")])?;
        eventually(READY, || {
            ensure!(Path::new(&*socket).exists(), "ovsdb-server does not listen");
            Ok(())
        })?;
        let switch = program(&netns, &dir, "ovs-vswitchd", &[&format!("unix:{socket}")])?;
        let this = Self { _programs: [switch, server], dir, _undo: undo, netns, vtep };
        this.vsctl("--no-wait init")?;

        // The tunnel's address is the switch's, on the bridge that has the uplink.
        this.vsctl(&format!(
            "add-br brphy -- set bridge brphy datapath_type=netdev -- add-port brphy {UPLINK}"
        ))?;
        this.netns.exec(&format!("ip address flush dev {UPLINK}"))?;
        this.netns.exec(&format!("ip address add {vtep}/24 dev brphy"))?;
        this.netns.exec("ip link set brphy up")?;
        Ok(this)
    }

    /// Joins a network that `peer` is a VTEP of, with an interface of its own.
    pub fn join(&self, vni: u32, peer: Ipv4Addr, addr: Ipv4Addr, mac: MacAddr) -> Result<()> {
        self.vsctl(&format!(
            "add-br brint -- set bridge brint datapath_type=netdev other-config:hwaddr=\"{mac}\" \
             -- add-port brint vx -- set interface vx type=vxlan options:remote_ip={peer} options:key={vni}"
        ))?;
        self.netns.exec(&format!("ip link set brint mtu {MTU} up"))?;
        self.netns.exec(&format!("ip address add {addr}/24 dev brint"))?;
        Ok(())
    }

    fn vsctl(&self, line: &str) -> Result<()> {
        let mut command = self.netns.command("ovs-vsctl");
        command.arg("--timeout=20").arg(format!("--db=unix:{}", self.dir.join("db.sock").display()));
        exec::output(command.args(line.split_whitespace())).map(|_| ())
    }
}

fn program(netns: &Netns, dir: &Path, name: &str, arguments: &[&str]) -> Result<Process> {
    let log = File::create(dir.join(format!("{name}.log")))?;
    let mut command = netns.command(name);
    for directory in ["OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR"] {
        command.env(directory, dir);
    }
    Process::spawn(command.args(arguments).stdout(log.try_clone()?).stderr(log))
}
