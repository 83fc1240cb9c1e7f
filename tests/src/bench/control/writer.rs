//! Writes to etcd as a cluster of nodes would.

use std::{
    collections::HashSet,
    future::Future,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use etcd_client::{Client, Txn, TxnOp, WatchOptions};
use tokio::{
    runtime::{Builder, Runtime},
    task::{AbortHandle, JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval},
};

use super::population::{NODES, PREFIX, Record, Simulated, node_records};
use crate::wire::Wire;

/// Connections to etcd.
const CONNECTIONS: usize = 8;

/// Transactions that are under way at once where as much as possible is written.
const AT_ONCE: usize = 32;

/// Endpoints in one transaction of [`Writer::fill`], of three keys each, and how many of those are under way at
/// once: etcd gives a request up that waits for long.
const IN_A_TRANSACTION: usize = 400;
const LARGE_AT_ONCE: usize = 3;

/// Changes in one transaction of [`Writer::burst`].
const TOGETHER: u64 = 20;

/// Those who come and go, and how many of them are there at a time. The last ones of all are
/// [`Writer::guest`]s.
pub const COMERS: u32 = 8_192;
const PRESENT: u64 = 1_024;

/// How often [`Writer::fill`] says how far it is.
const TELL: Duration = Duration::from_secs(10);

/// Clients of etcd and the threads they run on.
pub struct Writer {
    runtime: Runtime,
    clients: Vec<Client>,
    url: String,
    /// How many changes there were.
    changes: Arc<AtomicU64>,
}

/// Changes that are made in the background.
pub struct Stream {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Result<()>>>,
    begun: Instant,
    before: u64,
}

/// Watchers in the background, ended when dropped.
pub struct Watchers(Vec<AbortHandle>);

// === impl Writer ===

impl Writer {
    /// Connects from the wire.
    pub fn connect(wire: &Wire) -> Result<Self> {
        // Its threads are in the network namespace of the one that makes it.
        let runtime =
            wire.netns().run(|| Ok(Builder::new_multi_thread().worker_threads(2).enable_all().build()?))?;
        let mut writer =
            Self { runtime, clients: Vec::new(), url: wire.etcd(), changes: Arc::new(AtomicU64::new(0)) };
        for _ in 0..CONNECTIONS {
            let url = writer.url.clone();
            let client = writer.run(async move { Ok(Client::connect([url], None).await?) })?;
            writer.clients.push(client);
        }
        Ok(writer)
    }

    /// Writes the nodes' records.
    pub fn nodes(&self) -> Result<()> {
        let records = (0..NODES).map(node_records);
        let records: Vec<Record> = records.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        let transactions = records.chunks(100).map(|records| Ok(puts(records.to_vec())));
        self.commit_all(transactions, |_| {})
    }

    /// Writes the records of settled endpoints.
    pub fn fill(&self, numbers: Range<u32>) -> Result<()> {
        let all = numbers.len();
        let endpoints: Vec<_> = numbers.map(Simulated::settled).collect();
        let transactions = endpoints.chunks(IN_A_TRANSACTION).map(attached);
        let mut told = Instant::now();
        self.commit_all(transactions, |done| {
            if told.elapsed() > TELL {
                told = Instant::now();
                eprintln!("    control: {} of {all} endpoints written", done * IN_A_TRANSACTION);
            }
        })
    }

    /// Writes the endpoints that are there before the first change.
    pub fn first_comers(&self) -> Result<()> {
        let endpoints: Vec<_> = (0..PRESENT).map(comer).collect();
        let transactions = endpoints.chunks(IN_A_TRANSACTION).map(attached);
        self.commit_all(transactions, |_| {})
    }

    /// An endpoint that no change is about.
    pub const fn guest(number: u32) -> Simulated {
        Simulated::comer(COMERS + number)
    }

    /// Attaches an endpoint; when etcd had acknowledged it.
    pub fn attach(&self, endpoint: Simulated) -> Result<Instant> {
        self.commit(attached(&[endpoint])?)
    }

    /// Detaches one.
    pub fn detach(&self, endpoint: Simulated) -> Result<Instant> {
        self.commit(detached(endpoint))
    }

    /// Makes changes, as many a second, until they are stopped.
    pub fn changes(&self, a_second: u32) -> Stream {
        let stop = Arc::new(AtomicBool::new(false));
        let (before, begun) = (self.changes.load(Ordering::Relaxed), Instant::now());
        let each = u32::try_from(CONNECTIONS).unwrap_or(1);
        let task = |client: &Client| {
            let (mut client, stop, changes) = (client.clone(), Arc::clone(&stop), Arc::clone(&self.changes));
            self.runtime.spawn(async move {
                let mut ticks = interval(Duration::from_secs(1) * each / a_second);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
                while !stop.load(Ordering::Relaxed) {
                    ticks.tick().await;
                    let change = change(changes.fetch_add(1, Ordering::Relaxed))?;
                    client.txn(Txn::new().and_then(change)).await?;
                }
                Ok(())
            })
        };
        let tasks = self.clients.iter().map(task).collect();
        Stream { stop, tasks, begun, before }
    }

    /// Makes changes as fast as etcd takes them; how many there were, and how many a second. Many are in one
    /// transaction: etcd takes more of them so, and whoever watches has as many to do.
    pub fn burst(&self, count: u64) -> Result<(u64, f64)> {
        let count = count.next_multiple_of(TOGETHER);
        let before = self.changes.load(Ordering::Relaxed);
        let begun = Instant::now();
        let changes = Arc::clone(&self.changes);
        let clients = self.clients.clone();
        self.run(async move {
            let mut tasks = JoinSet::new();
            for mut client in clients.into_iter().cycle().take(AT_ONCE) {
                let changes = Arc::clone(&changes);
                tasks.spawn(async move {
                    loop {
                        let first = changes.fetch_add(TOGETHER, Ordering::Relaxed);
                        if first >= before + count {
                            changes.fetch_sub(TOGETHER, Ordering::Relaxed);
                            return Ok(());
                        }
                        let operations = (first..first + TOGETHER).map(change).collect::<Result<Vec<_>>>()?;
                        client.txn(Txn::new().and_then(operations.concat())).await?;
                    }
                });
            }
            tasks.join_all().await.into_iter().collect::<Result<()>>()
        })?;
        #[expect(clippy::cast_precision_loss, reason = "some ten thousands")]
        Ok((count, count as f64 / begun.elapsed().as_secs_f64()))
    }

    /// Ends a stream of changes; how many there were, and how many a second.
    pub fn stop(&self, stream: Stream) -> Result<(u64, f64)> {
        let Stream { stop, tasks, begun, before } = stream;
        stop.store(true, Ordering::Relaxed);
        let took = begun.elapsed();
        for task in tasks {
            self.runtime.block_on(task)??;
        }
        let count = self.changes.load(Ordering::Relaxed) - before;
        #[expect(clippy::cast_precision_loss, reason = "some thousands")]
        Ok((count, count as f64 / took.as_secs_f64()))
    }

    /// Which of those who come and go are there after all changes, and which are not.
    pub fn expected(&self) -> impl Iterator<Item = (Simulated, bool)> + use<> {
        let changes = self.changes.load(Ordering::Relaxed);
        // An even change is an arrival, an odd one a departure.
        let (gone, come) = (changes / 2, PRESENT + changes.div_ceil(2));
        let there: HashSet<_> = (gone..come).map(|n| n % u64::from(COMERS)).collect();
        (0..u64::from(COMERS)).map(move |n| (comer(n), there.contains(&n)))
    }

    /// Watches all keys as so many nodes do, each by a connection of its own.
    pub fn watchers(&self, count: usize) -> Result<Watchers> {
        let mut watchers = Vec::new();
        for _ in 0..count {
            let url = self.url.clone();
            let stream = self.run(async move {
                let mut client = Client::connect([url], None).await?;
                let options = WatchOptions::new().with_prefix().with_progress_notify();
                let stream = client.watch(PREFIX, Some(options)).await?;
                // The watch lives as long as its client.
                Ok((client, stream))
            })?;
            let task = self.runtime.spawn(async move {
                let (_client, mut stream) = stream;
                while let Ok(Some(_)) = stream.message().await {}
            });
            watchers.push(task.abort_handle());
        }
        Ok(Watchers(watchers))
    }

    fn commit(&self, operations: Vec<TxnOp>) -> Result<Instant> {
        let mut client = self.clients.first().context("no connection")?.clone();
        self.run(async move {
            let answer = client.txn(Txn::new().and_then(operations)).await?;
            let acknowledged = Instant::now();
            ensure!(answer.succeeded(), "etcd refused");
            Ok(acknowledged)
        })
    }

    fn commit_all(
        &self,
        transactions: impl Iterator<Item = Result<Vec<TxnOp>>>,
        mut progress: impl FnMut(usize),
    ) -> Result<()> {
        let (mut clients, mut done) = (self.clients.iter().cycle(), 0);
        let mut running = JoinSet::new();
        let mut finish = |running: &mut JoinSet<Result<_, _>>| -> Result<()> {
            if let Some(ended) = self.runtime.block_on(running.join_next()) {
                let _: etcd_client::TxnResponse = ended??;
                done += 1;
                progress(done);
            }
            Ok(())
        };
        for transaction in transactions {
            let transaction = Txn::new().and_then(transaction?);
            let mut client = clients.next().context("no connection")?.clone();
            running.spawn_on(async move { client.txn(transaction).await }, self.runtime.handle());
            if running.len() >= LARGE_AT_ONCE {
                finish(&mut running)?;
            }
        }
        while !running.is_empty() {
            finish(&mut running)?;
        }
        Ok(())
    }

    /// Runs a future on the threads that are on the wire.
    fn run<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        self.runtime.block_on(self.runtime.spawn(work))?
    }
}

// === impl Watchers ===

impl Drop for Watchers {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

fn comer(number: u64) -> Simulated {
    Simulated::comer(u32::try_from(number % u64::from(COMERS)).unwrap_or(0))
}

/// What a change does: in turn somebody comes and somebody goes.
fn change(number: u64) -> Result<Vec<TxnOp>> {
    let pair = number / 2;
    if number.is_multiple_of(2) { attached(&[comer(PRESENT + pair)]) } else { Ok(detached(comer(pair))) }
}

fn attached(endpoints: &[Simulated]) -> Result<Vec<TxnOp>> {
    let mut records = Vec::with_capacity(endpoints.len() * 3);
    for endpoint in endpoints {
        records.extend(endpoint.records()?);
    }
    Ok(puts(records))
}

fn detached(endpoint: Simulated) -> Vec<TxnOp> {
    endpoint.keys().map(|key| TxnOp::delete(key, None)).into()
}

fn puts(records: Vec<Record>) -> Vec<TxnOp> {
    records.into_iter().map(|(key, value)| TxnOp::put(key, value, None)).collect()
}
