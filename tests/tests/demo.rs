//! The demo itself: it ends well, says so, and leaves nothing, also when it is interrupted.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use overlay_tests::exec;

/// How long cleaning up may take.
const CLEAN_UP: Duration = Duration::from_secs(15);

fn demo() -> Command {
    Command::new(env!("CARGO_BIN_EXE_overlay-demo"))
}

/// Names that are left of the lab of the process with this id: namespaces, pins, directories, and
/// programs that have one of those on their command line.
fn left_of(pid: u32) -> Vec<String> {
    let prefix = format!("ovlab-{pid}-");
    let mut left = Vec::new();
    for directory in ["/run/netns", "/sys/fs/bpf", &std::env::temp_dir().to_string_lossy()] {
        let names = fs::read_dir(directory).into_iter().flatten().flatten();
        let names = names.map(|entry| entry.path().to_string_lossy().into_owned());
        left.extend(names.filter(|name| name.contains(&prefix)));
    }
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&prefix) {
            left.push(line);
        }
    }
    left
}

#[test]
fn the_demo_ends_well_and_leaves_nothing() {
    let child = demo().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let shown = format!("{}: {said}{}", output.status, String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{shown}");
    let table: Vec<_> = said.lines().filter(|line| line.starts_with('│')).collect();
    assert!(table.len() > 8 && table[1..].iter().all(|row| row.contains(" ok ")), "{shown}");
    for sign in ["8 checks passed", "sha256", "data path", "\"vni\"", "Virtual eXtensible", ", 0 lost"] {
        assert!(said.contains(sign), "no {sign:?}: {shown}");
    }
    assert_eq!(left_of(pid), Vec::<String>::new());
}

#[test]
fn a_demo_that_is_interrupted_fails_and_leaves_nothing() {
    // While it makes things, and in the middle of its checks.
    for sign in ["overlayctl network create", "packets answered"] {
        let mut child = demo().stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let pid = child.id();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains(sign)), "it never said {sign:?}");
        // It must not wait for anybody to read.
        let reader = thread::spawn(move || lines.count());
        assert_ne!(left_of(pid), Vec::<String>::new());

        let begin = Instant::now();
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGINT).unwrap();
        let status =
            exec::eventually(CLEAN_UP, || child.try_wait()?.ok_or_else(|| anyhow::anyhow!("it still runs")));
        if status.is_err() {
            child.kill().unwrap();
        }
        assert_eq!(status.unwrap().code(), Some(130), "after {:?}", begin.elapsed());
        assert_eq!(left_of(pid), Vec::<String>::new(), "interrupted at {sign:?}");
        reader.join().unwrap();
    }
}
