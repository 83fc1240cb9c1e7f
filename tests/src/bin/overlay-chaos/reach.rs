//! Who reaches whom: a datagram from everybody to every address anybody has, and one to all.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{guest::PORT, step::Guest};

/// How long datagrams may be under way on a busy machine.
const FLIGHT: Duration = Duration::from_secs(2);

/// After the last that is hoped for, how long one that must not come is waited for.
const LINGER: Duration = Duration::from_millis(3);

/// Where all of a network hear it, in the subnet that all networks have.
const BROADCAST: Ipv4Addr = Ipv4Addr::new(10, 1, 255, 255);

/// A container and how to speak for it.
pub struct Voice<'a> {
    pub guest: Guest,
    /// VNI of its network.
    pub vni: u32,
    pub addr: Ipv4Addr,
    pub socket: &'a UdpSocket,
}

/// A datagram: which look around it is of, from whom, in which network, and whether it was for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Tag {
    round: u32,
    from: Guest,
    vni: u32,
    to_all: bool,
}

impl Tag {
    fn bytes(self) -> [u8; 13] {
        let mut bytes = [0; 13];
        bytes[..4].copy_from_slice(&self.round.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.from.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.vni.to_be_bytes());
        bytes[12] = self.to_all.into();
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        Some(Self { round: word(0)?, from: word(4)?, vni: word(8)?, to_all: *bytes.get(12)? != 0 })
    }
}

/// Sends from each to all addresses, those of other networks as well, and requires that each of the same
/// network hears it, and nobody else. Returns how many were heard.
pub fn look(voices: &[Voice<'_>], round: u32) -> Result<usize> {
    let mut awaited = BTreeSet::new();
    let addresses: BTreeSet<_> = voices.iter().map(|voice| voice.addr).collect();
    for voice in voices {
        let tag = |to_all| Tag { round, from: voice.guest, vni: voice.vni, to_all };
        for other in voices.iter().filter(|other| other.vni == voice.vni && other.guest != voice.guest) {
            awaited.extend([(tag(false), other.guest), (tag(true), other.guest)]);
        }
        for addr in addresses.iter().filter(|addr| **addr != voice.addr) {
            send(voice, *addr, tag(false))?;
        }
        send(voice, BROADCAST, tag(true))?;
    }
    let total = awaited.len();
    let deadline = Instant::now() + FLIGHT;
    while !awaited.is_empty() && Instant::now() < deadline {
        if !hear(voices, round, &mut awaited)? {
            thread::sleep(Duration::from_millis(1));
        }
    }
    thread::sleep(LINGER);
    hear(voices, round, &mut awaited)?;
    if let Some((Tag { from, to_all, .. }, to)) = awaited.first() {
        let what = if *to_all { "a broadcast" } else { "a datagram" };
        bail!("{} of {total} were not heard, as {what} from c{from} to c{to}", awaited.len());
    }
    Ok(total)
}

fn send(voice: &Voice<'_>, addr: Ipv4Addr, tag: Tag) -> Result<()> {
    match voice.socket.send_to(&tag.bytes(), SocketAddrV4::new(addr, PORT)) {
        Ok(_) => Ok(()),
        // Nobody answered for an address of another network, some time ago.
        Err(error) if matches!(error.kind(), ErrorKind::HostUnreachable | ErrorKind::WouldBlock) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("c{} cannot send to {addr}", voice.guest)),
    }
}

/// Takes what has come. Whether anything has.
fn hear(voices: &[Voice<'_>], round: u32, awaited: &mut BTreeSet<(Tag, Guest)>) -> Result<bool> {
    let mut some = false;
    let mut bytes = [0; 64];
    for voice in voices {
        loop {
            let heard = match voice.socket.recv_from(&mut bytes) {
                Ok((length, _)) => Tag::read(&bytes[..length]).context("a datagram of somebody else")?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::HostUnreachable => continue,
                Err(error) => return Err(error).context("cannot receive"),
            };
            some = true;
            ensure!(
                heard.vni == voice.vni,
                "c{} of VNI {} heard c{} of VNI {}",
                voice.guest,
                voice.vni,
                heard.from,
                heard.vni
            );
            // One of an earlier look may be late, and one's own broadcast is heard.
            if heard.round == round {
                awaited.remove(&(heard, voice.guest));
            }
        }
    }
    Ok(some)
}
