//! The cluster that things are done to, and doing them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::sys::signal::Signal;
use overlay_tests::{
    cluster::Cluster,
    node::{
        Datapath::{self, Kernel, Tc, Xdp},
        Node,
    },
    wire::Card,
};
use overlay_user::api::{Client, CreateNetwork};
use tokio::{
    sync::{Mutex, RwLock, oneshot},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    fault,
    guest::{self, Guest, Network},
    journal::Journal,
    keys::Eye,
    script::SLOTS,
    step::{self, Place, Slot, Step},
};

/// The nodes: with each data path, and one more, of the kind that starts fastest.
pub const DATAPATHS: [Datapath; 4] = [Xdp, Tc, Kernel, Kernel];

/// The subnet of every network: whoever is on one must not be heard on another.
const SUBNET: &str = "10.1.0.0/16";

/// How long what is under way may take to come to an end: longer than any command may take.
const END: Duration = Duration::from_secs(20);

/// How long the daemon may not have been asked yet when it is killed.
const SENT: Duration = Duration::from_millis(500);

/// Between two looks at something that is waited for.
const POLL: Duration = Duration::from_millis(15);

/// The cluster, what is wrong with it, and what is asked of it.
pub struct Stage {
    pub cluster: Cluster,
    pub clients: Vec<Client>,
    pub networks: Vec<Arc<RwLock<Network>>>,
    pub guests: BTreeMap<step::Guest, guest::Shared>,
    pub eye: Eye,
    journal: Journal,
    under_way: JoinSet<()>,
    frozen: bool,
    stopping: BTreeSet<Place>,
    cut: BTreeSet<Place>,
    isolated: Option<[Place; 2]>,
    /// Last numbers of the nodes' underlay addresses.
    hosts: Vec<u8>,
}

impl Stage {
    pub fn set(journal: Journal) -> Result<Self> {
        let mut cluster = Cluster::empty()?;
        for (index, datapath) in DATAPATHS.into_iter().enumerate() {
            // What is broken behind a daemon's back is to be repaired while one waits.
            cluster.add(&format!("n{}", index + 1), Card::Veth, datapath, &["--verify-every", "1"])?;
        }
        cluster.wait_ready()?;
        let network = || Arc::new(RwLock::new(Network { exists: Some(false), wanted: false }));
        Ok(Self {
            clients: cluster.nodes.iter().map(|node| Client::new(node.socket())).collect(),
            networks: (0..SLOTS).map(|_| network()).collect(),
            guests: BTreeMap::new(),
            eye: Eye::open(&cluster.wire)?,
            journal,
            under_way: JoinSet::new(),
            frozen: false,
            stopping: BTreeSet::new(),
            cut: BTreeSet::new(),
            isolated: None,
            hosts: cluster.nodes.iter().map(|node| node.addr().octets()[3]).collect(),
            cluster,
        })
    }

    /// Does a step. What takes a daemon's answer goes on behind it.
    pub async fn perform(&mut self, number: usize, step: &Step) -> Result<()> {
        match *step {
            Step::Attach { guest, at, slot } => drop(self.attach(number, guest, at, slot, false)),
            Step::AttachKilled { guest, at, slot, after } => {
                let sent = self.attach(number, guest, at, slot, true);
                // Not if something that was asked for before takes long.
                let _ = timeout(SENT, sent).await;
                sleep(after).await;
                self.kill(at)?;
            }
            Step::Detach { guest } => drop(self.detach(number, guest)),
            Step::DetachKilled { guest, after } => {
                let Some(at) = self.detach(number, guest) else { return Ok(()) };
                sleep(after).await;
                self.kill(at)?;
            }
            Step::Vanish { guest } => self.vanish(number, guest),
            Step::Create { slot, at } => self.create(number, slot, at),
            Step::Remove { slot, at } => self.remove(number, slot, at),
            Step::Kill { at } => self.kill(at)?,
            Step::Stop { at } => self.stop(at)?,
            Step::Start { at } => self.start(at).await?,
            Step::Freeze => {
                self.cluster.etcd.freeze()?;
                self.frozen = true;
            }
            Step::Thaw => self.thaw()?,
            Step::Restart => {
                self.cluster.etcd.launch(&self.cluster.wire)?;
                self.frozen = false;
            }
            Step::Compact => self.eye.compact()?,
            Step::CutStore { at, cut } => {
                fault::cut_from_store(&self.cluster.nodes[at], cut)?;
                self.cut.insert(at);
            }
            Step::JoinStore { at } => self.join_store(at)?,
            Step::CutNodes { pair } => {
                self.isolated = Some(pair);
                self.isolate(pair, true)?;
            }
            Step::JoinNodes => self.join_nodes()?,
            Step::Flap { at, flap, down } => {
                fault::take_down(&self.cluster.wire, &self.cluster.nodes[at], flap)?;
                sleep(down).await;
                fault::bring_up(&self.cluster.wire, &self.cluster.nodes[at], flap)?;
            }
            Step::Readdress { at, host, gap } => {
                fault::readdress(&self.cluster.nodes[at], self.hosts[at], host, gap)?;
                self.hosts[at] = host;
            }
            Step::Damage { at, seed } => {
                self.journal.note(number, fault::damage(&self.cluster.nodes[at], seed)?);
            }
            Step::Pause { time } => sleep(time).await,
        }
        // What was begun is to be under way when the next step is done.
        tokio::task::yield_now().await;
        Ok(())
    }

