//! A relay before an etcd: connections by way of it live, but what etcd says on them can be withheld.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::etcd::PATIENCE;

/// Header of an HTTP/2 frame: three bytes of length, type, flags, four bytes of stream (RFC 9113, section 4.1).
const FRAME_HEADER: usize = 9;

/// The type of frames with answers and events. All others, pings above all, keep a connection alive.
const DATA: u8 = 0;

/// Relays until it is dropped.
pub struct Relay {
    address: SocketAddr,
    connections: Arc<Mutex<Vec<Arc<Connection>>>>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Connection {
    withhold: AtomicBool,
    withheld: AtomicUsize,
}

impl Relay {
    /// Takes connections for `server` at an address of its own.
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::<Mutex<Vec<Arc<Connection>>>>::default();
        let accepted = Arc::clone(&connections);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(server).await else { continue };
                let connection = Arc::<Connection>::default();
                accepted.lock().unwrap().push(Arc::clone(&connection));
                let (said, asked) = server.into_split();
                let (questions, answers) = client.into_split();
                tokio::spawn(pass_on(questions, asked));
                tokio::spawn(async move { connection.pass_frames_on(said, answers).await });
            }
        });
        Self { address, connections, accepting }
    }

    /// Where it is reached.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many connections were made by way of it.
    pub fn made(&self) -> usize {
        self.connections.lock().unwrap().len()
    }

    /// Withholds what etcd says on the connections there are, or no longer; later ones are not touched.
    pub fn withhold(&self, withhold: bool) {
        for connection in self.connections.lock().unwrap().iter() {
            connection.withhold.store(withhold, Ordering::Relaxed);
        }
    }

    /// Waits until something was withheld.
    pub async fn has_withheld(&self) {
        let deadline = Instant::now() + PATIENCE;
        let withheld = |connection: &Arc<Connection>| connection.withheld.load(Ordering::Relaxed) > 0;
        while !self.connections.lock().unwrap().iter().any(withheld) {
            assert!(Instant::now() < deadline, "etcd said nothing that could be withheld");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Connection {
    /// Hands an HTTP/2 connection's frames on, unless they are withheld.
    async fn pass_frames_on(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> io::Result<()> {
        let mut frame = vec![0; FRAME_HEADER];
        loop {
            frame.resize(FRAME_HEADER, 0);
            from.read_exact(&mut frame).await?;
            let [a, b, c, kind, ..] = frame[..] else { unreachable!("a header has nine bytes") };
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            frame.resize(FRAME_HEADER + length, 0);
            from.read_exact(&mut frame[FRAME_HEADER..]).await?;
            if kind == DATA && self.withhold.load(Ordering::Relaxed) {
                self.withheld.fetch_add(1, Ordering::Relaxed);
            } else {
                to.write_all(&frame).await?;
            }
        }
    }
}

async fn pass_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> io::Result<u64> {
    tokio::io::copy(&mut from, &mut to).await
}
