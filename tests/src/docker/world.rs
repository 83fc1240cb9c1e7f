//! The world outside: a host that knows nothing of overlays.

use anyhow::Result;

use crate::{
    exec::{self, Process},
    netns::Netns,
    wire::{Card, Port, Wire},
};

/// A host on the wire with a web server.
pub struct World {
    _server: Process,
    port: Port,
    netns: Netns,
}

impl World {
    /// Plugs one in.
    pub fn new(wire: &Wire) -> Result<Self> {
        let netns = Netns::new("world")?;
        let port = wire.plug(&netns, Card::Veth)?;
        let server = Process::spawn(netns.command("busybox").args(["httpd", "-f", "-h", "/etc"]))?;
        Ok(Self { _server: server, port, netns })
    }

    /// The command line of a container that asks its web server.
    #[must_use]
    pub fn ask(&self) -> String {
        format!("timeout 5 wget -q -O /dev/null http://{}/hostname", self.port.addr)
    }

    /// Asks a web server from outside, and returns what it answers with.
    pub fn get(&self, url: &str) -> Result<String> {
        let mut wget = self.netns.command("timeout");
        exec::output(wget.args(["5", "busybox", "wget", "-q", "-O", "-", url]))
    }
}
