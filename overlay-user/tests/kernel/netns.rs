//! Network namespaces for tests: uniquely named, removed on drop, with code run inside them.

use std::{
    fs::File,
    future::Future,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use nix::sched::{CloneFlags, setns};

/// A network namespace with its loopback up.
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes one. Panics without root: a test that cannot run has failed.
    pub fn new(label: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        assert!(nix::unistd::geteuid().is_root(), "this test makes network namespaces: run it as root");
        let name = format!("ovt{}-{}-{label}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        sh(&format!("ip netns add {name}"));
        let netns = Self { name };
        netns.ip("link set lo up");
        netns
    }

    /// The file bound to it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` in it and returns what it printed.
    pub fn ip(&self, arguments: &str) -> String {
        sh(&format!("ip -n {} {arguments}", self.name))
    }

    /// Runs a shell command in it, which must succeed, and returns what it printed.
    pub fn exec(&self, command: &str) -> String {
        sh(&format!("ip netns exec {} {command}", self.name))
    }

    /// Runs a shell command in it and says whether it succeeded.
    pub fn succeeds(&self, command: &str) -> bool {
        let command = format!("ip netns exec {} {command}", self.name);
        Command::new("sh").args(["-c", &command]).output().expect("run sh").status.success()
    }

    /// Runs `work` in it, on a thread and a runtime of its own.
    pub fn run<T: Send, F: Future<Output = T>>(&self, work: impl FnOnce() -> F + Send) -> T {
        let file = File::open(self.path()).expect("open the namespace");
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(file, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime").block_on(work())
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().expect("run sh");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}
