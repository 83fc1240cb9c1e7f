//! Wires between machines: bridges in a network namespace of their own, a tap for each card. A tap has
//! as many queues as the card; a socket between two QEMUs has one.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use super::machine::{Card, Plugged};

/// Names of namespaces begin with this; the process id follows.
const PREFIX: &str = "ovvm-";

/// The namespace; gone, with all in it, when dropped.
pub struct Wire {
    netns: String,
}

impl Wire {
    /// Makes the namespace.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn new() -> Result<Self> {
        sweep();
        let wire = Self { netns: format!("{PREFIX}{}", std::process::id()) };
        ip(&["netns", "add", &wire.netns])?;
        Ok(wire)
    }

    /// Makes the tap of a card, on the bridge of its name.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn plug(&self, card: Card) -> Result<Plugged> {
        let (bridge, tap) = (card.wire, format!("{}{}", card.name, card.number));
        let inside = |words: &[&str]| ip(&[&["-n", &self.netns], words].concat());
        if inside(&["link", "show", bridge]).is_err() {
            inside(&["link", "add", bridge, "type", "bridge", "mcast_snooping", "0"])?;
            inside(&["link", "set", bridge, "up"])?;
        }
        let queues: &[&str] = if card.queues > 1 { &["multi_queue"] } else { &[] };
        inside(&[&["tuntap", "add", &tap, "mode", "tap", "vnet_hdr"], queues].concat())?;
        inside(&["link", "set", &tap, "master", bridge, "up"])?;
        Ok(Plugged { card, tap, netns: self.netns.clone() })
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = ip(&["netns", "delete", &self.netns]);
    }
}

/// Removes what a run that was killed left behind.
fn sweep() {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.strip_prefix(PREFIX).is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = ip(&["netns", "delete", &name]);
        }
    }
}

fn ip(words: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(words).output().context("cannot run ip")?;
    if !output.status.success() {
        bail!("ip {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
