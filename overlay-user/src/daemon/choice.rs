//! Which data path to run: what was asked for, or the best that works here, found by trying.

use crate::{
    config::{Config, DatapathChoice, ReservedBits},
    datapath::{
        Datapath, DatapathError, Mode, Underlay,
        ebpf::{self, EbpfDatapath},
    },
};

/// A data path and why it is this one.
pub struct Chosen {
    /// The data path.
    pub datapath: Box<dyn Datapath>,
    /// Which it is.
    pub mode: Mode,
    /// Why.
    pub reason: String,
}

/// Chooses what `config` asks for, or the best that works on `underlay`.
///
/// # Errors
/// If what was asked for does not work here. `auto` always finds one.
pub async fn choose(config: &Config, underlay: &Underlay) -> Result<Chosen, DatapathError> {
    let asked = |choice: DatapathChoice| format!("--datapath {choice}");
    match config.datapath {
        DatapathChoice::Kernel => kernel(config, asked(DatapathChoice::Kernel)).await,
        DatapathChoice::Xdp => bpf(config, Mode::Xdp, underlay, asked(DatapathChoice::Xdp)),
        DatapathChoice::Tc => bpf(config, Mode::Tc, underlay, asked(DatapathChoice::Tc)),
        DatapathChoice::Auto => automatic(config, underlay).await,
    }
}

async fn automatic(config: &Config, underlay: &Underlay) -> Result<Chosen, DatapathError> {
    let Underlay { name, driver, .. } = underlay;
    let why_tc = match better_without_xdp(driver) {
        Some(why) => format!("{name} is a {driver}: {why}"),
        None => match bpf(config, Mode::Xdp, underlay, format!("native XDP works on {name} ({driver})")) {
            Ok(chosen) => return Ok(chosen),
            Err(error) => format!("no native XDP on {name} ({driver}): {error}"),
        },
    };
    match bpf(config, Mode::Tc, underlay, why_tc.clone()) {
        Ok(chosen) => Ok(chosen),
        Err(error) => {
            tracing::warn!(%error, "BPF programs do not run here: falling back to kernel VXLAN");
            kernel(config, format!("{why_tc}; BPF programs do not run here: {error}")).await
        }
    }
}

/// Why tc beats native XDP on a driver that has it.
fn better_without_xdp(driver: &str) -> Option<&'static str> {
    // drivers/net/veth.c: with XDP attached the peer loses segmentation offload, and every packet
    // with fragments or little headroom is copied.
    (driver == "veth")
        .then_some("native XDP would have every super-packet cut up and copied there, tc does not")
}

fn bpf(config: &Config, mode: Mode, underlay: &Underlay, reason: String) -> Result<Chosen, DatapathError> {
    let options = ebpf::Options {
        bpffs: config.bpffs.clone(),
        max_endpoints: config.max_endpoints,
        ignore_reserved_bits: config.reserved_bits == ReservedBits::Ignore,
    };
    let datapath = EbpfDatapath::start(options, mode, underlay)?;
    Ok(Chosen { datapath: Box::new(datapath), mode, reason })
}

async fn kernel(config: &Config, _reason: String) -> Result<Chosen, DatapathError> {
    ebpf::remove(&config.bpffs).await?;
    Err(DatapathError::Unsupported("the kernel data path is not built in".into()))
}

/// Takes whatever any data path left in the kernel out of it. Returns what could not be removed.
pub async fn remove_all(config: &Config) -> Vec<String> {
    ebpf::remove(&config.bpffs).await.err().map(|error| error.to_string()).into_iter().collect()
}
