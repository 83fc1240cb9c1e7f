//! An etcd of several members, each on a machine of its own, with a wire for clients and one for themselves.

use std::{
    fs::{self, File},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{
    cleanup::{self, Resource, Undo},
    exec::{self, Process, eventually},
    netns::Netns,
    wire::{Card, Wire},
};

/// How long the members may take to agree on a leader on a busy machine.
const READY: Duration = Duration::from_secs(30);

/// Name of a member's interface to the others.
const PEER: &str = "peer";

/// The members.
pub struct EtcdMembers {
    members: Vec<Member>,
}

struct Member {
    process: Option<Process>,
    dir: PathBuf,
    client: String,
    _undo: Undo,
    netns: Netns,
}

impl EtcdMembers {
    /// Plugs `count` members in, starts them and waits until they answer.
    pub fn start(wire: &Wire, count: usize) -> Result<Self> {
        wire.netns().exec("ip link add peers type bridge")?;
        wire.netns().exec("ip link set peers up")?;
        let mut members = Vec::new();
        for number in 1..=count {
            let netns = Netns::new(&format!("etcd{number}"))?;
            let port = wire.plug(&netns, Card::Veth)?;
            let (outside, inside) = (format!("peer{number}"), netns.name());
            wire.netns().exec(&format!("ip link add {outside} type veth peer name {PEER} netns {inside}"))?;
            wire.netns().exec(&format!("ip link set {outside} master peers up"))?;
            netns.exec(&format!("ip address add 10.98.0.{number}/24 dev {PEER}"))?;
            netns.exec(&format!("ip link set {PEER} up"))?;
            let dir = std::env::temp_dir().join(cleanup::unique("member"));
            let undo = Undo::new(Resource::Directory(dir.clone()));
            fs::create_dir_all(&dir)?;
            let client = format!("http://{}:2379", port.addr);
            members.push(Member { process: None, dir, client, _undo: undo, netns });
        }
        let mut all = Self { members };
        for index in 0..count {
            all.restart(index)?;
        }
        eventually(READY, || all.ctl(&["endpoint", "health"])).context("the members do not agree")?;
        Ok(all)
    }

    /// Starts a member on the data it has; kills it first if it runs. Does not wait for it.
    pub fn restart(&mut self, index: usize) -> Result<()> {
        let peer = |index: usize| format!("http://10.98.0.{}:2380", index + 1);
        let name = |index: usize| format!("m{}", index + 1);
        let all = (0..self.members.len()).map(|index| format!("{}={}", name(index), peer(index)));
        let all = all.collect::<Vec<_>>().join(",");
        let member = &mut self.members[index];
        member.process = None;
        let log = File::options().create(true).append(true).open(member.dir.join("log"))?;
        let mut command = member.netns.command("etcd");
        command
            .arg("--data-dir")
            .arg(member.dir.join("data"))
            .args(["--name", &name(index), "--initial-cluster", &all, "--unsafe-no-fsync"])
            .args(["--heartbeat-interval", "200", "--election-timeout", "2000"])
            .args(["--listen-client-urls", "http://0.0.0.0:2379", "--advertise-client-urls", &member.client])
            .args(["--listen-peer-urls", &peer(index), "--initial-advertise-peer-urls", &peer(index)])
            .stdout(log.try_clone()?)
            .stderr(log);
        member.process = Some(Process::spawn(&mut command)?);
        Ok(())
    }

    /// Where clients reach them, as `--etcd` takes it.
    #[must_use]
    pub fn urls(&self) -> String {
        self.members.iter().map(|member| member.client.as_str()).collect::<Vec<_>>().join(",")
    }

    /// Kills a member.
    pub fn kill(&mut self, index: usize) {
        self.members[index].process = None;
    }

    /// Cuts a member off from the others, or ends that. It still takes clients' connections.
    pub fn cut_off(&self, index: usize, off: bool) -> Result<()> {
        let way = if off { "down" } else { "up" };
        self.members[index].netns.exec(&format!("ip link set {PEER} {way}")).map(drop)
    }

    /// Runs etcdctl against all of them.
    pub fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.members[0].netns.command("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.urls(), "--dial-timeout", "2s"]);
        exec::output(command.args(arguments))
    }
}
