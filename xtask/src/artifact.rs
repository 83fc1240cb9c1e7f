//! What the BPF object must have besides code.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use object::{Object as _, ObjectSection as _};

/// Sections without which the object loads but tells nobody what its maps hold.
const SECTIONS: [&str; 2] = [".BTF", ".maps"];

/// Checks that the object has type information for its maps.
///
/// # Errors
/// If it has not, or cannot be read.
pub fn check(path: &Path) -> Result<()> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let elf =
        object::File::parse(&*bytes).with_context(|| format!("{} is not an ELF file", path.display()))?;
    for section in SECTIONS {
        if elf.section_by_name(section).is_none_or(|found| found.size() == 0) {
            bail!("{} has no {section} section: its maps would be opaque to bpftool", path.display());
        }
    }
    Ok(())
}
