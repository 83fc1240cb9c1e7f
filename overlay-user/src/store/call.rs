//! Requests to etcd under one deadline, tried at one member after another.

use std::{future::ready, time::Duration};

use etcd_client::{Client, Compare, GetOptions, GetResponse, KeyValue, Txn, TxnOp};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::Code;

use super::{
    connection::Connection,
    error::{Attempt, CallError},
    stretch::{Stretches, after},
};

/// All that one call of a front door asks of etcd has its answer by then, so that a command ends
/// within ten seconds.
const DEADLINE: Duration = Duration::from_secs(7);

/// Of which one member gets this much before the next is asked.
const ATTEMPT: Duration = Duration::from_millis(3500);

/// When no member can be connected to, this long is waited for one to come.
const UNCONNECTED: Duration = Duration::from_secs(3);

/// How long one round of reading and writing may take when the store is in good health, with a margin.
const ROUND: Duration = Duration::from_secs(1);

/// The largest answer taken, in bytes: more than one request can have put there.
const LARGEST_ANSWER: usize = 64 << 20;

/// Keys asked for at a time, at most.
const PAGE: u32 = 10_000;

/// A deadline, and the connection to meet it on.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    connection: &'a Connection,
    /// For all requests together; `None`: each has its own.
    deadline: Option<Instant>,
}

/// An answer, and whether the request may have been carried out more than once.
struct Answer<T> {
    answer: T,
    repeated: bool,
}

/// A key and value that only this writer's transaction puts there.
#[derive(Clone, Copy)]
pub(super) struct Mark<'a> {
    pub key: &'a str,
    pub value: &'a [u8],
}

// === impl Call ===

impl<'a> Call<'a> {
    /// All that is asked has to be answered by one deadline.
    pub fn new(connection: &'a Connection) -> Self {
        Self { connection, deadline: Some(Instant::now() + DEADLINE) }
    }

    /// Work of many steps, each with a deadline of its own.
    pub fn stepwise(connection: &'a Connection) -> Self {
        Self { connection, deadline: None }
    }

    /// Whether there is time left for another round of requests, of those that may lose a race.
    pub fn has_time(&self) -> bool {
        self.deadline.is_none_or(|deadline| Instant::now() + ROUND < deadline)
    }

    /// Reads one key.
    pub async fn get(&self, key: &str) -> Result<Option<KeyValue>, CallError> {
        let mut answer = self.range(key, GetOptions::new()).await?;
        Ok(answer.take_kvs().into_iter().next())
    }

    /// Reads as the options say.
    pub async fn range(&self, key: impl AsRef<[u8]>, options: GetOptions) -> Result<GetResponse, CallError> {
        let get = |client: Client| {
            let mut kv = client.kv_client().max_decoding_message_size(LARGEST_ANSWER);
            let (key, options) = (key.as_ref().to_vec(), options.clone());
            async move { kv.get(key, Some(options)).await }
        };
        Ok(self.run(get).await?.answer)
    }

    /// Reads all keys that begin with `prefix`, as they are at one revision, page by page.
    pub async fn list(&self, prefix: &str) -> Result<Vec<KeyValue>, CallError> {
        let mut all = Vec::new();
        self.pages(prefix, |page| all.extend(page)).await?;
        Ok(all)
    }

    /// Hands on all keys that begin with `prefix`, as they are at one revision, page by page.
    /// Returns that revision.
    pub async fn pages(&self, prefix: &str, mut take: impl FnMut(Vec<KeyValue>)) -> Result<i64, CallError> {
        let take = |page| {
            take(page);
            ready(())
        };
        self.pages_in((prefix.as_bytes().to_vec(), end_of(prefix)), 0, take).await
    }

    /// Hands on all keys from one up to but not including another, as they are at `revision`; 0: at the newest.
    /// Returns that revision.
    pub async fn pages_in<F: Future<Output = ()>>(
        &self,
        (from, end): (Vec<u8>, Vec<u8>),
        mut revision: i64,
        mut take: impl FnMut(Vec<KeyValue>) -> F,
    ) -> Result<i64, CallError> {
        let mut limit = PAGE;
        let mut stretches = Stretches::new(from, end);
        while let Some((from, stop)) = stretches.next() {
            let options =
                GetOptions::new().with_range(stop).with_limit(i64::from(limit)).with_revision(revision);
            let mut page = match self.range(from, options).await {
                Ok(page) => page,
                // A page of large values: ask for fewer at a time.
                Err(CallError::Refused { code: Code::OutOfRange, text })
                    if limit > 1 && is_too_large(&text) =>
                {
                    limit = (limit / 8).max(1);
                    continue;
                }
                Err(error) => return Err(error),
            };
            if revision == 0 {
                revision = page.header().map_or(0, etcd_client::ResponseHeader::revision);
            }
            let more = page.more();
            let keys = page.take_kvs();
            let ends = keys.first().zip(keys.last()).map(|(first, last)| (first.key(), last.key()));
            stretches.took(ends, keys.len(), limit as usize, more);
            take(keys).await;
        }
        Ok(revision)
    }

