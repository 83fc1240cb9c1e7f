//! The file `state.json` of an earlier run.

#![no_main]

#[expect(dead_code, reason = "another has the rest")]
#[path = "../../tests/bad_input/judge.rs"]
mod judge;

use std::sync::LazyLock;

use tempfile::TempDir;

/// In memory: a disk would be written to ten thousand times a second.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir_in("/dev/shm").unwrap());

libfuzzer_sys::fuzz_target!(|input: &[u8]| judge::kept_state(input, FOLDER.path()));
