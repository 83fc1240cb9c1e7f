//! A real consul on the wire, as an old Docker's store.

use std::{
    fs::{self, File},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    cleanup::{self, Resource, Undo},
    docker::unpacked,
    exec::{self, Process, eventually},
    wire::Wire,
};

/// How long it may take to elect itself on a busy machine.
const READY: Duration = Duration::from_secs(40);

/// One consul with its data.
pub struct Consul {
    _process: Process,
    _undo: Undo,
}

impl Consul {
    /// Starts one at the wire's own address, and waits until it keeps what it is given.
    ///
    /// # Errors
    /// If it is not there, or does not answer.
    pub fn start(wire: &Wire) -> Result<Self> {
        let consul = program()?;
        let dir = std::env::temp_dir().join(cleanup::unique("consul"));
        let undo = Undo::new(Resource::Directory(dir.clone()));
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let addr = Wire::gateway().to_string();
        let log = File::create(dir.join("log"))?;
        let mut command = wire.netns().command(&consul);
        command
            .args(["agent", "-server", "-bootstrap-expect=1", "-bind", &addr, "-client", &addr, "-data-dir"])
            .arg(dir.join("data"))
            .stdout(log.try_clone()?)
            .stderr(log);
        let process = Process::spawn(&mut command)?;
        let address = format!("-http-addr=http://{addr}:8500");
        eventually(READY, || {
            exec::output(wire.netns().command(&consul).args(["kv", "put", &address, "lab", "ready"]))
        })
        .with_context(|| format!("consul does not answer; its log is {}", dir.join("log").display()))?;
        Ok(Self { _process: process, _undo: undo })
    }
}

/// Where `cargo xtask` unpacks it.
fn program() -> Result<PathBuf> {
    let consul = unpacked("old").join("usr/bin/consul");
    ensure!(consul.is_file(), "{} is not there: `cargo xtask test --full` fetches it", consul.display());
    Ok(consul)
}
