//! From one schema of maps to the next: the new maps are made and filled beside the old ones, then each link
//! is handed to the new programs, by the same atomic update as between daemons of one schema.

use std::path::Path;

use super::{
    EbpfDatapath,
    links::{ENDPOINT_IN, PORT_IN, PORT_XDP, SLOWPATH_IN, UPLINK_IN, UPLINK_XDP},
    pins::Pins,
};
use crate::{
    datapath::{DatapathError, Mode},
    netlink,
};

/// Every program that is put on interfaces.
const PROGRAMS: [&str; 6] = [UPLINK_IN, SLOWPATH_IN, ENDPOINT_IN, PORT_IN, UPLINK_XDP, PORT_XDP];

/// Makes sure that no newer daemon's programs forward: what they know cannot be read.
///
/// # Errors
/// If there are such programs; the text says what to do.
pub fn check_schema(bpffs: &Path, schema: u32) -> Result<(), DatapathError> {
    for pins in others(bpffs, schema)?.filter(|pins| pins.schema() > schema) {
        if !pins.attached()?.is_empty() {
            return Err(DatapathError::Unsupported(format!(
                "a newer overlayd forwards by maps of schema {} in {}, this one has schema {schema}: run the newer one \
                 again, or take everything out of the kernel with its `overlayd --purge` first",
                pins.schema(),
                pins.path().display()
            )));
        }
        // It did not get as far as forwarding.
        pins.remove_all()?;
    }
    Ok(())
}

/// Whether programs of an older schema run the uplink in `mode`, for this daemon to replace.
///
/// # Errors
/// If a pin directory cannot be read.
pub fn is_under_way(bpffs: &Path, schema: u32, mode: Mode, uplink: u32) -> Result<bool, DatapathError> {
    Ok(former(bpffs, schema)?
        .iter()
        .any(|pins| pins.has(UPLINK_IN, uplink) && pins.has(UPLINK_XDP, uplink) == (mode == Mode::Xdp)))
}

/// The pins of older schemas by which packets are forwarded; others are removed.
///
/// # Errors
/// If a pin directory cannot be read or removed.
pub fn former(bpffs: &Path, schema: u32) -> Result<Vec<Pins>, DatapathError> {
    let mut former = Vec::new();
    for pins in others(bpffs, schema)?.filter(|pins| pins.schema() < schema) {
        if pins.attached()?.is_empty() {
            pins.remove_all()?;
        } else {
            former.push(pins);
        }
    }
    Ok(former)
}

fn others(bpffs: &Path, schema: u32) -> Result<impl Iterator<Item = Pins>, DatapathError> {
    Ok(Pins::existing(bpffs)?.into_iter().filter(move |pins| pins.schema() != schema))
}

impl EbpfDatapath {
    /// Hands what older programs are on to our own, which know as much by now, and removes the rest of
    /// them. One that is not done is tried again. Returns how many were handed over.
    pub(super) fn take_over(&mut self) -> Result<usize, DatapathError> {
        let mut changed = 0;
        while let Some(former) = self.former.last().cloned() {
            tracing::info!(
                from = former.schema(),
                to = self.pins.schema(),
                "taking over from an older overlayd"
            );
            let (attached, by_xdp) = (former.attached()?, self.local.mode == Mode::Xdp);
            // tc before XDP, which leaves packets to it. What is on an endpoint's interface that was withdrawn
            // is taken too: it keeps dropping.
            for program in PROGRAMS.into_iter().filter(|program| by_xdp || *program != UPLINK_XDP) {
                for (_, ifindex) in attached.iter().filter(|(name, _)| name == program) {
                    let Some(device) = netlink::name_at(*ifindex) else { continue };
                    self.pins.take(&former, program, *ifindex)?;
                    if [UPLINK_XDP, PORT_XDP].contains(&program) {
                        self.attach_xdp(program, &device, *ifindex)?;
                    } else {
                        self.attach(program, &device, *ifindex)?;
                    }
                    changed += 1;
                }
            }
            former.remove_all()?;
            self.former.pop();
        }
        Ok(changed)
    }
}
