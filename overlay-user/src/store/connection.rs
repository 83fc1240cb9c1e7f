//! The connection to etcd: made when needed, kept while it answers, made to the next member when it
//! does not.

use std::{path::Path, sync::Arc, time::Duration};

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use super::{StoreOptions, error::Attempt, error::CallError};

/// A connection that is idle is probed this often, and given up when the probe has no answer.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(3));

/// To the end of TCP's handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// To the answer to user and password, connecting included.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(3);

/// A connection to whichever member answers.
pub(super) struct Connection {
    options: Arc<StoreOptions>,
    slot: Mutex<Slot>,
}

#[derive(Default)]
struct Slot {
    /// Which member is next.
    at: usize,
    client: Option<Client>,
    /// Raised with every client, so that a late failure of an old one is known as such.
    made: u64,
    silent_since: Option<Instant>,
}

/// A client of one member.
#[derive(Clone)]
pub(super) struct Member {
    pub client: Client,
    pub url: String,
    made: u64,
}

// === impl Connection ===

impl Connection {
    pub fn new(options: Arc<StoreOptions>) -> Self {
        Self { options, slot: Mutex::default() }
    }

    /// How many members there are to try.
    pub fn members(&self) -> usize {
        self.options.endpoints.len()
    }

    /// The client in use, or a new one of the next member.
    pub async fn member(&self) -> Result<Member, Attempt> {
        let mut slot = self.slot.lock().await;
        let url = self.options.endpoints[slot.at % self.members()].clone();
        let client = if let Some(client) = &slot.client {
            client.clone()
        } else {
            match Box::pin(dial(&self.options, &url)).await {
                Ok(client) => {
                    slot.made += 1;
                    slot.client.insert(client).clone()
                }
                Err(attempt) => {
                    slot.at += 1;
                    slot.silent_since.get_or_insert_with(Instant::now);
                    return Err(attempt);
                }
            }
        };
        Ok(Member { client, url, made: slot.made })
    }

    /// A client of one member, beside the one in use.
    pub async fn dial(&self, url: &str) -> Result<Client, String> {
        Box::pin(dial(&self.options, url)).await.map_err(|attempt| match attempt {
            Attempt::Failed { text, .. } => text,
            Attempt::Answered(error) => error.to_string(),
        })
    }

    /// Gives up a member that did not answer: the next is tried.
    pub async fn failed(&self, member: &Member) {
        let mut slot = self.slot.lock().await;
        if slot.made == member.made && slot.client.take().is_some() {
            slot.at += 1;
        }
        slot.silent_since.get_or_insert_with(Instant::now);
    }

    /// Connects anew with the next request, to the same member: this node's own address has changed, and
    /// what is sent from the old one gets no answer.
    pub async fn reset(&self) {
        self.slot.lock().await.client = None;
    }

    /// A member has answered.
    pub async fn answered(&self) {
        self.slot.lock().await.silent_since = None;
    }

    /// For how long no member has answered.
    pub async fn silent_for(&self) -> Duration {
        self.slot.lock().await.silent_since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// Makes a client of one member. It connects with the first request; with credentials it does now.
async fn dial(options: &StoreOptions, url: &str) -> Result<Client, Attempt> {
    let (interval, patience) = KEEP_ALIVE;
    let mut connect = ConnectOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_keep_alive(interval, patience)
        .with_keep_alive_while_idle(true)
        .with_require_leader(true)
        .with_auto_token_refresh(true);
    if url.starts_with("https://") {
        connect = connect.with_tls(tls(options).await?);
    }
    if let Some((user, password)) = &options.credentials {
        connect = connect.with_user(user, password);
    }
    match timeout(LOGIN_TIMEOUT, Client::connect([url], Some(connect))).await {
        Ok(Ok(client)) => Ok(client),
        Ok(Err(error)) => match Attempt::from(error) {
            Attempt::Failed { text, unsent } => {
                Err(Attempt::Failed { text: format!("{url}: {text}"), unsent })
            }
            answered @ Attempt::Answered(_) => Err(answered),
        },
        Err(_) => Err(Attempt::Failed { text: format!("{url}: no answer"), unsent: false }),
    }
}

/// Reads the files anew each time: certificates are renewed while we run.
async fn tls(options: &StoreOptions) -> Result<TlsOptions, Attempt> {
    let mut tls = TlsOptions::new().timeout(CONNECT_TIMEOUT);
    let files = options.tls.as_ref();
    tls = match files.and_then(|files| files.ca.as_ref()) {
        Some(ca) => tls.ca_certificate(Certificate::from_pem(read(ca).await?)),
        None => tls.with_enabled_roots(),
    };
    if let Some((certificate, key)) = files.and_then(|files| files.identity.as_ref()) {
        tls = tls.identity(Identity::from_pem(read(certificate).await?, read(key).await?));
    }
    Ok(tls)
}

async fn read(path: &Path) -> Result<Vec<u8>, Attempt> {
    tokio::fs::read(path).await.map_err(|error| {
        let text = format!("cannot read the TLS file {}: {error}", path.display());
        Attempt::Answered(CallError::Refused { code: tonic::Code::InvalidArgument, text })
    })
}
