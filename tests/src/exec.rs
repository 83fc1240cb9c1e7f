//! Running programs: for their output, or as long as a lab needs them.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitStatus, Output},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::Pid,
};

use crate::cleanup::{Resource, Undo, lock};

/// Runs a command and returns what it printed.
pub fn output(command: &mut Command) -> Result<String> {
    let output = run(command)?;
    if !output.status.success() {
        bail!(
            "{}: {}: {}{}",
            shown(command),
            output.status,
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&output.stdout)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command to its end, whatever that is.
pub fn run(command: &mut Command) -> Result<Output> {
    command.output().with_context(|| format!("cannot run {}", shown(command)))
}

/// The command as one would type it.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// A process that runs until this is dropped. It also dies with the thread that started it.
pub struct Process {
    child: Arc<Mutex<Child>>,
    pid: Pid,
    _undo: Undo,
}

impl Process {
    /// Starts a command in a process group of its own, so that Ctrl-C is not for it.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        command.process_group(0);
        // SAFETY: prctl(2) is async-signal-safe and touches no memory of this process.
        unsafe {
            command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?));
        }
        let child = command.spawn().with_context(|| format!("cannot start {}", shown(command)))?;
        let pid = Pid::from_raw(child.id().cast_signed());
        let child = Arc::new(Mutex::new(child));
        let undo = Undo::new(Resource::Process(Arc::clone(&child)));
        Ok(Self { child, pid, _undo: undo })
    }

    /// Its process id.
    #[must_use]
    pub const fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        // Under the lock and not waited for yet: the id is still this process's.
        let mut child = lock(&self.child);
        if let Some(status) = child.try_wait()? {
            bail!("process {} has ended already: {status}", self.pid);
        }
        kill(self.pid, signal).with_context(|| format!("cannot send {signal} to process {}", self.pid))
    }

    /// How it ended, if it did.
    pub fn ended(&self) -> Result<Option<ExitStatus>> {
        Ok(lock(&self.child).try_wait()?)
    }

    /// Waits for its end.
    pub fn wait(&self, limit: Duration) -> Result<ExitStatus> {
        let pid = self.pid;
        eventually(limit, || self.ended()?.with_context(|| format!("process {pid} still runs")))
    }
}

/// The only child of a process.
pub fn child(parent: Pid) -> Result<Pid> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
    let first = children.split_whitespace().next().with_context(|| format!("{parent} has no child"))?;
    Ok(Pid::from_raw(first.parse()?))
}

/// Makes a call until no signal interrupts it. A wait with a time-out at a socket is also cut short when the
/// process is stopped and goes on, or its machine is: no handler restarts it (signal(7)).
pub fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Tries until it works; the last error if it does not in time. `OVERLAY_LAB_PATIENCE` says how many
/// times longer than usual everything may take, as in an emulated machine.
pub fn eventually<T>(limit: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let patience = std::env::var("OVERLAY_LAB_PATIENCE").ok().and_then(|times| times.parse().ok());
    let limit = limit * patience.unwrap_or(1);
    let begin = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if begin.elapsed() > limit => {
                return Err(error.context(format!("not within {} s", limit.as_secs_f32())));
            }
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}
