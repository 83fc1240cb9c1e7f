//! What the section measures.

use std::{
    net::{SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use super::NETWORK;
use crate::{
    bench::contender::{Contender, Kind},
    docker::{Dockerd, IMAGE},
    exec::eventually,
    probe::Flood,
};

/// How often containers are started in a round.
pub const RUNS: usize = 5;

/// How long what is waited for may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Each so often a packet goes there and back while daemons are killed.
const INTERVAL: Duration = Duration::from_millis(1);

/// Who gets no answer for a name asks again after so long.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// A column.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    /// From the end of `docker network create` until the other Docker has the network.
    Visible,
    /// From `docker run` until its container has the answer to its first ping.
    FirstPing,
    /// How many of those first pings had none.
    FirstPingsLost,
    /// From the end of `docker run` until a container on the other node gets its name answered.
    Name,
    /// The same at worst.
    SlowestName,
    /// What a network adds to `docker run` of a container that ends at once.
    RunAdds,
    Tcp,
    Udp,
    RttP50,
    RttP99,
    /// Packets lost after kill -9 of dockerd until it is back.
    DockerdKilled,
    /// The same of overlayd.
    OverlaydKilled,
}

impl Figure {
    /// All columns.
    pub const ALL: [Self; 12] = [
        Self::Visible,
        Self::FirstPing,
        Self::FirstPingsLost,
        Self::Name,
        Self::SlowestName,
        Self::RunAdds,
        Self::Tcp,
        Self::Udp,
        Self::RttP50,
        Self::RttP99,
        Self::DockerdKilled,
        Self::OverlaydKilled,
    ];

    /// Its heading.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Visible => "visible ms",
            Self::FirstPing => "run to ping ms",
            Self::FirstPingsLost => "first pings lost",
            Self::Name => "name ms",
            Self::SlowestName => "slowest name ms",
            Self::RunAdds => "run adds ms",
            Self::Tcp => "1 TCP Gbit/s",
            Self::Udp => "UDP 64 B kpps",
            Self::RttP50 => "RTT p50 µs",
            Self::RttP99 => "RTT p99 µs",
            Self::DockerdKilled => "dockerd killed, lost",
            Self::OverlaydKilled => "overlayd killed, lost",
        }
    }
}

pub fn visible(contender: &Contender, round: usize) -> Result<f64> {
    let name = format!("seen-{round}");
    let create: &[&str] = match contender.kind {
        Kind::Docker => &["network", "create", "-d", "overlay"],
        _ => &["network", "create", "-d", "overlayd", "--ipam-driver", "overlayd"],
    };
    let subnet = ["--subnet", "10.78.0.0/24", &name];
    let (one, two) = (contender.docker(0)?, contender.docker(1)?);
    let took = thread::scope(|scope| {
        let seen = scope.spawn(|| until(|| two.answers(&format!("/networks/{name}"))));
        one.docker(&[create, &subnet].concat())?;
        let made = Instant::now();
        let seen = seen.join().map_err(|_| anyhow!("a thread of the benchmark panicked"))??;
        anyhow::Ok(seen.saturating_duration_since(made))
    })?;
    one.docker(&["network", "rm", &name])?;
    eventually(LIMIT, || {
        ensure!(!two.answers(&format!("/networks/{name}"))?, "{name} is still there");
        Ok(())
    })?;
    Ok(milliseconds(took))
}

pub fn run_adds(contender: &Contender) -> Result<f64> {
    let docker = contender.docker(0)?;
    let timed = |network: &str| {
        let begun = Instant::now();
        docker.docker(&["run", "--rm", "--network", network, IMAGE, "true"])?;
        anyhow::Ok(milliseconds(begun.elapsed()))
    };
    let without = timed("none")?;
    Ok(timed(NETWORK)? - without)
}

/// How long, and 1 if it was lost.
pub fn first_ping(contender: &Contender) -> Result<(f64, f64)> {
    let ping = ["ping", "-c1", "-W5", &contender.server.addr.to_string()].map(str::to_owned);
    let ping = ping.each_ref().map(String::as_str);
    let run = ["run", "--rm", "--network", NETWORK, IMAGE];
    let begun = Instant::now();
    let output = contender.docker(0)?.try_docker(&[&run[..], &ping].concat())?;
    let took = milliseconds(begun.elapsed());
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(said.contains("1 packets transmitted"), "{said}{}", String::from_utf8_lossy(&output.stderr));
    Ok((took, if said.contains("1 packets received") { 0.0 } else { 1.0 }))
}

/// Asks Docker's resolver of the client's container for a container that was just started.
pub fn name(contender: &Contender, name: &str) -> Result<f64> {
    let docker: &Dockerd = contender.docker(1)?;
    docker.idle(name, NETWORK, &[])?;
    let begun = Instant::now();
    let answered = contender.client.container.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(SocketAddr::from(([127, 0, 0, 11], 53)))?;
        socket.set_read_timeout(Some(ASK_AGAIN))?;
        until(|| asked(&socket, name))
    })?;
    docker.docker(&["rm", "-f", name])?;
    Ok(milliseconds(answered.saturating_duration_since(begun)))
}

/// Whether a name server has an address for a name (RFC 1035 section 4).
fn asked(socket: &UdpSocket, name: &str) -> Result<bool> {
    let mut query = vec![0x4f, 0x56, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.push(u8::try_from(name.len())?);
    query.extend(name.as_bytes());
    // The root, type A, class IN.
    query.extend([0, 0, 1, 0, 1]);
    socket.send(&query)?;
    let mut answer = [0; 512];
    let Ok(length) = socket.recv(&mut answer) else { return Ok(false) };
    Ok(length > query.len() && answer[..2] == query[..2] && answer[6..8] != [0, 0])
}

pub fn dockerd_killed(contender: &mut Contender) -> Result<f64> {
    lost(contender, |contender| {
        let docker = contender.docker_mut(0)?;
        docker.kill()?;
        thread::sleep(Duration::from_secs(1));
        docker.launch()?;
        docker.wait_ready()
    })
}

/// Nothing where there is none.
pub fn overlayd_killed(contender: &mut Contender) -> Result<Option<f64>> {
    if contender.plugged_in().is_none() {
        return Ok(None);
    }
    let lost = lost(contender, |contender| {
        let cluster = contender.plugged_in().context("no nodes of ours")?;
        let node = &mut cluster.nodes[0];
        node.node.kill()?;
        thread::sleep(Duration::from_secs(1));
        node.launch_overlayd()?;
        node.wait_ready()
    });
    lost.map(Some)
}

/// Packets lost between the containers while something is done.
fn lost(contender: &mut Contender, action: impl FnOnce(&mut Contender) -> Result<()>) -> Result<f64> {
    let (client, server) = (&contender.client, &contender.server);
    let flood = Flood::start(&client.container, &server.container, server.addr, INTERVAL)?;
    thread::sleep(Duration::from_millis(300));
    action(contender)?;
    thread::sleep(Duration::from_millis(300));
    let loss = flood.stop()?;
    Ok(u32::try_from(loss.lost())?.into())
}

/// When something was true first.
fn until(mut is: impl FnMut() -> Result<bool>) -> Result<Instant> {
    let begun = Instant::now();
    while begun.elapsed() < LIMIT {
        if is()? {
            return Ok(Instant::now());
        }
        thread::sleep(Duration::from_millis(1));
    }
    bail!("not within {} s", LIMIT.as_secs())
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
