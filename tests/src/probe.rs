//! Does it get through, how much of it, and unchanged?

mod flood;
mod transfer;

use std::{fmt, net::IpAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
pub use flood::Flood;
pub use transfer::{Transfer, transfer, transfer_by};

use crate::{
    container::Container,
    exec::{self, eventually},
    netns::Netns,
};

/// How long a change may take to reach all nodes on a busy machine.
const CONVERGENCE: Duration = Duration::from_secs(10);

/// What was sent and what came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Packets sent.
    pub sent: u64,
    /// Answers received.
    pub received: u64,
}

impl Loss {
    /// Packets without an answer.
    #[must_use]
    pub const fn lost(self) -> u64 {
        self.sent.saturating_sub(self.received)
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} lost", self.lost(), self.sent)
    }
}

/// Sends echo requests, one each ten milliseconds, and counts the answers. `more` goes to ping.
pub fn ping(from: &Netns, to: impl Into<IpAddr>, count: u32, more: &[&str]) -> Result<Loss> {
    let mut command = from.command("ping");
    command
        .args(["-n", "-q", "-i", "0.01", "-W", "1", "-c", &count.to_string()])
        .args(more)
        .arg(to.into().to_string());
    // Ping ends with 1 if answers are missing, which is for the caller to judge.
    let output = exec::run(&mut command)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let number = |marker: &str| -> Option<u64> {
        let before = &text[..text.find(marker)?];
        before.rsplit([' ', '\n']).next()?.parse().ok()
    };
    let counts = number(" packets transmitted").zip(number(" received"));
    let (sent, received) =
        counts.with_context(|| format!("ping said: {text}{}", String::from_utf8_lossy(&output.stderr)))?;
    Ok(Loss { sent, received })
}

/// Waits until one container reaches another.
pub fn reach(from: &Container, to: &Container) -> Result<()> {
    eventually(CONVERGENCE, || {
        let loss = ping(&from.netns, to.addr, 1, &[])?;
        ensure!(loss.received == 1, "{} does not reach {} ({})", from.name, to.name, to.addr);
        Ok(())
    })
}

/// Waits until one container reaches another, then sends ten packets none of which may be lost.
pub fn ping_all(from: &Container, to: &Container) -> Result<Loss> {
    reach(from, to)?;
    let loss = ping(&from.netns, to.addr, 10, &[])?;
    ensure!(loss.lost() == 0, "from {} to {} ({}): {loss}", from.name, to.name, to.addr);
    Ok(loss)
}
