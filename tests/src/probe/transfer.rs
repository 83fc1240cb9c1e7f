//! Bytes over TCP, compared at both ends by their SHA-256.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

use crate::{
    exec::{eventually, uninterrupted},
    netns::{self, Netns},
};

/// How long either end waits for the other.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes written at once.
const BLOCK: usize = 1 << 16;

/// What a transfer came to; it only exists if the hashes are equal.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// Bytes that arrived.
    pub bytes: u64,
    /// SHA-256 of what was sent, and of what arrived.
    pub sha256: String,
    /// From the connection to the last byte.
    pub took: Duration,
}

impl Transfer {
    /// Megabits per second.
    #[must_use]
    pub fn mbit_per_second(&self) -> f64 {
        let bits = u32::try_from(self.bytes / 125_000).unwrap_or(u32::MAX);
        f64::from(bits) / self.took.as_secs_f64()
    }
}

/// Sends `bytes` bytes from one namespace to an address in another, and checks that they arrive
/// unchanged.
pub fn transfer(from: &Netns, to: &Netns, addr: impl Into<IpAddr>, bytes: u64) -> Result<Transfer> {
    let addr = addr.into();
    transfer_by(from, to, addr, addr, bytes)
}

/// As [`transfer`], to who listens at `addr` but is asked for as `by`: somebody in between translates.
pub fn transfer_by(
    from: &Netns,
    to: &Netns,
    addr: impl Into<IpAddr>,
    by: impl Into<IpAddr>,
    bytes: u64,
) -> Result<Transfer> {
    let (addr, by) = (addr.into(), by.into());
    let listener = to.run(move || Ok(TcpListener::bind((addr, 0))?))?;
    let target = SocketAddr::from((by, listener.local_addr()?.port()));
    let sender = from.spawn(move || send(target, bytes))?;
    let received = receive(&listener);
    let (sent, took) = netns::join(sender)?;
    let (arrived, length) = received?;
    ensure!(
        length == bytes && arrived == sent,
        "{length} of {bytes} bytes arrived, sha256 {arrived}, not {sent}"
    );
    Ok(Transfer { bytes, sha256: sent, took })
}

fn send(target: SocketAddr, bytes: u64) -> Result<(String, Duration)> {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)
        .with_context(|| format!("no TCP connection to {target}"))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut hash = Sha256::new();
    let (mut block, mut left) = (pattern(), bytes);
    let begin = Instant::now();
    while left > 0 {
        // No two blocks are the same, so that one that is lost or doubled shows.
        block[..8].copy_from_slice(&left.to_be_bytes());
        let part = &block[..usize::try_from(left)?.min(BLOCK)];
        hash.update(part);
        stream.write_all(part).with_context(|| format!("TCP to {target} stuck with {left} bytes left"))?;
        left -= part.len() as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    // The other end closes when it has everything.
    let _ = uninterrupted(|| stream.read(&mut [0]))?;
    Ok((hex(&hash.finalize()), begin.elapsed()))
}

fn receive(listener: &TcpListener) -> Result<(String, u64)> {
    let mut stream = accept(listener)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (mut hash, mut length, mut block) = (Sha256::new(), 0, vec![0; BLOCK]);
    loop {
        let read = uninterrupted(|| stream.read(&mut block))
            .with_context(|| format!("TCP stuck after {length} bytes"))?;
        if read == 0 {
            return Ok((hex(&hash.finalize()), length));
        }
        hash.update(&block[..read]);
        length += read as u64;
    }
}

fn accept(listener: &TcpListener) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let (stream, _) = eventually(PATIENCE + Duration::from_secs(1), || Ok(listener.accept()?))
        .context("nobody connected")?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// A block of bytes without much pattern (xorshift, Marsaglia 2003).
fn pattern() -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        Some(state.to_be_bytes())
    };
    std::iter::from_fn(next).flatten().take(BLOCK).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}
