//! The store of both nodes, in the first.

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
};

use anyhow::Result;
use overlay_tests::exec::Process;

use crate::card::Card;

/// Starts it.
pub fn start() -> Result<Process> {
    let dir = Path::new("/tmp/etcd");
    fs::create_dir_all(dir)?;
    let log = File::create(dir.join("log"))?;
    let mut command = Command::new("etcd");
    command
        .arg("--data-dir")
        .arg(dir.join("data"))
        .args(["--listen-client-urls", &url(), "--advertise-client-urls", &url()])
        .args(["--listen-peer-urls", "http://127.0.0.1:2380", "--unsafe-no-fsync"])
        .stdout(log.try_clone()?)
        .stderr(log);
    Process::spawn(&mut command)
}

/// Where it is.
pub fn url() -> String {
    format!("http://{}:2379", Card::Control.address(1))
}
