//! Reading everything again while changes are followed, which do not wait for it.

use std::{collections::BTreeSet, vec};

use etcd_client::KeyValue;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{
    Store,
    awaited::Roll,
    call::Call,
    follow::{End, check, put, read_pages},
};
use crate::state::RecordSet;

/// How many pages wait to be taken at most.
const PAGES_AHEAD: usize = 2;

/// How many records are taken between two looks at the watch: a millisecond or so.
const AT_A_TIME: usize = 500;

/// A whole read at one revision, beside a watch that has told of that revision already or is about to.
pub(super) struct Rereading<'a> {
    reading: AbortOnDropHandle<Result<(), End>>,
    pages: mpsc::Receiver<Option<Vec<KeyValue>>>,
    /// What was read and is to be taken.
    page: vec::IntoIter<KeyValue>,
    /// There are no more pages.
    is_last: bool,
    /// Keys that the watch has told of since this began: what is read of them may be older.
    changed: BTreeSet<Vec<u8>>,
    taking: Taking<'a>,
}

/// A whole read as it is taken among the records.
pub(super) struct Taking<'a> {
    store: &'a Store,
    roll: Roll<'a>,
    /// How many bytes there were.
    size: u64,
}

// === impl Taking ===

impl<'a> Taking<'a> {
    /// Begins with a read.
    pub fn begin(store: &'a Store, records: &mut RecordSet) -> Self {
        records.begin();
        Self { store, roll: Roll::new(&store.inner.awaited), size: 0 }
    }

    /// Takes one of its keys, unless the value is `old`.
    pub fn take(&mut self, records: &mut RecordSet, kv: &KeyValue, old: bool) {
        self.size += (kv.key().len() + kv.value().len()) as u64;
        let key = self.store.keys().relative(kv.key());
        self.roll.meet(key.unwrap_or_default(), kv.mod_revision());
        if !old {
            put(records, key, kv);
        }
    }

    /// Ends it when all was taken.
    pub fn end(self, records: &mut RecordSet) {
        self.roll.complete(records);
        records.end();
    }

    /// How many bytes were taken.
    pub const fn size(&self) -> u64 {
        self.size
    }
}

// === impl Rereading ===

impl<'a> Rereading<'a> {
    /// Begins to read, on the connection of commands: what holds that up does not hold up the watch.
    pub fn begin(store: &'a Store, records: &mut RecordSet) -> Self {
        let (sender, pages) = mpsc::channel(PAGES_AHEAD);
        let reader = store.clone();
        let reading = AbortOnDropHandle::new(tokio::spawn(async move {
            let call = Call::stepwise(&reader.inner.connection);
            let revision = check(&reader, call).await?;
            read_pages(&reader, call, revision, &sender).await
        }));
        let (page, changed) = (Vec::new().into_iter(), BTreeSet::new());
        Self { reading, pages, page, is_last: false, changed, taking: Taking::begin(store, records) }
    }

    /// Takes note of a key that the watch tells of.
    pub fn note(&mut self, key: &[u8]) {
        self.changed.insert(key.to_vec());
    }

    /// Waits until there is something to take; may be given up.
    ///
    /// # Errors
    /// Why the rest cannot be read.
    pub async fn ready(&mut self) -> Result<(), End> {
        if self.is_last || self.page.len() > 0 {
            return Ok(());
        }
        match self.pages.recv().await {
            Some(Some(page)) => self.page = page.into_iter(),
            Some(None) => self.is_last = true,
            None => match (&mut self.reading).await {
                Ok(Err(end)) => return Err(end),
                Ok(Ok(())) => return Err(End::Again("reading it ended early".to_owned())),
                Err(error) => return Err(End::Again(error.to_string())),
            },
        }
        Ok(())
    }

    /// Takes some of what was read.
    pub fn take(&mut self, records: &mut RecordSet) {
        for kv in self.page.by_ref().take(AT_A_TIME) {
            self.taking.take(records, &kv, self.changed.contains(kv.key()));
        }
        records.settle();
    }

    /// Whether all was read and taken.
    pub const fn is_last(&self) -> bool {
        self.is_last
    }

    /// Ends it, when all was taken. Returns how many bytes there were.
    pub fn end(self, records: &mut RecordSet) -> u64 {
        let size = self.taking.size();
        self.taking.end(records);
        size
    }
}

/// Waits until there is something to take; for ever if nothing is read.
pub(super) async fn ready(rereading: &mut Option<Rereading<'_>>) -> Result<(), End> {
    match rereading {
        Some(rereading) => rereading.ready().await,
        None => std::future::pending().await,
    }
}
