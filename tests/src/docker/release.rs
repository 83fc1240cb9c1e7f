//! The versions of Docker that there are to test with.

use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};

use crate::exec;

/// Where programs are looked for that come with the machine: runc, iptables and Docker 20.10.
const SYSTEM: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// A version of Docker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// Debian 12's, which is installed: the last with an overlay driver for an external store.
    V20_10,
    /// Debian 11's, of the same series: the last that was built to take consul for its store. `cargo xtask test --full`
    /// unpacks it below `target`.
    WithConsul,
    /// The newest that Debian has, which `cargo xtask test` unpacks below `target`.
    Newest,
}

impl Release {
    /// Those that everything is tested with.
    pub const ALL: [Self; 2] = [Self::V20_10, Self::Newest];

    /// `PATH` for its daemon, so that it finds the containerd it belongs to.
    ///
    /// # Errors
    /// If it is not there.
    pub fn path(self) -> Result<OsString> {
        if self == Self::V20_10 {
            let version = exec::output(Command::new("dockerd").env("PATH", SYSTEM).arg("--version"))?;
            ensure!(version.contains(" 20.10."), "needs dockerd 20.10, here is: {}", version.trim());
            return Ok(SYSTEM.into());
        }
        let dir = unpacked(if self == Self::WithConsul { "old" } else { "newest" });
        let dockerd = dir.join("usr/sbin/dockerd");
        ensure!(
            dockerd.is_file(),
            "{} is not there: `cargo xtask test --full` fetches it",
            dockerd.display()
        );
        Ok(format!("{0}/usr/sbin:{0}/usr/bin:{SYSTEM}", dir.display()).into())
    }

    /// `PATH` for its command line, where that has to be its own: newer ones do not ask it for all it can do.
    #[must_use]
    pub const fn client_path(self) -> Option<&'static str> {
        match self {
            Self::V20_10 | Self::WithConsul => Some(SYSTEM),
            Self::Newest => None,
        }
    }
}

/// Where `cargo xtask` unpacks what it fetches.
#[must_use]
pub fn unpacked(which: &str) -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).join("target/docker").join(which)
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V20_10 => "Docker 20.10",
            Self::WithConsul => "Docker 20.10 with consul",
            Self::Newest => "the newest Docker",
        })
    }
}
