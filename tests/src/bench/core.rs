//! One core for everything that is measured on it.

use anyhow::{Context as _, Result};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// Keeps the calling thread, and all threads and processes it starts, on the machine's last core until
/// it is dropped.
///
/// Daemons too: a packet that one of them sent from another core would have its interface polled
/// there, and as long as frames keep coming the polling stays where it is.
pub struct OneCore {
    before: CpuSet,
}

impl OneCore {
    pub fn take() -> Result<Self> {
        let before = sched_getaffinity(this_thread())?;
        let last = (0..CpuSet::count()).rev().find(|core| before.is_set(*core).unwrap_or(false));
        let mut only = CpuSet::new();
        only.set(last.context("no core to run on")?)?;
        sched_setaffinity(this_thread(), &only).context("cannot stay on one core")?;
        Ok(Self { before })
    }
}

impl Drop for OneCore {
    fn drop(&mut self) {
        // What comes next is only less exact with one core.
        let _ = sched_setaffinity(this_thread(), &self.before);
    }
}

const fn this_thread() -> Pid {
    Pid::from_raw(0)
}
