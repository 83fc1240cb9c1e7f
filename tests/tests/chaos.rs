//! Random things done to a cluster, from a seed: always the same one, and one of the caller's choice.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::process::Command;

/// Enough for a few bursts.
const STEPS: &str = "60";

/// Whose value is the seed of one more run.
const SEED: &str = "OVERLAY_CHAOS_SEED";

fn chaos(seed: &str, more: &[&str]) -> String {
    let output = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_overlay-chaos"));
    command.args(["--seed", seed, "--steps", STEPS]).args(more).arg("--output").arg(output.path());
    let ended = command.output().unwrap();
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(ended.status.success(), "{said}{}", String::from_utf8_lossy(&ended.stderr));
    said
}

#[test]
fn a_cluster_gets_over_whatever_is_done_to_it() {
    let said = chaos("1", &[]);
    assert!(said.contains("seed 1: 60 steps"), "{said}");
    if let Ok(seed) = std::env::var(SEED) {
        chaos(&seed, &[]);
    }
}

#[test]
fn a_seed_always_gives_the_same_steps() {
    let steps = chaos("7", &["--list"]);
    assert_eq!(steps, chaos("7", &["--list"]));
    assert_ne!(steps, chaos("8", &["--list"]));
}
