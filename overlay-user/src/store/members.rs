//! etcd's members, each asked for itself: whether it answers, what it complains of, how full it is.

use std::time::{Duration, SystemTime};

use etcd_client::{AlarmAction, AlarmType, GetOptions, StatusResponse};
use futures::future::join_all;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tonic::Code;

use super::{Store, call::Call, error::CallError, error::explain};
use crate::state::shown;

/// What one member is given to answer in.
const PATIENCE: Duration = Duration::from_secs(3);

/// The space etcd has unless it is told otherwise, in bytes.
const DEFAULT_QUOTA: u64 = 2 << 30;

/// So many revisions are more than an hour has on a busy cluster: who has them all never gives any up.
const MANY_REVISIONS: i64 = 100_000;

/// How a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where it is asked, as in `--etcd`.
    pub url: String,
    /// What it says of itself, or why it does not.
    pub answer: Result<MemberStatus, String>,
    /// How far its clock is from this host's, where that could be told.
    pub clock_differs_by: Option<Duration>,
}

/// What a member says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberStatus {
    /// It knows who leads.
    pub has_leader: bool,
    /// Bytes its database has on disk.
    pub size: u64,
    /// Bytes of them that are used.
    pub used: u64,
    /// Bytes it may have.
    pub quota: u64,
    /// What is wrong with it, in its own words.
    pub errors: Vec<String>,
    /// Alarms of the cluster, by their names; none where they may not be asked for.
    pub alarms: Vec<&'static str>,
}

// === impl Store ===

impl Store {
    /// Asks every member that was named how it is.
    pub async fn members(&self) -> Vec<Member> {
        join_all(self.inner.options.endpoints.iter().map(|url| self.member(url))).await
    }

    /// Whether the store keeps every change since it was made, and there are many.
    pub async fn is_never_compacted(&self) -> bool {
        let call = Call::new(&self.inner.connection);
        let oldest = GetOptions::new().with_revision(1).with_count_only();
        match call.range(self.keys().meta(), oldest).await {
            Ok(answer) => answer.header().is_some_and(|header| header.revision() > MANY_REVISIONS),
            // "required revision has been compacted", or no answer.
            Err(CallError::Refused { code: Code::OutOfRange, .. } | _) => false,
        }
    }

    async fn member(&self, url: &str) -> Member {
        let answer = timeout(PATIENCE, self.ask(url)).await;
        let answer = answer.unwrap_or_else(|_| Err("no answer".to_owned()));
        let clock = if answer.is_ok() { timeout(PATIENCE, clock(url)).await.ok().flatten() } else { None };
        Member { url: url.to_owned(), answer, clock_differs_by: clock }
    }

    async fn ask(&self, url: &str) -> Result<MemberStatus, String> {
        let mut client = self.inner.connection.dial(url).await?;
        let status = client.status().await.map_err(|error| explain(&error))?;
        // Not everybody may ask for alarms.
        let alarms = client.alarm(AlarmAction::Get, AlarmType::None, None).await;
        let alarms = alarms.map(|answer| answer.alarms().iter().filter_map(|a| name(a.alarm())).collect());
        Ok(MemberStatus { alarms: alarms.unwrap_or_default(), ..MemberStatus::of(&status) })
    }
}

impl MemberStatus {
    fn of(status: &StatusResponse) -> Self {
        let bytes = |number: i64| u64::try_from(number).unwrap_or(0);
        let quota = Some(bytes(status.db_size_quota())).filter(|quota| *quota != 0);
        Self {
            has_leader: status.leader() != 0,
            size: bytes(status.db_size()),
            used: bytes(status.raft_used_db_size()),
            quota: quota.unwrap_or(DEFAULT_QUOTA),
            errors: status.errors().iter().map(|error| shown(error)).collect(),
            alarms: Vec::new(),
        }
    }
}

const fn name(alarm: AlarmType) -> Option<&'static str> {
    match alarm {
        AlarmType::None => None,
        AlarmType::Nospace => Some("NOSPACE"),
        AlarmType::Corrupt => Some("CORRUPT"),
    }
}

/// How far a member's clock is from this host's, by the date of an answer over plain HTTP. It counts seconds.
async fn clock(url: &str) -> Option<Duration> {
    let host = url.strip_prefix("http://")?.trim_end_matches('/');
    let mut stream = TcpStream::connect(host).await.ok()?;
    let request = format!("GET /version HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.take(4096).read_to_end(&mut answer).await.ok()?;
    let now = SystemTime::now();
    let date = date_of(&String::from_utf8_lossy(&answer))?;
    Some(now.duration_since(date).unwrap_or_else(|early| early.duration()))
}

fn date_of(answer: &str) -> Option<SystemTime> {
    let mut lines = answer.lines().take_while(|line| !line.is_empty());
    let date = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("date").then_some(value.trim())
    })?;
    httpdate::parse_http_date(date).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_of_an_answer_is_found() {
        let answer =
            "HTTP/1.1 200 OK\r\nContent-Type: x\r\ndate: Thu, 01 Jan 1970 00:01:00 GMT\r\n\r\nDate: no";
        assert_eq!(date_of(answer), Some(SystemTime::UNIX_EPOCH + Duration::from_mins(1)));
        assert_eq!(date_of("HTTP/1.1 200 OK\r\n\r\nDate: Thu, 01 Jan 1970 00:01:00 GMT"), None);
    }
}
