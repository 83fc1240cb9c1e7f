//! The files of a package as they will be below `/`.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::change;
use crate::step;

const PAGES: &str = "usr/share/man/man8";

/// A directory that becomes a package.
pub struct Tree(PathBuf);

impl Tree {
    /// A tree that is empty yet.
    pub const fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn write(&self, to: &str, content: impl AsRef<[u8]>, mode: u32) -> Result<PathBuf> {
        let path = self.0.join(to);
        let dir = path.parent().unwrap_or(&path);
        let written = fs::create_dir_all(dir)
            .and_then(|()| fs::write(&path, content))
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(mode)));
        written.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Adds manual pages, compressed as Debian has them.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn add_pages(&self, from: &Path) -> Result<()> {
        for page in fs::read_dir(from).with_context(|| format!("no pages in {}", from.display()))? {
            let page = page?;
            let name = page.file_name().to_string_lossy().into_owned();
            let written = self.write(&format!("{PAGES}/{name}"), fs::read(page.path())?, 0o644)?;
            change("compress", "gzip", &["-9n"], &written)?;
        }
        Ok(())
    }

    /// Checksums of everything, for `dpkg --verify`.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn sums(&self) -> Result<String> {
        let mut command = Command::new("sh");
        let script = "find . -type f ! -path './DEBIAN/*' -printf '%P\\0' | sort -z | xargs -0 md5sum";
        step::output(command.current_dir(&self.0).args(["-c", script])).context("no checksums")
    }

    /// Its size.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn kilobytes(&self) -> Result<u64> {
        let told = step::output(Command::new("du").args(["-sk", "--apparent-size"]).arg(&self.0));
        let size = told.as_deref().and_then(|text| text.split_whitespace().next()?.parse().ok());
        size.with_context(|| format!("du does not tell the size of {}", self.0.display()))
    }
}
