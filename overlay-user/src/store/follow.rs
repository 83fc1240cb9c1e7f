//! Following the store: read everything at one revision, watch from the next, read again now and then beside that,
//! and on any doubt instead of it. What is known is replaced as a whole, never taken away first.

use std::{mem, sync::Arc, time::Duration};

use etcd_client::{Event, EventType, GetOptions, KeyValue, WatchResponse};
use futures::FutureExt as _;
use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Store,
    call::Call,
    connection::Connection,
    left_out::LeftOutLog,
    reread::{self, Rereading, Taking},
    vigilance::Vigilance,
    watch::{Watch, WatchEnd},
};
use crate::state::{RawRecord, RecordSet, State};

/// However often everything is to be read again: all nodes together read no more than so many bytes a second
/// for it.
const REREAD_RATE: u64 = 8 << 20;

/// How many pages of a whole read wait to be decoded at most.
const PAGES_AHEAD: usize = 4;

/// Pauses before trying again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// What following the store has come to.
#[derive(Clone, Debug)]
pub struct Followed {
    /// The newest state read; the last good one while the store is away.
    pub state: Arc<State>,
    /// Whether it is current.
    pub health: StoreHealth,
}

/// Whether the followed state is current.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreHealth {
    /// Nothing was read yet; why, if an attempt failed.
    Connecting(Option<String>),
    /// The watch is live.
    Synced,
    /// The store went away; the last error. Forwarding goes on with the last state.
    Lost(String),
    /// The store is not the one we knew (wiped, or restored from an older copy): nothing is applied.
    Frozen(String),
}

struct Follower {
    store: Store,
    vigilance: Vigilance,
    /// Its own: a command that finds a member silent does not end the watch.
    connection: Connection,
    publisher: watch::Sender<Followed>,
    records: RecordSet,
    /// The revision up to which changes are in `records`.
    revision: i64,
    /// How many bytes reading everything took last.
    size: u64,
    left_out: LeftOutLog,
    cancel: CancellationToken,
}

/// Why one read and its watch have ended.
pub(super) enum End {
    /// To be read again at once.
    Again(String),
    /// The store does not answer.
    Lost(String),
    /// The store is not ours.
    Frozen(String),
}

// === impl Store ===

impl Store {
    /// Follows the store until `cancel`: reads everything at one revision, then watches from the
    /// next; on any doubt reads again. Never gives up.
    #[must_use]
    pub fn follow(&self, cancel: CancellationToken) -> watch::Receiver<Followed> {
        self.follow_from(RecordSet::default(), cancel)
    }

    /// As [`Self::follow`], by one who knew `records` of it before: what is the same is not kept twice.
    #[must_use]
    pub fn follow_from(&self, records: RecordSet, cancel: CancellationToken) -> watch::Receiver<Followed> {
        self.follow_with(records, Vigilance::default(), cancel)
    }

    /// As [`Self::follow_from`], with another vigilance.
    #[must_use]
    pub fn follow_with(
        &self,
        records: RecordSet,
        vigilance: Vigilance,
        cancel: CancellationToken,
    ) -> watch::Receiver<Followed> {
        let nothing = Followed { state: Arc::default(), health: StoreHealth::Connecting(None) };
        let (publisher, receiver) = watch::channel(nothing);
        let follower = Follower {
            store: self.clone(),
            vigilance,
            connection: Connection::new(Arc::clone(&self.inner.options)),
            publisher,
            records,
            revision: 0,
            size: 0,
            left_out: LeftOutLog::default(),
            cancel: cancel.clone(),
        };
        tokio::spawn(async move { cancel.run_until_cancelled(Box::pin(follower.run())).await });
        receiver
    }

    /// Has everything be read again now.
    pub fn read_again(&self) {
        self.inner.read_again.notify_one();
    }
}

// === impl Follower ===

impl Follower {
    async fn run(mut self) {
        let (shortest, longest) = PAUSES;
        let mut pause = shortest;
        loop {
            let begun = Instant::now();
            match self.session().await {
                End::Again(why) => tracing::debug!(why, "reading the store again"),
                End::Lost(why) => self.lose(why),
                End::Frozen(why) => self.freeze(why),
            }
            pause = if begun.elapsed() > longest * 2 { shortest } else { (pause * 2).min(longest) };
            let pausing = sleep(pause.mul_f64(rand::random_range(0.5..1.0)));
            tokio::select! { () = pausing => {}, () = self.store.inner.read_again.notified() => {} }
        }
    }

