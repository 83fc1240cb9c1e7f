//! Frames whose inner checksum is wrong, in every state in which a card or a bridge can hand them over:
//! none of them may reach a program's socket, on any data path.

use std::{
    io::{ErrorKind, Read as _},
    net::{Shutdown, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use overlay_tests::{
    capture::PacketSocket,
    container::IFNAME,
    exec::{self, eventually, uninterrupted},
    frame::{Vxlan, offset, tcp, udp},
    node::Datapath::{self, Kernel, Tc, Xdp},
    wire::UPLINK,
};

use crate::scene::{BLUE, SOON, Scene, station, uplink};

const PORT: u16 = 2000;
/// Where the checksum stands in a UDP header.
const UDP_CHECKSUM: u16 = 6;

/// What the wire tells the node's card about the outer checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outer {
    /// There is none.
    None,
    /// It is there and right.
    Right,
    /// It is left to be filled in, which never happens on a wire of veths.
    Unfilled,
}

/// What the wire does with packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wire {
    /// Hands them on.
    Plain,
    /// Verifies the outermost checksum and says so, as a card that does not look into VXLAN, and as the
    /// host of a virtual machine.
    Verifying,
}

impl Scene {
    fn be(&self, wire: Wire) {
        if wire == Wire::Verifying {
            // Linux's GRO counts an absent UDP checksum as verified. It runs on a veth whose other end
            // does no segmentation.
            self.attacker.exec(&format!("ethtool -K {UPLINK} tso off")).unwrap();
            let bridge = self.cluster.wire.netns();
            bridge.exec(&format!("ethtool -K {} gro on", self.attacker_port)).unwrap();
        }
    }

    fn send(&self, inner: &[u8], outer: Outer) -> Result<()> {
        let packet = Vxlan { from: self.forged_vtep(), to: uplink(self.node()), vni: BLUE.vni, inner };
        match outer {
            Outer::None => self.wire.send(&packet.frame()),
            Outer::Right => self.wire.send(&packet.summed()),
            Outer::Unfilled => {
                self.wire.send_unsummed(&packet.summed(), u16::try_from(offset::UDP)?, UDP_CHECKSUM)
            }
        }
    }
}

/// Changes the last byte of a frame, and so makes a checksum wrong that covers it.
fn corrupted(mut frame: Vec<u8>) -> Vec<u8> {
    *frame.last_mut().unwrap() ^= 0x55;
    frame
}

/// Every way a packet can come in.
fn ways() -> impl Iterator<Item = (Datapath, Wire, Outer)> {
    let wires = |datapath| [Wire::Plain, Wire::Verifying].map(|wire| (datapath, wire));
    let outers =
        |(datapath, wire)| [Outer::None, Outer::Right, Outer::Unfilled].map(|outer| (datapath, wire, outer));
    [Xdp, Tc, Kernel].into_iter().flat_map(wires).flat_map(outers)
}

#[test]
fn datagrams_with_a_wrong_inner_checksum_reach_no_socket() {
    for datapath in [Xdp, Tc, Kernel] {
        for wire in [Wire::Plain, Wire::Verifying] {
            let scene = Scene::new(datapath);
            scene.be(wire);
            let addr = scene.victim.addr;
            let socket = scene.victim.netns.run(move || Ok(UdpSocket::bind((addr, PORT))?)).unwrap();
            socket.set_read_timeout(Some(SOON)).unwrap();
            for (_, _, outer) in ways().filter(|way| (way.0, way.1) == (datapath, wire)) {
                let way = format!("{datapath}, {wire:?}, outer checksum {outer:?}");
                let datagram =
                    |text: &[u8]| udp(station(&scene.peer), station(&scene.victim), (1000, PORT), text);
                scene.send(&corrupted(datagram(b"wrong")), outer).unwrap();
                scene.send(&datagram(b"right"), outer).unwrap();
                let mut text = [0; 16];
                let length = eventually(SOON, || Ok(socket.recv(&mut text)?))
                    .with_context(|| format!("{way}: nothing came"))
                    .unwrap();
                assert_eq!(&text[..length], b"right", "{way}");
            }
        }
    }
}

/// A TCP connection whose one end is made by hand, frame by frame, on the wire.
struct Handmade<'a> {
    scene: &'a Scene,
    outer: Outer,
    from_port: u16,
    seq: u32,
    ack: u32,
}

