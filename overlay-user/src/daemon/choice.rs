//! Which data path to run.

use crate::{
    config::{Config, DatapathChoice},
    datapath::{Datapath, DatapathError, Mode, Underlay},
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
/// If what was asked for does not work here.
pub async fn choose(config: &Config, _underlay: &Underlay) -> Result<Chosen, DatapathError> {
    match config.datapath {
        DatapathChoice::Kernel => {
            Err(DatapathError::Unsupported("the kernel data path is not built in".into()))
        }
        other => Err(DatapathError::Unsupported(format!("--datapath {other} is not built in: use kernel"))),
    }
}

/// Takes whatever any data path left in the kernel out of it. Returns what could not be removed.
pub async fn remove_all(_config: &Config) -> Vec<String> {
    Vec::new()
}
