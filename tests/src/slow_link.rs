//! A TCP connection that is slow: a proxy that hands everything on later.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{cleanup::lock, netns::Netns};

/// How often the proxy looks whether it is still wanted.
const TICK: Duration = Duration::from_millis(20);

/// A proxy, until it is dropped.
pub struct SlowLink {
    over: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
}

impl SlowLink {
    /// Takes connections at `listen` in a namespace and hands them on to `target`, each way `delay` later.
    pub fn start(netns: &Netns, listen: SocketAddr, target: SocketAddr, delay: Duration) -> Result<Self> {
        let link = Self { over: Arc::default(), connections: Arc::default() };
        let (over, connections) = (Arc::clone(&link.over), Arc::clone(&link.connections));
        let listener = netns.run(|| Ok(TcpListener::bind(listen)?))?;
        listener.set_nonblocking(true)?;
        netns.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let Ok((client, _)) = listener.accept() else {
                    thread::sleep(TICK);
                    continue;
                };
                client.set_nonblocking(false)?;
                // Nobody there: the client finds its connection closed.
                let Ok(server) = TcpStream::connect(target) else { continue };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    from.set_nodelay(true)?;
                    hand_on(from.try_clone()?, to.try_clone()?, delay);
                }
                lock(&connections).extend([client, server]);
            }
            Ok(())
        })?;
        Ok(link)
    }
}

impl Drop for SlowLink {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for connection in lock(&self.connections).iter() {
            // One that has ended already is as it should be.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

fn hand_on(mut from: TcpStream, to: TcpStream, delay: Duration) {
    let (sender, parts) = mpsc::channel();
    thread::spawn(move || {
        let mut block = vec![0; 1 << 16];
        while let Ok(length @ 1..) = from.read(&mut block) {
            if sender.send((Instant::now() + delay, block[..length].to_vec())).is_err() {
                return;
            }
        }
    });
    thread::spawn(move || write_when_due(&parts, to));
}

fn write_when_due(parts: &Receiver<(Instant, Vec<u8>)>, mut to: TcpStream) {
    for (due, part) in parts {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&part).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
