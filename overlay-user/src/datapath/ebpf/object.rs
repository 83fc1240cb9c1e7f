//! The embedded BPF object: loaded with its maps opened from their pins where there are some.

use std::{borrow::Cow, error::Error, panic::resume_unwind, thread};

use aya::{Ebpf, EbpfLoader, include_bytes_aligned, maps::MapInfo, programs::Program};
use aya_obj::Object;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

use super::{
    Features, Options, fdb,
    links::{PORT_IN, UPLINK_XDP},
    pins::{Pins, remove_file},
    probe,
};
use crate::datapath::DatapathError;

/// The BPF object, as `cargo xtask build-ebpf` made it.
pub static OBJECT: &[u8] = include_bytes_aligned!(env!("OVERLAY_BPF_OBJECT"));

/// Names of the section of XDP programs, for kernels that have packets of several buffers and for others.
const FRAGS_SECTION: &[u8] = b"xdp.frags\0";
const PLAIN_SECTION: &[u8] = b"xdp\0\0\0\0\0\0\0";

/// aya-log's ring buffer: not shared between daemons, so not pinned.
const LOG_MAP: &str = "AYA_LOGS";

/// Maps whose size is the operator's to choose: one row for each endpoint.
const SIZED: [&str; 3] = ["endpoints", "neighbours", "members"];

/// Which programs are loaded: those for both ways in, or without XDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Programs {
    /// All.
    All,
    /// All but the XDP program.
    WithoutXdp,
}

/// The object as a kernel with these features takes it.
#[must_use]
pub fn object_for(features: Features) -> Cow<'static, [u8]> {
    if features.xdp_frags {
        return OBJECT.into();
    }
    // The library takes from the section's name that a program is for packets of several buffers, and
    // sets a flag that the kernel refuses (BPF_F_XDP_HAS_FRAGS).
    let mut object = OBJECT.to_vec();
    while let Some(start) = object.windows(FRAGS_SECTION.len()).position(|name| name == FRAGS_SECTION) {
        object[start..][..FRAGS_SECTION.len()].copy_from_slice(PLAIN_SECTION);
    }
    object.into()
}

/// A loader that tells the programs what the kernel has.
#[must_use]
pub fn loader(features: Features) -> EbpfLoader<'static> {
    // Before Linux 5.11 maps count as locked memory, and not every kind says that it was too much. Who may
    // not raise the limit may have one that does.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    let mut loader = EbpfLoader::new();
    loader.override_global("XDP_FRAGS", if features.xdp_frags { &1_u8 } else { &0 }, true);
    loader
}

/// Loads the object. `max_endpoints` sizes maps that are made now; maps that are pinned already keep
/// their size.
///
/// # Errors
/// If the kernel refuses a map or a program, or a pinned map has another shape.
pub fn load(
    pins: &Pins,
    options: &Options,
    log_level: u8,
    programs: Programs,
) -> Result<Ebpf, DatapathError> {
    let Options { max_endpoints, features, .. } = *options;
    let bytes = object_for(features);
    let object = Object::parse(&bytes).map_err(|e| failed("the embedded BPF object is damaged", e))?;
    let mut loader = loader(features);
    loader.override_global("AYA_LOG_LEVEL", &log_level, true);
    for (name, map) in object.maps.iter().filter(|(name, _)| *name != LOG_MAP && !name.starts_with('.')) {
        let path = pins.map(name);
        let mut wanted = match name.as_str() {
            "fdb" => fdb::buckets(max_endpoints),
            // What is flooded to more nodes is not flooded by the programs.
            "flood_vteps" => max_endpoints.min(map.max_entries()),
            sized if SIZED.contains(&sized) => max_endpoints,
            _ => map.max_entries(),
        };
        if path.exists() {
            let pinned =
                MapInfo::from_pin(&path).map_err(|e| failed(&format!("map pin {}", path.display()), e))?;
            if (pinned.key_size(), pinned.value_size()) != (map.key_size(), map.value_size()) {
                return Err(DatapathError::Unsupported(format!(
                    "the pinned map {} has keys of {} and values of {} bytes, this overlayd has {} and {}: \
                     run the overlayd that made it, or `overlayd --purge` first",
                    path.display(),
                    pinned.key_size(),
                    pinned.value_size(),
                    map.key_size(),
                    map.value_size()
                )));
            }
            wanted = pinned.max_entries();
        }
        loader.map_max_entries(name, wanted);
        loader.map_pin_path(name, path);
    }
    let mut ebpf = loader.load(&bytes).map_err(|e| failed("the kernel refuses a BPF map", e))?;
    load_programs(pins, &mut ebpf, programs)?;
    Ok(ebpf)
}

/// Loads and pins all programs that are needed from the start. The verifier takes a good part of a second for the
/// longest, so each has a thread: for whoever is privileged it takes no lock (`bpf_check`, 5.10 and newer).
fn load_programs(pins: &Pins, ebpf: &mut Ebpf, programs: Programs) -> Result<(), DatapathError> {
    thread::scope(|scope| {
        let mut loading = Vec::new();
        for (name, program) in ebpf.programs_mut() {
            let is_needed = match program {
                Program::SchedClassifier(probe) if name == probe::DECAP => {
                    probe.load().map_err(|e| refused(name, e))?;
                    false
                }
                // Those of gateway ports when there is one.
                Program::SchedClassifier(_) => name != PORT_IN,
                Program::Xdp(_) => programs == Programs::All && name == UPLINK_XDP,
                _ => false,
            };
            if is_needed {
                loading.push(scope.spawn(move || load_one(pins, name, program)));
            }
        }
        loading.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

/// The names of the maps that [`load`] pinned.
pub fn pinned_maps(ebpf: &Ebpf) -> Vec<String> {
    let shared = |name: &&str| *name != LOG_MAP && !name.starts_with('.');
    ebpf.maps().map(|(name, _)| name).filter(shared).map(str::to_owned).collect()
}

/// Loads and pins one program.
///
/// # Errors
/// If the kernel refuses it.
pub fn load_one(pins: &Pins, name: &str, program: &mut Program) -> Result<(), DatapathError> {
    match program {
        Program::SchedClassifier(program) => program.load(),
        Program::Xdp(program) => program.load(),
        _ => Ok(()),
    }
    .map_err(|e| refused(name, e))?;
    let path = pins.program(name);
    remove_file(&path)?;
    program.pin(&path).map_err(|e| failed(&format!("cannot pin program {name}"), e))
}

fn refused(program: &str, error: aya::programs::ProgramError) -> DatapathError {
    use aya::programs::ProgramError;
    // The verifier's log is for whoever debugs the program; an operator gets its last line.
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            tracing::debug!(program, log, "verifier");
            let last =
                log.lines().rev().find(|line| !line.trim().is_empty() && !line.starts_with("processed"));
            failed(
                &format!(
                    "the kernel's verifier refuses program {program} ({})",
                    last.unwrap_or("no reason given")
                ),
                io_error,
            )
        }
        other => failed(&format!("the kernel refuses program {program}"), other),
    }
}

/// An error of the library's with its causes, and what was tried.
pub(super) fn failed(what: &str, error: impl Error) -> DatapathError {
    let mut cause = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let text = source.to_string();
        if !cause.contains(&text) {
            cause = format!("{cause}: {text}");
        }
        next = source.source();
    }
    DatapathError::Bpf { what: what.to_owned(), cause }
}
