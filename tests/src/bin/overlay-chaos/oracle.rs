//! Whether everything is as it should be, by every account there is.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use overlay_user::api::{Attached, Examine, Health, Liveness, StoreState};
use tokio::{
    sync::OwnedMutexGuard,
    time::{Instant, sleep},
};

use crate::{
    guest::Guest,
    journal::Journal,
    keys, leaks,
    reach::{self, Voice},
    script::SLOTS,
    stage::{self, DATAPATHS, Stage},
};

/// How long the cluster may take to be as it should be once all is healed.
const PATIENCE: Duration = Duration::from_secs(45);

/// Between two looks: the least and the most. Each costs every node something.
const POLL: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(250)];

/// What a check found, if all is well.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settled {
    /// How many containers there are.
    pub guests: usize,
    /// How many datagrams were heard in the last look around, of which none was lost.
    pub heard: usize,
    /// How long it took from the healing on.
    pub took: Duration,
}

/// What should be.
struct Expected {
    guests: Vec<OwnedMutexGuard<Guest>>,
    networks: BTreeMap<String, u32>,
}

impl Expected {
    async fn of(stage: &Stage) -> Self {
        let mut guests = Vec::new();
        for guest in stage.guests.values() {
            guests.push(guest.clone().lock_owned().await);
        }
        let mut networks = BTreeMap::new();
        for (slot, network) in stage.networks.iter().enumerate() {
            if network.read().await.exists == Some(true) {
                networks.insert(stage::name(slot), stage::vni(slot));
            }
        }
        Self { guests, networks }
    }

    fn endpoints(&self) -> impl Iterator<Item = (&Guest, &Attached)> {
        self.guests.iter().filter_map(|guest| Some((&**guest, guest.endpoint.as_ref()?)))
    }
}

/// Waits until all is as it should be; the error says what was not in the end.
pub async fn settle(
    stage: &mut Stage,
    networks: [bool; SLOTS],
    journal: &Journal,
    step: usize,
    round: &mut u32,
) -> Result<Settled> {
    let begun = Instant::now();
    stage.heal(networks).await.context("not healed")?;
    journal.note(step, "healed");
    let expected = Expected::of(stage).await;
    let [mut pause, longest] = POLL;
    let mut missing = String::new();
    loop {
        *round += 1;
        match look(stage, &expected, *round).await {
            Ok(heard) => {
                let guests = expected.guests.len();
                return Ok(Settled { guests, heard, took: begun.elapsed() });
            }
            Err(error) if begun.elapsed() > PATIENCE => {
                return Err(error.context(format!("not within {} s", PATIENCE.as_secs())));
            }
            Err(error) => {
                let error = format!("{error:#}");
                if error != missing {
                    journal.note(step, format!("not yet: {error}"));
                    missing = error;
                }
                sleep(pause).await;
                pause = (pause * 3 / 2).min(longest);
            }
        }
    }
}

async fn look(stage: &Stage, expected: &Expected, round: u32) -> Result<usize> {
    for at in 0..DATAPATHS.len() {
        agrees(stage, expected, at).await.with_context(|| format!("n{}", at + 1))?;
    }
    let should = keys::Expected {
        nodes: stage.cluster.nodes.iter().map(overlay_tests::node::Node::name).collect(),
        networks: expected.networks.clone(),
        endpoints: expected.endpoints().map(|(guest, e)| (e, stage.node(guest.at).name())).collect(),
    };
    keys::check(&stage.eye.read().await?, &should)?;
    for (at, datapath) in DATAPATHS.into_iter().enumerate() {
        let own = || expected.endpoints().filter(|(guest, _)| guest.at == at);
        let devices: BTreeSet<_> = own().map(|(_, endpoint)| endpoint.host_device.clone()).collect();
        let vnis: BTreeSet<_> = own().map(|(_, endpoint)| endpoint.vni).collect();
        leaks::check(stage.node(at), datapath, &devices, &vnis)?;
    }
    for (at, client) in stage.clients.iter().enumerate() {
        let found = client.examine(&Examine { fix: false }).await?.findings;
        let found: Vec<_> =
            found.iter().map(|finding| format!("{} ({})", finding.what, finding.cause)).collect();
        ensure!(found.is_empty(), "the doctor of n{} found {}", at + 1, found.join("; "));
    }
    // One for each node and container, and the wire's.
    let namespaces = leaks::namespaces()?;
    let should = DATAPATHS.len() + expected.guests.len() + 1;
    ensure!(namespaces == should, "there are {namespaces} namespaces, not {should}");
    let voices = expected.guests.iter().filter_map(|guest| {
        let (addr, socket) = (guest.addr()?, guest.socket.as_ref()?);
        Some(Voice { guest: guest.number, vni: stage::vni(guest.slot), addr, socket })
    });
    reach::look(&voices.collect::<Vec<_>>(), round)
}

/// Whether a node is well and knows what there is.
async fn agrees(stage: &Stage, expected: &Expected, at: usize) -> Result<()> {
    let client = &stage.clients[at];
    let daemon = stage.node(at).daemon()?;
    ensure!(daemon.ended()?.is_none(), "overlayd ended by itself");
    let status = client.status().await?;
    ensure!(status.health == Health::Healthy, "{}", status.degraded.join("; "));
    ensure!(status.store.state == StoreState::Synced, "the store is {:?}", status.store.state);
    ensure!(
        status.store.applied >= Some(status.store.revision),
        "revision {} is not applied but {:?}",
        status.store.revision,
        status.store.applied
    );
    ensure!(status.rejected.is_empty(), "records are left out: {:?}", status.rejected);
    for peer in &status.peers {
        ensure!(peer.state == Liveness::Alive, "{} is {:?} to it", peer.name, peer.state);
    }
    let known: BTreeMap<_, _> =
        client.networks().await?.into_iter().map(|network| (network.name.to_string(), network.vni)).collect();
    ensure!(known == expected.networks, "it knows the networks {known:?}, not {:?}", expected.networks);
    let known: BTreeSet<_> = client
        .endpoints(None)
        .await?
        .into_iter()
        .map(|e| (e.id.to_string(), e.node.to_string(), e.mac.to_string(), e.addresses))
        .collect();
    let should: BTreeSet<_> = expected
        .endpoints()
        .map(|(guest, e)| {
            let addresses: Vec<_> = e.addresses.iter().map(ipnet::IpNet::addr).collect();
            (e.id.to_string(), stage.node(guest.at).name().to_owned(), e.mac.to_string(), addresses)
        })
        .collect();
    let (more, missing): (Vec<_>, Vec<_>) =
        (known.difference(&should).collect(), should.difference(&known).collect());
    ensure!(more.is_empty() && missing.is_empty(), "it knows {more:?} that are not, and not {missing:?}");
    Ok(())
}