    // === containers and networks ===

    /// Does something behind the steps, and notes what became of it.
    fn begin(&mut self, number: usize, work: impl Future<Output = Result<String>> + Send + 'static) {
        let journal = self.journal.clone();
        self.under_way.spawn(async move {
            let said = work.await.unwrap_or_else(|error| format!("the lab failed: {error:#}"));
            journal.note(number, format!("-> {said}"));
        });
    }

    /// Has a new container attached. What is returned tells when the daemon is asked.
    fn attach(
        &mut self,
        number: usize,
        guest: step::Guest,
        at: Place,
        slot: Slot,
        leaving: bool,
    ) -> oneshot::Receiver<()> {
        let (sent, is_sent) = oneshot::channel();
        let shared = Arc::new(Mutex::new(Guest::new(guest, at, slot)));
        self.guests.insert(guest, Arc::clone(&shared));
        let (client, network) = (self.clients[at].clone(), Arc::clone(&self.networks[slot]));
        self.begin(number, async move {
            let mut guest = shared.lock().await;
            // After what was asked for the network before, and not before what is asked for it later.
            drop(network.read().await);
            let said = guest.attach(&client, name(slot).parse()?, sent).await?;
            guest.leaving = leaving && guest.endpoint.is_some();
            Ok(said)
        });
        is_sent
    }

    /// Says where the container is.
    fn detach(&mut self, number: usize, guest: step::Guest) -> Option<Place> {
        let shared = Arc::clone(self.guests.get(&guest)?);
        let clients = self.clients.clone();
        // Whoever holds the lock does not change that.
        let at = shared.try_lock().ok().map(|guest| guest.at);
        self.begin(number, async move {
            let mut guest = shared.lock().await;
            let client = clients[guest.at].clone();
            guest.detach(&client).await
        });
        at
    }

    fn vanish(&mut self, number: usize, guest: step::Guest) {
        let Some(shared) = self.guests.get(&guest).cloned() else { return };
        self.begin(number, async move {
            let mut guest = shared.lock().await;
            guest.vanish().await?;
            guest.endpoint = None;
            Ok("gone".to_owned())
        });
    }

    fn create(&mut self, number: usize, slot: Slot, at: Place) {
        let (client, network) = (self.clients[at].clone(), Arc::clone(&self.networks[slot]));
        self.begin(number, async move {
            let mut network = network.write().await;
            network.wanted = true;
            let answer = create(&client, slot).await?;
            network.exists = guest::after_create(&answer);
            Ok(answer.map_or_else(|error| format!("not created: {error}"), |_| "created".to_owned()))
        });
    }

    fn remove(&mut self, number: usize, slot: Slot, at: Place) {
        let (client, network) = (self.clients[at].clone(), Arc::clone(&self.networks[slot]));
        self.begin(number, async move {
            let mut network = network.write().await;
            network.wanted = false;
            let answer = client.remove_network(&name(slot).parse()?).await;
            network.exists = guest::after_remove(&answer);
            Ok(answer.map_or_else(|error| format!("not removed: {error}"), |_| "removed".to_owned()))
        });
    }

    // === daemons ===

    fn runs(&self, at: Place) -> Result<bool> {
        self.cluster.nodes[at].daemon().map_or(Ok(false), |daemon| Ok(daemon.ended()?.is_none()))
    }

    fn kill(&mut self, at: Place) -> Result<()> {
        if self.runs(at)? {
            self.stopping.remove(&at);
            self.cluster.nodes[at].kill()?;
        }
        Ok(())
    }

    fn stop(&mut self, at: Place) -> Result<()> {
        if self.runs(at)? && self.stopping.insert(at) {
            self.cluster.nodes[at].daemon()?.signal(Signal::SIGTERM)?;
        }
        Ok(())
    }

