//! Builds the daemon, the tool and the lab.

use std::path::PathBuf;

use anyhow::Result;

use crate::{ebpf, step, workspace};

/// How to build for the host.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Quick to build.
    Debug,
    /// Optimised.
    Release,
}

impl From<bool> for Profile {
    fn from(release: bool) -> Self {
        if release { Self::Release } else { Self::Debug }
    }
}

impl Profile {
    /// Cargo's flag for it.
    fn flag(self) -> Option<&'static str> {
        (self == Self::Release).then_some("--release")
    }

    /// Cargo's name for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Release => "release",
        }
    }

    /// Where cargo puts the programs.
    pub fn dir(self) -> PathBuf {
        workspace::target().join(self.name())
    }
}

/// Builds everything: first the programs, which overlayd embeds.
///
/// # Errors
/// If a part does not build.
pub fn build(profile: Profile) -> Result<()> {
    ebpf::build()?;
    host(profile)
}

/// Builds the programs of the host.
///
/// # Errors
/// If a part does not build.
pub fn host(profile: Profile) -> Result<()> {
    let mut command = workspace::cargo();
    command.args(["build", "--package", "overlay-user", "--package", "overlay-tests"]).args(profile.flag());
    step::run("overlayd, overlayctl and the lab", &mut command).map(|_| ())
}
