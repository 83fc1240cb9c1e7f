//! Debian's generic kernels, by the beginning of their version. The cloud ones have neither 9p nor e1000.

use anyhow::{Context as _, Result};

use crate::packages::Packages;

const PREFIX: &str = "linux-image-";
const SUFFIX: &str = "-amd64";

/// A kernel that can be fetched.
pub struct Kernel {
    /// Its version as `uname -r` has it.
    pub release: String,
    /// The packages that it is made of.
    pub packages: Vec<String>,
}

impl Kernel {
    /// The newest kernel whose version begins with `name`, as 5.10 or 7.
    ///
    /// # Errors
    /// If there is none.
    pub fn find(packages: &Packages, name: &str) -> Result<Self> {
        let found = packages.search(&format!("^{PREFIX}[0-9].*{SUFFIX}$"));
        let versions = found.iter().filter_map(|package| {
            let version = package.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
            let rest = version.strip_prefix(name)?;
            // What has no third number is a meta-package.
            (rest.starts_with('.')
                && numbers(version).len() > 2
                && !version.contains("-cloud")
                && !version.contains("-rt"))
            .then_some(version)
        });
        let newest = versions.max_by_key(|version| numbers(version));
        let version = newest.with_context(|| {
            format!("no kernel {name}: none of the Debian releases that vm-test looks at has {PREFIX}{name}.*{SUFFIX}")
        })?;
        let release = format!("{version}{SUFFIX}");
        let image = format!("{PREFIX}{release}");
        // Since 7 the image is an empty package that needs others.
        let parts = packages.dependencies(&image).into_iter();
        let parts = parts.filter(|part| part.starts_with("linux-") && part.ends_with(&release));
        let packages = std::iter::once(image.clone()).chain(parts).collect();
        Ok(Self { release, packages })
    }
}

/// The numbers in a version, to compare by.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_their_numbers() {
        assert!(numbers("6.12.117+deb12") > numbers("6.12.43+deb12"));
        assert!(numbers("6.1.0-56") > numbers("6.1.0-0.deb11.52"));
        assert_eq!(numbers("6.12").len(), 2);
    }
}