    async fn start(&mut self, at: Place) -> Result<()> {
        if self.stopping.remove(&at) {
            self.ended(at).await?;
        } else if let Ok(daemon) = self.cluster.nodes[at].daemon() {
            let ended = daemon.ended()?;
            ensure!(
                ended.is_none(),
                "overlayd of n{} ended by itself: {}",
                at + 1,
                ended.unwrap_or_default()
            );
            return Ok(());
        }
        self.cluster.nodes[at].launch()
    }

    /// Waits until a daemon that was asked to stop has done so.
    async fn ended(&self, at: Place) -> Result<()> {
        let daemon = self.cluster.nodes[at].daemon()?;
        let begun = Instant::now();
        while begun.elapsed() < END {
            match daemon.ended()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("overlayd of n{} was asked to stop and ended with {status}", at + 1),
                None => sleep(POLL).await,
            }
        }
        bail!("overlayd of n{} was asked to stop and still runs", at + 1)
    }

    // === faults ===

    fn thaw(&mut self) -> Result<()> {
        if std::mem::take(&mut self.frozen) { self.cluster.etcd.thaw() } else { Ok(()) }
    }

    fn join_store(&mut self, at: Place) -> Result<()> {
        if self.cut.remove(&at) { fault::join_to_store(&self.cluster.nodes[at]) } else { Ok(()) }
    }

    fn join_nodes(&mut self) -> Result<()> {
        self.isolated.take().map_or(Ok(()), |pair| self.isolate(pair, false))
    }

    fn isolate(&self, pair: [Place; 2], isolated: bool) -> Result<()> {
        fault::isolate(&self.cluster.wire, pair.map(|at| &self.cluster.nodes[at]), isolated)
    }

    // === the end of a burst ===

    /// Undoes every fault, waits for what is under way, and has done what could not be.
    pub async fn heal(&mut self, networks: [bool; SLOTS]) -> Result<()> {
        self.thaw()?;
        self.join_nodes()?;
        for at in 0..self.cluster.nodes.len() {
            self.join_store(at)?;
        }
        for at in 0..self.cluster.nodes.len() {
            self.start(at).await?;
        }
        let all = async { while self.under_way.join_next().await.is_some() {} };
        timeout(END, all).await.map_err(|_| anyhow!("a command did not end"))?;
        let begun = Instant::now();
        while let Err(error) = self.make_up(networks).await {
            if begun.elapsed() > END {
                return Err(error);
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Asks again what had no answer, makes the networks that there should be, and forgets who is gone.
    async fn make_up(&mut self, networks: [bool; SLOTS]) -> Result<()> {
        let mut gone = Vec::new();
        for (number, guest) in &self.guests {
            let mut guest = guest.lock().await;
            if guest.leaving {
                let client = self.clients[guest.at].clone();
                let said = guest.detach(&client).await?;
                ensure!(!guest.leaving, "c{number}: {said}");
            }
            if guest.endpoint.is_none() {
                gone.push(*number);
            }
        }
        self.guests.retain(|number, _| !gone.contains(number));
        for (slot, network) in self.networks.iter().enumerate() {
            let mut network = network.write().await;
            let missing = networks[slot] && network.exists == Some(false);
            if missing || (network.exists.is_none() && network.wanted) {
                let answer = create(&self.clients[0], slot).await?;
                network.exists = guest::after_create(&answer);
                answer
                    .with_context(|| format!("net{slot} is not created"))
                    .map(drop)
                    .or_else(|error| if network.exists.is_some() { Ok(()) } else { Err(error) })?;
            } else if network.exists.is_none() {
                let answer = self.clients[0].remove_network(&name(slot).parse()?).await;
                network.exists = guest::after_remove(&answer);
                ensure!(network.exists.is_some(), "net{slot} is not removed: {:?}", answer.err());
            }
        }
        Ok(())
    }

    pub fn node(&self, at: Place) -> &Node {
        &self.cluster.nodes[at]
    }
}

async fn create(
    client: &Client,
    slot: Slot,
) -> Result<Result<overlay_user::api::Network, overlay_user::api::ClientError>> {
    let request = CreateNetwork {
        name: name(slot).parse()?,
        subnets: vec![SUBNET.parse()?],
        gateways: Vec::new(),
        ip_ranges: Vec::new(),
        vni: Some(vni(slot)),
        mtu: None,
        internal: false,
        policy: overlay_user::state::PolicyChange::default(),
        allow_overlap: true,
        aux: std::collections::BTreeMap::new(),
    };
    Ok(client.create_network(&request).await)
}

/// The name of a network.
pub fn name(slot: Slot) -> String {
    format!("net{slot}")
}

/// Its VNI.
pub fn vni(slot: Slot) -> u32 {
    7000 + u32::try_from(slot).unwrap_or_default()
}
