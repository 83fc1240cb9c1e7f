//! One record from the store, met by others.

#![no_main]

#[expect(dead_code, reason = "another has the rest")]
#[path = "../../tests/bad_input/judge.rs"]
mod judge;

libfuzzer_sys::fuzz_target!(|input: &[u8]| judge::record(input));
