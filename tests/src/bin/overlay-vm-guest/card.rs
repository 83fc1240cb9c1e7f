//! The machine's network cards, told by their addresses.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, bail};
use overlay_tests::exec;

/// Which card: the fifth byte of its MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Card {
    /// By which the nodes reach the store.
    Control = 1,
    /// A virtio-net card, with a queue for each CPU.
    Virtio = 2,
    /// An e1000.
    E1000 = 3,
}

impl Card {
    /// Its name in this machine.
    pub fn device(self, number: u8) -> Result<String> {
        let mac = format!("52:54:00:00:{:02}:{number:02}", self as u8);
        for entry in fs::read_dir("/sys/class/net")? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let address = fs::read_to_string(format!("/sys/class/net/{name}/address")).unwrap_or_default();
            // A VLAN device has its card's address.
            if address.trim() == mac && !name.contains('.') {
                return Ok(name);
            }
        }
        bail!("this machine has no {self:?} card")
    }

    /// An address on its wire.
    pub fn address(self, number: u8) -> String {
        let wire = if matches!(self, Self::Control) { 1 } else { 2 };
        format!("10.77.{wire}.{number}")
    }

    /// Sets it up with its address.
    pub fn set_up(self, number: u8) -> Result<String> {
        let device = self.device(number)?;
        ip(&format!("link set {device} up"))?;
        ip(&format!("address replace {}/24 dev {device}", self.address(number)))?;
        Ok(device)
    }
}

/// Runs `ip`.
pub fn ip(line: &str) -> Result<String> {
    exec::output(Command::new("ip").args(line.split_whitespace())).context("ip failed")
}
