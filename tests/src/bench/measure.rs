//! What is measured between two containers.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::contender::Contender;
use crate::{
    exec::{self, Process, uninterrupted},
    netns,
};

const ECHO_PORT: u16 = 7777;
/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(1);

/// An iperf3 server in the server container.
pub struct Server {
    _process: Process,
}

/// A throughput and what it cost.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    /// Gigabits a second of payload, as received.
    pub gbit: f64,
    /// CPU seconds of the whole machine for each gigabit.
    pub cpu_per_gbit: f64,
}

/// Times of round trips, in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
}

impl Server {
    pub fn start(contender: &Contender) -> Result<Self> {
        let mut command = contender.server.container.command("iperf3");
        command.args(["--server", "--bind", &contender.server.addr.to_string()]);
        let server = Self { _process: Process::spawn(command.stdout(std::process::Stdio::null()))? };
        exec::eventually(Duration::from_secs(5), || {
            let listening = contender.server.container.exec("ss -Hltn sport = :5201")?;
            ensure!(!listening.trim().is_empty(), "iperf3 does not listen");
            Ok(())
        })?;
        Ok(server)
    }
}

/// TCP streams at once.
pub fn tcp(contender: &Contender, streams: u32, seconds: u32) -> Result<Stream> {
    let before = busy()?;
    let report = iperf(contender, seconds, &["--parallel", &streams.to_string()])?;
    let cpu = busy()? - before;
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64().context("iperf3 has no result")?;
    let gbit = bits / 1e9;
    Ok(Stream { gbit, cpu_per_gbit: cpu / (gbit * f64::from(seconds)) })
}

/// 64-byte UDP datagrams received, in thousands a second, with the sender at its limit.
pub fn udp64(contender: &Contender, seconds: u32) -> Result<f64> {
    let report = iperf(contender, seconds, &["--udp", "--bitrate", "0", "--length", "64"])?;
    let sum = &report["end"]["sum"];
    let number = |field: &str| sum[field].as_f64().with_context(|| format!("iperf3 has no {field}"));
    Ok((number("packets")? - number("lost_packets")?) / number("seconds")? / 1e3)
}

/// One-byte requests and answers over UDP, one at a time.
pub fn latency(contender: &Contender, round_trips: usize) -> Result<Latency> {
    let addr = SocketAddr::from((contender.server.addr, ECHO_PORT));
    let bound = contender.server.container.run(move || {
        let socket = UdpSocket::bind(addr)?;
        socket.set_read_timeout(Some(LIMIT))?;
        Ok(socket)
    })?;
    let echo = contender.server.container.spawn(move || {
        let mut byte = [0];
        while let Ok((_, from)) = uninterrupted(|| bound.recv_from(&mut byte)) {
            bound.send_to(&byte, from)?;
        }
        Ok(())
    })?;
    let mut times = contender.client.container.run(move || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(addr)?;
        socket.set_read_timeout(Some(LIMIT))?;
        let mut byte = [0];
        let mut times = Vec::with_capacity(round_trips);
        for _ in 0..round_trips {
            let start = Instant::now();
            socket.send(&byte)?;
            uninterrupted(|| socket.recv(&mut byte)).context("no answer")?;
            times.push(start.elapsed());
        }
        Ok(times)
    })?;
    netns::join(echo)?;
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e6;
    Ok(Latency { p50: at(50), p99: at(99) })
}

fn iperf(contender: &Contender, seconds: u32, more: &[&str]) -> Result<Value> {
    let mut command = contender.client.container.command("iperf3");
    command
        .args(["--client", &contender.server.addr.to_string(), "--time", &seconds.to_string(), "--json"])
        .args(more);
    Ok(serde_json::from_str(&exec::output(&mut command)?)?)
}

/// Seconds that all CPUs were busy since boot (proc(5), `/proc/stat`).
fn busy() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let fields = stat.lines().next().context("/proc/stat is empty")?.split_whitespace().skip(1);
    let ticks: Vec<f64> = fields.map(str::parse).collect::<Result<_, _>>()?;
    // user nice system idle iowait irq softirq steal: all but idle and iowait.
    let busy: f64 =
        ticks.iter().take(8).enumerate().filter(|(i, _)| ![3, 4].contains(i)).map(|(_, t)| t).sum();
    let hertz = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no clock tick")?;
    #[expect(clippy::cast_precision_loss, reason = "the clock ticks a hundred times a second")]
    Ok(busy / hertz as f64)
}
