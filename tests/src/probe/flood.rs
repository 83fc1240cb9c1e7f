//! A steady stream of datagrams that are echoed, with every one accounted for.

use std::{
    collections::HashSet,
    io::ErrorKind,
    net::{Ipv4Addr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Result;

use super::Loss;
use crate::{
    exec::uninterrupted,
    netns::{self, Netns},
};

/// How long the last answers may take.
const GRACE: Duration = Duration::from_secs(2);

/// How often waiting threads look whether it is over.
const TICK: Duration = Duration::from_millis(20);

/// How many were sent, while that is not known.
const NOT_YET: u64 = u64::MAX;

/// A flood under way.
pub struct Flood {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicBool>,
    sender: JoinHandle<Result<Loss>>,
    echo: JoinHandle<Result<()>>,
}

impl Flood {
    /// Begins to send a datagram each `interval` from one namespace to an address in another, which
    /// sends them back.
    pub fn start(from: &Netns, to: &Netns, addr: Ipv4Addr, interval: Duration) -> Result<Self> {
        let server = to.run(move || {
            let socket = UdpSocket::bind((addr, 0))?;
            socket.set_read_timeout(Some(TICK))?;
            Ok(socket)
        })?;
        let target = server.local_addr()?;
        let client = from.run(move || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect(target)?;
            socket.set_read_timeout(Some(TICK))?;
            Ok(socket)
        })?;
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (stopped, finished) = (Arc::clone(&stop), Arc::clone(&done));
        Ok(Self {
            echo: thread::spawn(move || echo(&server, &finished)),
            sender: thread::spawn(move || flood(&client, interval, &stopped)),
            stop,
            done,
        })
    }

    /// Ends it and waits for the last answers.
    pub fn stop(self) -> Result<Loss> {
        self.stop.store(true, Ordering::Relaxed);
        let loss = netns::join(self.sender);
        self.done.store(true, Ordering::Relaxed);
        netns::join(self.echo)?;
        loss
    }
}

fn echo(socket: &UdpSocket, done: &AtomicBool) -> Result<()> {
    let mut datagram = [0; 64];
    while !done.load(Ordering::Relaxed) {
        match uninterrupted(|| socket.recv_from(&mut datagram)) {
            // The way back may fail while something is being broken on purpose: that is a loss, not an error.
            Ok((length, sender)) => drop(socket.send_to(&datagram[..length], sender)),
            Err(error) if is_timeout(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn flood(socket: &UdpSocket, interval: Duration, stop: &AtomicBool) -> Result<Loss> {
    let receiver = socket.try_clone()?;
    let total = Arc::new(AtomicU64::new(NOT_YET));
    let expected = Arc::clone(&total);
    let answers = thread::spawn(move || receive(&receiver, &expected));

    let mut sent = 0_u64;
    let begin = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        // A send that fails counts as one that was lost.
        let _ = socket.send(&sent.to_be_bytes());
        sent += 1;
        let due = interval.saturating_mul(u32::try_from(sent)?);
        thread::sleep(due.saturating_sub(begin.elapsed()));
    }
    total.store(sent, Ordering::Relaxed);
    Ok(Loss { sent, received: netns::join(answers)? })
}

/// Counts the different answers until all came, or none has for a while after the last was sent.
fn receive(socket: &UdpSocket, total: &AtomicU64) -> Result<u64> {
    let mut seen = HashSet::new();
    let mut quiet_since = Instant::now();
    let mut number = [0; 8];
    loop {
        match uninterrupted(|| socket.recv(&mut number)) {
            Ok(8) => {
                seen.insert(u64::from_be_bytes(number));
                quiet_since = Instant::now();
            }
            Ok(_) => {}
            // An ICMP error belongs to a datagram that was lost.
            Err(error) if is_timeout(&error) || is_unreachable(&error) => {}
            Err(error) => return Err(error.into()),
        }
        match total.load(Ordering::Relaxed) {
            NOT_YET => quiet_since = Instant::now(),
            sent if sent == seen.len() as u64 || quiet_since.elapsed() > GRACE => {
                return Ok(seen.len() as u64);
            }
            _ => {}
        }
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn is_unreachable(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable
    )
}
