//! Serving the sockets of one place. One task does it all: what one container asks delays no other's.

use std::{collections::BTreeSet, convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use hickory_proto::op::ResponseCode;
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    Resolver,
    answer::{Transport, Verdict, failure},
    figures::Outcome,
    place::Sockets,
    stream::{read_message, write_message},
};
use crate::state::NetworkName;

/// The largest query taken, in bytes. A name has 255, and the options that go with it are few.
const LARGEST_QUERY: usize = 4096;

/// How many queries of one place are with others at a time, and how many connections are open.
const MOST_AT_ONCE: usize = 128;
const MOST_CONNECTIONS: usize = 32;

/// How long a connection may be without a query, and writing an answer may take.
const IDLE: Duration = Duration::from_secs(10);

/// After an error of a socket, so that one that stays costs no CPU.
const PAUSE: Duration = Duration::from_millis(100);

/// The networks whose names may be seen.
pub type Scope = BTreeSet<NetworkName>;

/// One place's queries, and what they are answered by.
pub struct Listener {
    pub resolver: Arc<Resolver>,
    /// `None` where nobody may ask any more.
    pub scope: watch::Receiver<Option<Arc<Scope>>>,
}

/// What is to be done about a query.
enum Next {
    /// This is to be sent back.
    Send(Vec<u8>),
    /// Others are to be asked.
    Ask(super::question::Question),
    /// Nothing.
    Nothing,
}

// === impl Listener ===

impl Listener {
    /// Serves until dropped.
    ///
    /// # Errors
    /// If the sockets cannot be used at all.
    pub async fn serve(&self, sockets: Sockets) -> io::Result<Infallible> {
        let udp = UdpSocket::from_std(sockets.udp)?;
        let tcp = TcpListener::from_std(sockets.tcp)?;
        let mut asked = FuturesUnordered::new();
        let mut connections = FuturesUnordered::new();
        // One more than is taken tells that there was more.
        let mut buffer = vec![0; LARGEST_QUERY + 1];
        loop {
            tokio::select! {
                received = udp.recv_from(&mut buffer) => match received {
                    Ok((len, from)) if len <= LARGEST_QUERY => {
                        let query = &buffer[..len];
                        match self.judge(query, Transport::Datagram, asked.len() < MOST_AT_ONCE) {
                            Next::Send(answer) => send(&udp, &answer, from),
                            Next::Ask(question) => {
                                let query = query.to_vec();
                                asked.push(async move {
                                    (self.ask(&query, &question, Transport::Datagram).await, from)
                                });
                            }
                            Next::Nothing => {}
                        }
                    }
                    Ok(_) => self.resolver.figures.count(Outcome::Refused),
                    Err(error) => pause("receive a query", &error).await,
                },
                Some((answer, to)) = asked.next(), if !asked.is_empty() => send(&udp, &answer, to),
                accepted = tcp.accept(), if connections.len() < MOST_CONNECTIONS => match accepted {
                    Ok((stream, _)) => connections.push(self.converse(stream)),
                    Err(error) => pause("take a connection", &error).await,
                },
                Some(()) = connections.next(), if !connections.is_empty() => {}
            }
        }
    }

    /// Answers the queries of a connection, one after the other, until it ends.
    async fn converse(&self, mut stream: TcpStream) {
        while let Ok(Ok(query)) = timeout(IDLE, read_message(&mut stream, LARGEST_QUERY)).await {
            let answer = match self.judge(&query, Transport::Stream, true) {
                Next::Send(answer) => answer,
                Next::Ask(question) => self.ask(&query, &question, Transport::Stream).await,
                Next::Nothing => return,
            };
            if !matches!(timeout(IDLE, write_message(&mut stream, &answer)).await, Ok(Ok(()))) {
                return;
            }
        }
    }

    fn judge(&self, query: &[u8], transport: Transport, room: bool) -> Next {
        let Some(scope) = self.scope.borrow().clone() else { return Next::Nothing };
        match self.resolver.judge(query, transport, &scope) {
            Verdict::Answer(answer) => {
                self.resolver.figures.count(Outcome::Answered);
                Next::Send(answer)
            }
            Verdict::Forward(question) if room => Next::Ask(question),
            Verdict::Forward(question) => {
                self.resolver.figures.count(Outcome::Refused);
                Next::Send(failure(&question, ResponseCode::ServFail))
            }
            Verdict::Refuse(answer) => {
                self.resolver.figures.count(Outcome::Refused);
                Next::Send(answer)
            }
            Verdict::Ignore => {
                self.resolver.figures.count(Outcome::Refused);
                Next::Nothing
            }
        }
    }

    /// Asks others. That nobody answers is an answer as well.
    async fn ask(&self, query: &[u8], question: &super::question::Question, transport: Transport) -> Vec<u8> {
        let answer = self.resolver.forwarder.ask(query, question, transport).await;
        let outcome = if answer.is_some() { Outcome::Forwarded } else { Outcome::Unanswered };
        self.resolver.figures.count(outcome);
        answer.unwrap_or_else(|| failure(question, ResponseCode::ServFail))
    }
}

/// Sends an answer. Where there is no room for it, it is lost, as datagrams are.
fn send(udp: &UdpSocket, answer: &[u8], to: SocketAddr) {
    if let Err(error) = udp.try_send_to(answer, to) {
        tracing::debug!(%error, %to, "an answer was not sent");
    }
}

async fn pause(what: &str, error: &io::Error) {
    tracing::debug!(%error, "cannot {what}");
    sleep(PAUSE).await;
}