    /// Carries out `operations` if all of `compares` hold. Returns the revision of the change, or
    /// `None` if one did not hold.
    ///
    /// A request whose answer was lost is sent again and may then find its own work: `mark` tells.
    pub async fn commit(
        &self,
        compares: Vec<Compare>,
        operations: Vec<TxnOp>,
        mark: Option<Mark<'_>>,
    ) -> Result<Option<i64>, CallError> {
        let txn = Txn::new().when(compares).and_then(operations);
        let Answer { answer, repeated } = self
            .run(|client| {
                let txn = txn.clone();
                async move { client.kv_client().txn(txn).await }
            })
            .await?;
        if answer.succeeded() {
            return Ok(Some(answer.header().map_or(0, etcd_client::ResponseHeader::revision)));
        }
        if repeated && let Some(Mark { key, value }) = mark {
            let found = self.get(key).await?.filter(|found| found.value() == value);
            return Ok(found.map(|found| found.mod_revision()));
        }
        Ok(None)
    }

    /// Makes a lease.
    pub async fn grant(&self, seconds: i64) -> Result<i64, CallError> {
        let grant = |client: Client| async move { client.lease_client().grant(seconds, None).await };
        Ok(self.run(grant).await?.answer.id())
    }

    /// Gives a lease its whole time again.
    pub async fn keep_alive(&self, lease: i64) -> Result<(), CallError> {
        let keep = |client: Client| async move { client.lease_client().keep_alive(lease).await };
        self.run(keep).await.map(drop)
    }

    /// How many seconds a lease has left; `None` if it has ended.
    pub async fn seconds_left(&self, lease: i64) -> Result<Option<i64>, CallError> {
        let ask = |client: Client| async move { client.lease_client().time_to_live(lease, None).await };
        Ok(Some(self.run(ask).await?.answer.ttl()).filter(|left| *left >= 0))
    }

    /// Ends a lease, and with it the keys under it. Not being able to is no error: it ends by itself.
    pub async fn revoke(&self, lease: i64) {
        let revoke = |client: Client| async move { client.lease_client().revoke(lease).await };
        if let Err(error) = self.run(revoke).await
            && !matches!(error, CallError::LeaseEnded)
        {
            tracing::debug!(lease, %error, "a lease is left to end by itself");
        }
    }

    /// Sends a request to one member after another until one answers.
    async fn run<T, F>(&self, request: impl Fn(Client) -> F) -> Result<Answer<T>, CallError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let begun = Instant::now();
        let deadline = self.deadline.unwrap_or(begun + DEADLINE);
        let (mut unconnected, mut repeated, mut why) = (0, false, None);
        loop {
            match self.attempt(deadline, &request).await {
                Ok(answer) => return Ok(Answer { answer, repeated }),
                Err(Attempt::Answered(error)) => return Err(error),
                Err(Attempt::Failed { text, unsent }) => {
                    unconnected += usize::from(unsent);
                    repeated |= !unsent;
                    // The last attempt may have had no time to fail by itself.
                    if why.is_none() || Instant::now() < deadline {
                        why = Some(text);
                    }
                }
            }
            let none_there = unconnected >= self.connection.members() && begun.elapsed() >= UNCONNECTED;
            if none_there || Instant::now() >= deadline {
                let silent = self.connection.silent_for().await.as_secs().max(1);
                return Err(CallError::NoAnswer(format!("{} (for {silent} s)", why.unwrap_or_default())));
            }
            sleep(Duration::from_millis(rand::random_range(50..250))).await;
        }
    }

    /// Sends a request to the member in use, or the next one.
    async fn attempt<T, F>(&self, deadline: Instant, request: impl Fn(Client) -> F) -> Result<T, Attempt>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        // One at a time is connected or logged in, and others may be waiting for that.
        let late = |_| Attempt::Failed { text: "no answer".to_owned(), unsent: true };
        let member = timeout_at(deadline, self.connection.member()).await.map_err(late)??;
        let left = deadline.saturating_duration_since(Instant::now());
        // The client's futures have many kilobytes.
        let answer = Box::pin(request(member.client.clone()));
        let failure = match timeout(left.min(ATTEMPT), answer).await {
            Ok(Ok(answer)) => {
                self.connection.answered().await;
                return Ok(answer);
            }
            Ok(Err(error)) => Attempt::from(error),
            Err(_) => Attempt::Failed { text: "no answer".to_owned(), unsent: false },
        };
        match failure {
            Attempt::Failed { text, unsent } => {
                self.connection.failed(&member).await;
                Err(Attempt::Failed { text: format!("{}: {text}", member.url), unsent })
            }
            answered @ Attempt::Answered(_) => {
                self.connection.answered().await;
                Err(answered)
            }
        }
    }
}

/// The first key after all that begin with `prefix`.
pub(super) fn end_of(prefix: &str) -> Vec<u8> {
    // UTF-8 has no byte 0xff, so there is one.
    after(prefix.as_bytes()).unwrap_or_default()
}

fn is_too_large(text: &str) -> bool {
    text.contains("too large")
}
