//! A container is attached on one node; the first packet from another one.

use std::{
    io::Read as _,
    net::{Ipv4Addr, SocketAddrV4},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use etherparse::{IcmpEchoHeader, Icmpv4Header, Icmpv4Type};
use socket2::{Domain, Protocol, Socket, Type};

use super::scene::{SMALL, Scene};
use crate::{
    container::IFNAME,
    netns::{Netns, join},
};

/// How long the answer to the first packet may take; who asks by ARP asks again after a second.
const LIMIT: Duration = Duration::from_secs(3);

/// No more are attached after this, where each takes long.
const PATIENCE: Duration = Duration::from_mins(1);

/// Marks echo requests as ours.
const ECHO: u16 = 0x6f76;

/// What one attachment took, in milliseconds.
pub struct Attachment {
    /// The command.
    pub command: f64,
    /// From its end to the answer to the first echo request; none if there was no answer.
    pub first_ping: Option<f64>,
}

/// Attaches containers on the other node, one at a time, and pings each from the node at once.
pub fn measure(scene: &Scene, samples: usize) -> Result<Vec<Attachment>> {
    let netns = Netns::new("attached")?;
    let path = netns.path();
    let path = path.to_string_lossy();
    let attach = ["endpoint", "attach", SMALL.name, "--netns", &path, "--ifname", IFNAME];
    let (targets, asked) = mpsc::channel::<Ipv4Addr>();
    let (answers, heard) = mpsc::channel();
    // Waits inside, so that nothing but the packet is left to do.
    let pinger = scene.container.netns.spawn(move || {
        for (sequence, target) in (1..).zip(asked) {
            answers.send(ping(target, sequence)?)?;
        }
        Ok(())
    })?;
    let mut attachments = Vec::with_capacity(samples);
    let started = Instant::now();
    while attachments.len() < samples && started.elapsed() < PATIENCE {
        let begun = Instant::now();
        let printed = scene.other().json(&attach)?;
        let attached = Instant::now();
        let text = |field: &str| printed[field].as_str().with_context(|| format!("it has no {field}"));
        let address = text("address")?.split('/').next().unwrap_or_default().parse()?;
        targets.send(address)?;
        let answered: Option<Instant> = heard.recv().context("nobody pings any more")?;
        attachments.push(Attachment {
            command: milliseconds(attached - begun),
            first_ping: answered.map(|answered| milliseconds(answered - attached)),
        });
        scene.other().ctl(&["endpoint", "detach", text("id")?])?;
    }
    drop(targets);
    join(pinger)?;
    Ok(attachments)
}

/// Sends one echo request; when the answer came.
fn ping(target: Ipv4Addr, sequence: u16) -> Result<Option<Instant>> {
    let mut socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
    socket.connect(&SocketAddrV4::new(target, 0).into())?;
    let echo = IcmpEchoHeader { id: ECHO, seq: sequence };
    let payload = [0; 56];
    let header = Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(echo), &payload);
    let begun = Instant::now();
    socket.send(&[&header.to_bytes()[..], &payload].concat())?;
    let mut packet = [0; 256];
    while let Some(left) = LIMIT.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) {
        socket.set_read_timeout(Some(left))?;
        let Ok(length) = socket.read(&mut packet) else { break };
        let is_answer = etherparse::Ipv4Slice::from_slice(&packet[..length]).is_ok_and(|ip| {
            let icmp = etherparse::Icmpv4Slice::from_slice(ip.payload().payload);
            icmp.is_ok_and(|icmp| icmp.icmp_type() == Icmpv4Type::EchoReply(echo))
        });
        if is_answer {
            return Ok(Some(Instant::now()));
        }
    }
    Ok(None)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
