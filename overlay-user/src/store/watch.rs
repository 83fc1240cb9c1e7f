//! One watch of a prefix, which tells when it can no longer be trusted.

use std::time::Duration;

use etcd_client::{Client, Error, WatchOptions, WatchRequestSender, WatchResponse, WatchResponseStream};
use futures::FutureExt as _;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::Code;

use super::{error::explain, vigilance::Vigilance};

/// To the confirmation of a new watch.
const OPEN: Duration = Duration::from_secs(5);

/// The largest message taken, in bytes. One that is larger is read in pages instead.
const LARGEST_MESSAGE: usize = 64 << 20;

/// A live watch.
pub(super) struct Watch {
    requests: WatchRequestSender,
    responses: WatchResponseStream,
    vigilance: Vigilance,
    heard: Instant,
    asked: Instant,
    /// The newest revision the store has told.
    revision: i64,
}

/// Why a watch cannot be trusted any more.
#[derive(Debug)]
pub(super) enum WatchEnd {
    /// The member went away or does not answer.
    Failed(String),
    /// The member answers, but the watch has a gap: everything has to be read again.
    Gap(String),
}

// === impl Watch ===

impl Watch {
    /// Watches all keys that begin with `prefix`, from `revision` on.
    pub async fn open(
        client: &Client,
        prefix: &str,
        revision: i64,
        vigilance: Vigilance,
    ) -> Result<Self, WatchEnd> {
        let options = WatchOptions::new().with_prefix().with_start_revision(revision).with_progress_notify();
        let mut client = client.watch_client().max_decoding_message_size(LARGEST_MESSAGE);
        let opened = timeout(OPEN, async {
            let (requests, responses) = client.watch(prefix, Some(options)).await?.split();
            let now = Instant::now();
            let mut watch = Self { requests, responses, vigilance, heard: now, asked: now, revision: 0 };
            let first = watch.responses.message().await?;
            Ok((watch, first))
        });
        let (mut watch, first) = match opened.await {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return Err(failed(&error)),
            Err(_) => return Err(WatchEnd::Failed("the watch was not confirmed".to_owned())),
        };
        watch.check(Ok(first))?;
        Ok(watch)
    }

    /// Waits for changes and returns all that are there.
    pub async fn next(&mut self) -> Result<Vec<WatchResponse>, WatchEnd> {
        let Vigilance { ask, silent, .. } = self.vigilance;
        loop {
            tokio::select! {
                message = self.responses.message() => {
                    let mut batch = vec![self.check(message)?];
                    while let Some(message) = self.responses.message().now_or_never() {
                        batch.push(self.check(message)?);
                    }
                    if batch.iter().any(|response| !response.events().is_empty()) {
                        return Ok(batch);
                    }
                }
                () = sleep_until(self.asked.max(self.heard) + ask) => {
                    let heard = self.heard.elapsed();
                    if heard > silent {
                        return Err(WatchEnd::Failed(format!("the watch was silent for {} s", heard.as_secs())));
                    }
                    self.asked = Instant::now();
                    self.requests.request_progress().await.map_err(|error| failed(&error))?;
                }
            }
        }
    }

    fn check(&mut self, message: Result<Option<WatchResponse>, Error>) -> Result<WatchResponse, WatchEnd> {
        let response = message.map_err(|error| failed(&error))?;
        let response = response.ok_or_else(|| WatchEnd::Failed("the watch was closed".to_owned()))?;
        self.heard = Instant::now();
        if response.compact_revision() > 0 {
            let compacted = response.compact_revision();
            return Err(WatchEnd::Gap(format!("the store was compacted up to revision {compacted}")));
        }
        if response.canceled() {
            return Err(WatchEnd::Gap(format!("the watch was cancelled: {}", response.cancel_reason())));
        }
        let revision = response.header().map_or(0, etcd_client::ResponseHeader::revision);
        if revision < self.revision {
            return Err(WatchEnd::Gap(format!("the revision fell from {} to {revision}", self.revision)));
        }
        self.revision = revision;
        Ok(response)
    }
}

fn failed(error: &Error) -> WatchEnd {
    let text = explain(error);
    match error {
        Error::GRpcStatus(status) if status.code() == Code::OutOfRange => WatchEnd::Gap(text),
        _ => WatchEnd::Failed(text),
    }
}