    /// Reads everything and follows the changes until that cannot go on.
    async fn session(&mut self) -> End {
        if let Err(end) = self.read().await {
            return end;
        }
        let Ok(member) = self.connection.member().await else {
            return End::Lost("the member that was read went away".to_owned());
        };
        let prefix = self.store.keys().prefix();
        let end = match Watch::open(&member.client, prefix, self.revision + 1, self.vigilance).await {
            Ok(watch) => {
                self.publish(self.revision);
                self.follow(watch).await
            }
            Err(end) => end.into(),
        };
        if let End::Lost(why) = end {
            self.connection.failed(&member).await;
            return End::Lost(format!("{}: {why}", member.url));
        }
        end
    }

    /// Reads everything, and takes it if the store is ours.
    async fn read(&mut self) -> Result<(), End> {
        let call = Call::stepwise(&self.connection);
        // Nothing of a store that is not ours goes among the records.
        let revision = check(&self.store, call).await?;
        let (pages, receiver) = mpsc::channel(PAGES_AHEAD);
        let (store, mut records) = (self.store.clone(), mem::take(&mut self.records));
        // While some are decoded the next ones come.
        let taking = spawn_blocking(move || {
            let size = take_pages(&store, &mut records, receiver);
            (records, size)
        });
        let read = read_pages(&self.store, call, revision, &pages).await;
        drop(pages);
        (self.records, self.size) = taking.await.map_err(|error| End::Again(error.to_string()))?;
        read?;
        self.revision = revision;
        Ok(())
    }

    /// When everything is to be read again.
    fn next_read(&self) -> Instant {
        let of_all = self.size * self.records.nodes() as u64;
        let reread = self.vigilance.reread.max(Duration::from_secs(of_all / REREAD_RATE));
        Instant::now() + reread.mul_f64(rand::random_range(1.0..1.2))
    }

    /// Follows the changes of a watch.
    async fn follow(&mut self, mut watch: Watch) -> End {
        let store = self.store.clone();
        let (mut due, mut rereading) = (self.next_read(), None);
        loop {
            let next = tokio::select! {
                biased;
                next = watch.next() => next,
                () = store.inner.read_again.notified() => return End::Again("it was asked for".to_owned()),
                () = store.inner.reconnect.notified() => {
                    self.connection.reset().await;
                    return End::Again("this node's address changed".to_owned());
                }
                () = sleep_until(due), if rereading.is_none() => {
                    rereading = Some(Rereading::begin(&store, &mut self.records));
                    continue;
                }
                ready = reread::ready(&mut rereading) => {
                    if let Err(end) = ready {
                        return end;
                    }
                    if let Some(whole) = rereading.take_if(|reading| reading.is_last()) {
                        self.size = whole.end(&mut self.records);
                        due = self.next_read();
                        self.publish(self.revision);
                    } else if let Some(reading) = &mut rereading {
                        reading.take(&mut self.records);
                    }
                    continue;
                }
            };
            let batch = match next {
                Ok(batch) => batch,
                Err(end) => return end.into(),
            };
            if let Some(reading) = &mut rereading {
                let events = batch.iter().flat_map(WatchResponse::events);
                events.filter_map(Event::kv).for_each(|kv| reading.note(kv.key()));
            }
            let newest = batch.iter().filter_map(|response| self.apply(response)).max();
            let meta = self.store.keys().meta();
            // A read tells what has become of the store.
            if let Err(why) = self.store.inner.identity.check_same(&meta, self.records.meta()) {
                return End::Again(why);
            }
            self.store.inner.identity.remember(self.records.meta(), self.revision);
            if let Some(newest) = newest {
                self.publish(newest);
            }
        }
    }

    /// Takes the changes of one response, which has whole revisions. Returns the revision of the
    /// newest that changes the state.
    fn apply(&mut self, response: &WatchResponse) -> Option<i64> {
        let floor = self.revision;
        let mut newest = None;
        for event in response.events() {
            let Some(kv) = event.kv().filter(|kv| kv.mod_revision() > floor) else {
                continue;
            };
            let key = self.store.keys().relative(kv.key());
            let changes = match event.event_type() {
                EventType::Put => {
                    let done =
                        key.is_some_and(|key| self.store.inner.awaited.written(&mut self.records, key));
                    put(&mut self.records, key, kv) || done
                }
                EventType::Delete => key.is_some_and(|key| self.records.delete(key)),
            };
            self.revision = self.revision.max(kv.mod_revision());
            if changes {
                newest = newest.max(Some(kv.mod_revision()));
            }
        }
        newest
    }

