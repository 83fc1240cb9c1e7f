//! What flows from the first node's container to the second's while a daemon is replaced: numbered
//! datagrams, and one TCP connection.

use std::{
    collections::HashSet,
    fs,
    io::{BufReader, ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use overlay_tests::{
    exec::{eventually, uninterrupted},
    netns::{self, Netns},
};
use socket2::SockRef;

use crate::PATIENCE;

/// Datagrams leave from as many ports, so that each queue of the card gets some of them.
const FLOWS: usize = 16;

/// Between two datagrams. A queue of a card must be able to hold what comes while it rests, and so must the
/// emulation of the card: faster floods lose packets without anybody's doing.
const INTERVAL: Duration = Duration::from_millis(1);

/// Bytes that may wait in the receiver's socket: all of a flood, were the receiver to sleep.
const ROOM: usize = 64 << 20;

/// Numbers in one piece of the TCP connection's, of eight bytes each, and the time between two pieces.
const PIECE: u64 = 128;
const PIECE_INTERVAL: Duration = Duration::from_millis(5);

/// How long the last datagram may be under way.
const GRACE: Duration = Duration::from_secs(5);

/// How long a TCP connection may stand still.
const STILL: Duration = Duration::from_mins(1);

const PORT: u16 = 7701;

/// Where it comes from.
pub struct Source {
    sockets: Vec<UdpSocket>,
    next: u64,
    stop: Arc<AtomicBool>,
    stream: JoinHandle<Result<u64>>,
}

impl Source {
    /// Connects to the other container, and keeps the TCP connection busy from now on.
    pub fn open(container: &Netns, to: Ipv4Addr) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (sockets, connection) = container.run(|| {
            let connection = eventually(PATIENCE, || Ok(TcpStream::connect((to, PORT))?))?;
            let sockets = (0..FLOWS).map(|_| {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
                socket.connect((to, PORT))?;
                Ok(socket)
            });
            Ok((sockets.collect::<Result<_>>()?, connection))
        })?;
        let stream = thread::spawn(move || count_aloud(connection, &stopped));
        Ok(Self { sockets, next: 0, stop, stream })
    }

    /// Sends datagrams as long as `more` says of how many were sent. Returns the number of the first, and of
    /// the first that was not sent.
    pub fn flood(&mut self, more: impl Fn(u64) -> bool) -> Result<(u64, u64)> {
        let first = self.next;
        while more(self.next - first) {
            let socket = &self.sockets[usize::try_from(self.next)? % FLOWS];
            // What cannot be sent is lost too.
            let _ = socket.send(&self.next.to_be_bytes());
            self.next += 1;
            thread::sleep(INTERVAL);
        }
        Ok((first, self.next))
    }

    /// Ends the TCP connection, and tells how many numbers it was given.
    pub fn close(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        netns::join(self.stream)
    }
}

fn count_aloud(mut connection: TcpStream, stop: &AtomicBool) -> Result<u64> {
    connection.set_write_timeout(Some(STILL))?;
    let mut next = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let piece: Vec<u8> = (next..next + PIECE).flat_map(u64::to_be_bytes).collect();
        connection.write_all(&piece).with_context(|| format!("TCP stuck at number {next}"))?;
        next += PIECE;
        thread::sleep(PIECE_INTERVAL);
    }
    connection.shutdown(Shutdown::Write)?;
    Ok(next)
}

/// Where it goes to.
pub struct Sink {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    datagrams: JoinHandle<Result<()>>,
    stream: JoinHandle<Result<u64>>,
}

struct Seen {
    numbers: HashSet<u64>,
    last: Instant,
}

impl Sink {
    /// Listens in a container.
    pub fn open(container: &Netns, address: Ipv4Addr) -> Result<Self> {
        let (socket, listener) =
            container.run(|| Ok((UdpSocket::bind((address, PORT))?, TcpListener::bind((address, PORT))?)))?;
        fs::write("/proc/sys/net/core/rmem_max", ROOM.to_string())?;
        SockRef::from(&socket).set_recv_buffer_size(ROOM)?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let seen = Arc::new(Mutex::new(Seen { numbers: HashSet::new(), last: Instant::now() }));
        let stop = Arc::new(AtomicBool::new(false));
        Ok(Self {
            datagrams: thread::spawn({
                let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
                move || note(&socket, &seen, &stop)
            }),
            stream: thread::spawn(move || hear_count(&listener)),
            seen,
            stop,
        })
    }

    /// How many of the datagrams of these numbers do not come.
    pub fn missing(&self, first: u64, end: u64) -> u64 {
        loop {
            let (missing, quiet) = {
                let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                let missing = (first..end).filter(|number| !seen.numbers.contains(number)).count();
                (missing, seen.last.elapsed() > GRACE)
            };
            if missing == 0 || quiet {
                return missing as u64;
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits for the end of the TCP connection, and tells how many numbers came by it, each in its place.
    pub fn close(self) -> Result<u64> {
        let numbers = netns::join(self.stream);
        self.stop.store(true, Ordering::Relaxed);
        netns::join(self.datagrams)?;
        numbers
    }
}

fn note(socket: &UdpSocket, seen: &Mutex<Seen>, stop: &AtomicBool) -> Result<()> {
    let mut number = [0; 8];
    while !stop.load(Ordering::Relaxed) {
        match uninterrupted(|| socket.recv(&mut number)) {
            Ok(length) => {
                ensure!(length == number.len(), "a datagram of {length} bytes");
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.numbers.insert(u64::from_be_bytes(number));
                seen.last = Instant::now();
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn hear_count(listener: &TcpListener) -> Result<u64> {
    let (connection, _) = listener.accept()?;
    connection.set_read_timeout(Some(STILL))?;
    let mut connection = BufReader::new(connection);
    let (mut next, mut number) = (0_u64, [0; 8]);
    loop {
        match connection.read_exact(&mut number) {
            Ok(()) => ensure!(u64::from_be_bytes(number) == next, "TCP has another number than {next}"),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(next),
            Err(error) => return Err(error).with_context(|| format!("TCP ended at number {next}")),
        }
        next += 1;
    }
}
