//! Asking others: the query as it came, under an identity and from a port that cannot be guessed, to one
//! server after another until one answers.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use hickory_proto::op::ResponseCode;
use tokio::{
    net::{TcpStream, UdpSocket},
    sync::Semaphore,
    time::{Instant, sleep_until, timeout},
};

use super::{
    answer::Transport,
    question::Question,
    stream::{read_message, write_message},
    upstreams::Upstreams,
};

/// How long a server may be silent before another, or the same once more, is asked as well.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long all of it may take: Docker's resolver, and glibc's, ask again after some seconds.
const DEADLINE: Duration = Duration::from_secs(3);

/// How often each server is asked if it says nothing.
const ROUNDS: usize = 2;

/// How many queries are asked at once, for all containers together: each has a socket or three.
const MOST_AT_ONCE: usize = 512;

/// The largest message there is, in bytes (RFC 1035, section 4.2.2).
const LARGEST: usize = u16::MAX as usize;

/// Asks others.
#[derive(Debug)]
pub struct Forwarder {
    upstreams: Upstreams,
    /// Which of them is asked first: the last one that answered where another did not.
    first: AtomicUsize,
    slots: Semaphore,
}

/// What a server said.
struct Reply {
    message: Vec<u8>,
    code: ResponseCode,
}

// === impl Forwarder ===

impl Forwarder {
    /// Asks `upstreams`.
    #[must_use]
    pub fn new(upstreams: Upstreams) -> Self {
        Self { upstreams, first: AtomicUsize::new(0), slots: Semaphore::new(MOST_AT_ONCE) }
    }

    /// Asks for an asker who is on `transport`, and returns the answer as it is to be given. `None` if nobody
    /// answers, there is nobody to ask, or too much is asked already.
    pub async fn ask(&self, query: &[u8], question: &Question, transport: Transport) -> Option<Vec<u8>> {
        let _slot = self.slots.try_acquire().ok()?;
        let upstreams = self.upstreams.now();
        let asked = timeout(DEADLINE, self.ask_all(&upstreams, query, question, transport)).await;
        let mut answer = asked.ok().flatten()?;
        set_id(&mut answer, question.header.id);
        Some(answer)
    }

    /// Asks one after the other. An answer that a server could not tell is given if no other can.
    async fn ask_all(
        &self,
        upstreams: &[SocketAddr],
        query: &[u8],
        question: &Question,
        transport: Transport,
    ) -> Option<Vec<u8>> {
        let first = self.first.load(Ordering::Relaxed).checked_rem(upstreams.len())?;
        let order = (0..upstreams.len()).map(|offset| (first + offset) % upstreams.len());
        let mut to_ask = order.cycle().take(upstreams.len() * ROUNDS);
        let mut settled = BTreeSet::new();
        let mut failure = None;
        let mut asking = FuturesUnordered::new();
        let mut due = Instant::now();
        loop {
            tokio::select! {
                biased;
                Some((index, reply)) = asking.next(), if !asking.is_empty() => match reply {
                    Ok(Reply { message, code: ResponseCode::NoError | ResponseCode::NXDomain }) => {
                        self.first.store(index, Ordering::Relaxed);
                        return Some(message);
                    }
                    reply => {
                        settled.insert(index);
                        failure = failure.or(reply.ok().map(|reply| reply.message));
                        due = Instant::now();
                    }
                },
                () = sleep_until(due) => {
                    if let Some(index) = to_ask.find(|index| !settled.contains(index)) {
                        let reply = ask(upstreams[index], query, question, transport);
                        asking.push(async move { (index, reply.await) });
                    } else if asking.is_empty() {
                        return failure;
                    }
                    due = Instant::now() + PATIENCE;
                }
            }
        }
    }
}

/// Asks one server: by UDP, and for an asker who takes what is longer, by TCP if it says that there is more.
async fn ask(
    server: SocketAddr,
    query: &[u8],
    question: &Question,
    transport: Transport,
) -> io::Result<Reply> {
    let (reply, truncated) = ask_by_datagram(server, query, question).await?;
    if truncated && transport == Transport::Stream {
        return ask_by_stream(server, query, question).await;
    }
    Ok(reply)
}

async fn ask_by_datagram(server: SocketAddr, query: &[u8], question: &Question) -> io::Result<(Reply, bool)> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // The kernel picks a port at random, and of what comes to it gives us what is from the server.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let (id, query) = renamed(query);
    socket.send(&query).await?;
    let mut message = vec![0; LARGEST];
    loop {
        let len = socket.recv(&mut message).await?;
        if let Some(header) = question.answered_by(&message[..len], id) {
            message.truncate(len);
            return Ok((Reply { message, code: header.response_code }, header.truncation));
        }
    }
}

async fn ask_by_stream(server: SocketAddr, query: &[u8], question: &Question) -> io::Result<Reply> {
    let mut stream = TcpStream::connect(server).await?;
    let (id, query) = renamed(query);
    write_message(&mut stream, &query).await?;
    let message = read_message(&mut stream, LARGEST).await?;
    let header = question.answered_by(&message, id);
    let header = header.ok_or_else(|| io::Error::other("this is no answer to the question"))?;
    Ok(Reply { message, code: header.response_code })
}

/// The query under a random identity.
fn renamed(query: &[u8]) -> (u16, Vec<u8>) {
    let id = rand::random();
    let mut query = query.to_vec();
    set_id(&mut query, id);
    (id, query)
}

/// Sets a message's identity, its first two bytes (RFC 1035, section 4.1.1).
fn set_id(message: &mut [u8], id: u16) {
    if let Some(bytes) = message.first_chunk_mut() {
        *bytes = id.to_be_bytes();
    }
}

#[cfg(test)]
mod tests;