impl<'a> Handmade<'a> {
    /// Connects to the victim as if it were the peer, which is deaf to TCP.
    fn connect(scene: &'a Scene, from_port: u16, outer: Outer) -> Result<Self> {
        let inside = PacketSocket::open(&scene.peer.netns, IFNAME)?;
        let mut this = Self { scene, outer, from_port, seq: 1, ack: 0 };
        scene.send(&this.segment(0, None, &[]), outer)?;
        // Behind Ethernet and IPv4: ports, sequence number, acknowledged number.
        let answer = inside
            .find(SOON, |frame| {
                frame.len() >= 54 && frame[23] == 6 && frame[36..38] == from_port.to_be_bytes()
            })?
            .context("the victim does not answer a connection")?;
        this.ack = u32::from_be_bytes(answer[38..42].try_into()?) + 1;
        this.send(0, &[])?;
        Ok(this)
    }

    fn segment(&self, behind: u32, ack: Option<u32>, text: &[u8]) -> Vec<u8> {
        let (from, to) = (station(&self.scene.peer), station(&self.scene.victim));
        // The number before the first byte is that of the request for the connection.
        let seq = if ack.is_some() { self.seq + behind } else { self.seq - 1 };
        tcp(from, to, (self.from_port, PORT), (seq, ack), text)
    }

    fn send(&self, behind: u32, text: &[u8]) -> Result<()> {
        self.scene.send(&self.segment(behind, Some(self.ack), text), self.outer)
    }
}

#[test]
fn segments_with_a_wrong_inner_checksum_reach_no_socket_merged_or_not() {
    for datapath in [Xdp, Tc, Kernel] {
        for wire in [Wire::Plain, Wire::Verifying] {
            let scene = Scene::new(datapath);
            scene.be(wire);
            // The peer's own kernel knows nothing of the connection, and must not reset it.
            for line in [
                "nft add table ip deaf",
                "nft add chain ip deaf input { type filter hook input priority 0 ; }",
                "nft add rule ip deaf input meta l4proto tcp drop",
            ] {
                scene.peer.netns.exec(line).unwrap();
            }
            merge_over_polls(&scene);
            let addr = scene.victim.addr;
            let listener = scene.victim.netns.run(move || Ok(TcpListener::bind((addr, PORT))?)).unwrap();
            for (number, (_, _, outer)) in (0..).zip(ways().filter(|way| (way.0, way.1) == (datapath, wire)))
            {
                one_stream(&scene, &listener, 3000 + number, outer)
                    .with_context(|| format!("{datapath}, {wire:?}, outer checksum {outer:?}"))
                    .unwrap();
            }
        }
    }
}

/// Has the card of the victim's node merge what comes within a few milliseconds.
fn merge_over_polls(scene: &Scene) {
    let node = scene.node();
    node.netns().exec(&format!("ethtool -K {UPLINK} gro on")).unwrap();
    let port = &node.port().name;
    scene.cluster.wire.netns().exec(&format!("ethtool -K {port} tso off")).unwrap();
    let wait = format!("echo 20000000 > /sys/class/net/{UPLINK}/gro_flush_timeout");
    // With the namespace's own sysfs.
    let mut shell = std::process::Command::new("ip");
    exec::output(shell.args(["netns", "exec", node.netns().name(), "sh", "-c", &wait])).unwrap();
}

fn one_stream(scene: &Scene, listener: &TcpListener, from_port: u16, outer: Outer) -> Result<()> {
    const LENGTH: u32 = 1000;
    let block = |byte: u8| vec![byte; LENGTH as usize];
    let stream = Handmade::connect(scene, from_port, outer)?;
    let (mut accepted, _) = listener.accept()?;
    accepted.set_read_timeout(Some(SOON))?;
    // The first and the third are right, the second is corrupted on its way.
    stream.send(0, &block(b'1'))?;
    scene.send(&corrupted(stream.segment(LENGTH, Some(stream.ack), &block(b'2'))), outer)?;
    stream.send(2 * LENGTH, &block(b'3'))?;
    let mut first = block(0);
    accepted.read_exact(&mut first).context("the right segment did not arrive")?;
    ensure!(first == block(b'1'), "the first segment is {first:?}");
    ensure!(silent(&accepted)?, "what was corrupted on its way was delivered");
    // Sent again, all is well.
    stream.send(LENGTH, &block(b'2'))?;
    let mut rest = block(0).repeat(2);
    accepted.read_exact(&mut rest).context("the segments sent again did not arrive")?;
    ensure!(rest == [block(b'2'), block(b'3')].concat(), "other bytes than were sent");
    accepted.shutdown(Shutdown::Both)?;
    Ok(())
}

/// Whether nothing can be read for a while.
fn silent(stream: &TcpStream) -> Result<bool> {
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    let peeked = uninterrupted(|| stream.peek(&mut [0]));
    stream.set_read_timeout(Some(SOON))?;
    match peeked {
        Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => Ok(true),
        Ok(_) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
