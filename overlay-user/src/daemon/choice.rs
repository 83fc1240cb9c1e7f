//! Which data path to run: what was asked for, or the best that works here, found by trying.

use crate::{
    config::{Config, DatapathChoice, ReservedBits},
    datapath::{
        Datapath, DatapathError, Mode, Underlay,
        ebpf::{self, EbpfDatapath, Features},
        kernel::{self, KernelDatapath},
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
    ebpf::check_schema(&config.bpffs, config.map_schema)?;
    let asked = |choice: DatapathChoice| format!("--datapath {choice}");
    match config.datapath {
        DatapathChoice::Kernel => fall_back(config, asked(DatapathChoice::Kernel)).await,
        DatapathChoice::Xdp => bpf(config, Mode::Xdp, underlay, asked(DatapathChoice::Xdp)).await,
        DatapathChoice::Tc => bpf(config, Mode::Tc, underlay, asked(DatapathChoice::Tc)).await,
        DatapathChoice::Auto => automatic(config, underlay).await,
    }
}

async fn automatic(config: &Config, underlay: &Underlay) -> Result<Chosen, DatapathError> {
    let Underlay { name, driver, .. } = underlay;
    let why_tc = match better_without_xdp(driver) {
        Some(why) => format!("{name} is a {driver}: {why}"),
        // Whether XDP works is tried by putting it there, which has to wait for the maps.
        None if ebpf::is_under_way(&config.bpffs, config.map_schema, Mode::Tc, underlay.ifindex)? => {
            "an older overlayd, which is being replaced, ran tc: the next start tries XDP".to_owned()
        }
        None => {
            match bpf(config, Mode::Xdp, underlay, format!("native XDP works on {name} ({driver})")).await {
                Ok(chosen) => return Ok(chosen),
                Err(error) => format!("no native XDP on {name} ({driver}): {error}"),
            }
        }
    };
    match bpf(config, Mode::Tc, underlay, why_tc.clone()).await {
        Ok(chosen) => Ok(chosen),
        Err(error) => {
            tracing::warn!(%error, "BPF programs do not run here: falling back to kernel VXLAN");
            fall_back(config, format!("{why_tc}; BPF programs do not run here: {error}")).await
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

async fn bpf(
    config: &Config,
    mode: Mode,
    underlay: &Underlay,
    reason: String,
) -> Result<Chosen, DatapathError> {
    let options = ebpf::Options {
        bpffs: config.bpffs.clone(),
        max_endpoints: config.max_endpoints,
        verify_every: config.verify_every,
        ignore_reserved_bits: config.reserved_bits == ReservedBits::Ignore,
        features: Features::probe(),
        schema: config.map_schema,
    };
    let datapath = EbpfDatapath::start(options, mode, underlay)?;
    kernel::leave().await?;
    let missing = datapath.missing();
    let reason =
        if missing.is_empty() { reason } else { format!("{reason}; this kernel has {}", missing.join(", ")) };
    Ok(Chosen { datapath: Box::new(datapath), mode, reason })
}

async fn fall_back(config: &Config, reason: String) -> Result<Chosen, DatapathError> {
    ebpf::leave(&config.bpffs).await?;
    let ignores = config.reserved_bits == ReservedBits::Ignore;
    let datapath = KernelDatapath::new().refusing_reserved_bits(ignores).verifying_every(config.verify_every);
    Ok(Chosen { datapath: Box::new(datapath), mode: Mode::Kernel, reason })
}

/// Takes whatever any data path left in the kernel out of it. Returns what could not be removed.
pub async fn remove_all(config: &Config) -> Vec<String> {
    let removed = [ebpf::remove(&config.bpffs).await, KernelDatapath::new().remove().await];
    removed.into_iter().filter_map(|result| Some(result.err()?.to_string())).collect()
}
