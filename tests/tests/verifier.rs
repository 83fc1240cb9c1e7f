//! What the kernel's verifier goes through to load each program, on the kernel that runs.
//!
//! The verifier gives up after a million instructions (`BPF_COMPLEXITY_LIMIT_INSNS`), and how many it
//! takes differs from kernel to kernel and grows by leaps. The bounds leave room for growth and none
//! for leaps. `cargo xtask vm-test` runs this on old and new kernels.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use aya::{
    VerifierLogLevel,
    programs::{Program, ProgramError, ProgramInfo},
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use overlay_user::datapath::ebpf::{self, Features};

/// The most instructions the verifier may process for each program, on any kernel.
const BOUNDS: [(&str, u32); 7] = [
    ("endpoint_in", 700_000),
    ("port_in", 900_000),
    ("port_xdp", 80_000),
    ("probe_decap", 1_000),
    ("slowpath_in", 60_000),
    ("uplink_in", 400_000),
    ("uplink_xdp", 180_000),
];

#[test]
fn no_program_takes_the_verifier_longer_than_it_may() {
    let features = Features::probe();
    let mut ebpf = ebpf::loader(features)
        .override_global("AYA_LOG_LEVEL", &0_u8, true)
        .verifier_log_level(VerifierLogLevel::STATS)
        .load(&ebpf::object_for(features))
        .unwrap();
    let mut wrong = Vec::new();
    let mut names: Vec<_> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
    names.sort();
    for name in names {
        let program = ebpf.program_mut(&name).unwrap();
        let bound = BOUNDS.iter().find(|(bounded, _)| *bounded == name).map_or(0, |(_, bound)| *bound);
        match count(program) {
            Ok(count) => {
                println!("verified {name} {count}");
                if count > bound {
                    wrong.push(format!("{name} takes {count} instructions, its bound is {bound}"));
                }
            }
            Err(error) => wrong.push(format!("{name} does not load: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// How many instructions the verifier processed.
fn count(program: &mut Program) -> Result<u32, ProgramError> {
    load(program)?;
    // Since Linux 5.16.
    if let Some(count) = info(program)?.verified_instruction_count() {
        return Ok(count);
    }
    // Before, only the verifier's log tells, which the library hands out of loads that failed alone:
    // so the load fails at its last step, for want of a descriptor for the program.
    unload(program)?;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 0, hard).unwrap();
    let failed = load(program);
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    let Err(ProgramError::LoadError { verifier_log, .. }) = failed else {
        panic!("a program was loaded without a descriptor: {failed:?}")
    };
    let log = verifier_log.to_string();
    let count = log.lines().find_map(|line| line.strip_prefix("processed ")?.split(' ').next()?.parse().ok());
    Ok(count.unwrap_or_else(|| panic!("the verifier's log has no count: {log}")))
}

fn load(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::SchedClassifier(program) => program.load(),
        Program::Xdp(program) => program.load(),
        other => panic!("a program of another kind: {other:?}"),
    }
}

fn unload(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::SchedClassifier(program) => program.unload(),
        Program::Xdp(program) => program.unload(),
        other => panic!("a program of another kind: {other:?}"),
    }
}

fn info(program: &Program) -> Result<ProgramInfo, ProgramError> {
    match program {
        Program::SchedClassifier(program) => program.info(),
        Program::Xdp(program) => program.info(),
        other => panic!("a program of another kind: {other:?}"),
    }
}