    /// Publishes what the records make.
    fn publish(&mut self, revision: i64) {
        let state = self.records.state(revision);
        self.left_out.update(&state.rejected);
        let before =
            self.publisher.send_replace(Followed { state: Arc::new(state), health: StoreHealth::Synced });
        if before.health != StoreHealth::Synced {
            tracing::info!(revision, "the store is followed");
        }
    }

    fn lose(&self, why: String) {
        if self.cancel.is_cancelled() {
            // Its connection is taken down, too, when the daemon ends.
            return;
        }
        self.publisher.send_modify(|followed| {
            followed.health = match &followed.health {
                StoreHealth::Connecting(before) => {
                    if before.is_none() {
                        tracing::warn!(why, "etcd is not reached; trying on");
                    }
                    StoreHealth::Connecting(Some(why))
                }
                // Not to be forgotten while the store is away.
                StoreHealth::Frozen(frozen) => StoreHealth::Frozen(frozen.clone()),
                before => {
                    if *before == StoreHealth::Synced {
                        tracing::warn!(why, "etcd went away; forwarding goes on");
                    }
                    StoreHealth::Lost(why)
                }
            };
        });
    }

    fn freeze(&self, why: String) {
        self.publisher.send_if_modified(|followed| {
            let frozen = StoreHealth::Frozen(why);
            let changed = followed.health != frozen;
            if changed && let StoreHealth::Frozen(why) = &frozen {
                tracing::error!(why, "the store is not the one that was followed");
                followed.health = frozen;
            }
            changed
        });
    }
}

impl From<WatchEnd> for End {
    fn from(end: WatchEnd) -> Self {
        match end {
            WatchEnd::Failed(why) => Self::Lost(why),
            WatchEnd::Gap(why) => Self::Again(why),
        }
    }
}

/// Checks that the store is ours. Returns its revision.
pub(super) async fn check(store: &Store, call: Call<'_>) -> Result<i64, End> {
    let (keys, identity) = (store.keys(), &store.inner.identity);
    let floor = identity.seen().revision;
    let mut answer =
        call.range(keys.meta(), GetOptions::new()).await.map_err(|error| End::Lost(error.to_string()))?;
    let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
    let mut meta = RecordSet::default();
    for kv in answer.take_kvs() {
        put(&mut meta, keys.relative(kv.key()), &kv);
    }
    identity.check(&keys.meta(), meta.meta(), revision, floor).map_err(End::Frozen)?;
    Ok(revision)
}

/// Hands on all records as they are at a revision, page by page, and `None` behind the last.
pub(super) async fn read_pages(
    store: &Store,
    call: Call<'_>,
    revision: i64,
    pages: &mpsc::Sender<Option<Vec<KeyValue>>>,
) -> Result<(), End> {
    for range in store.keys().of_records() {
        let hand_on = |page| pages.send(Some(page)).map(drop);
        call.pages_in(range, revision, hand_on).await.map_err(|error| End::Lost(error.to_string()))?;
    }
    let _ = pages.send(None).await;
    Ok(())
}

/// Takes all pages of a whole read, which ends with `None`. Returns how many bytes there were.
fn take_pages(
    store: &Store,
    records: &mut RecordSet,
    mut pages: mpsc::Receiver<Option<Vec<KeyValue>>>,
) -> u64 {
    let mut taking = Taking::begin(store, records);
    while let Some(page) = pages.blocking_recv() {
        let Some(page) = page else {
            let size = taking.size();
            taking.end(records);
            return size;
        };
        for kv in &page {
            taking.take(records, kv, false);
        }
        records.settle();
    }
    taking.size()
}

/// Takes one key. Returns whether that can change the state.
pub(super) fn put(records: &mut RecordSet, key: Option<&[u8]>, kv: &KeyValue) -> bool {
    key.is_some_and(|key| {
        records.put(RawRecord { key, value: kv.value(), create_revision: kv.create_revision() })
    })
}
