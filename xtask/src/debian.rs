//! A minimal Debian with systemd, of this machine's release, in a directory: tests boot it and install the package.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::{
    packages::{Release, sources},
    step, workspace,
};

/// What the package does not ask for and a machine has: an init system, its bus, what the tests look with, and Docker
/// with what an image of it is made of.
const PACKAGES: &str = "systemd-sysv,dbus,iproute2,nftables,docker.io,iptables,busybox-static";

/// Units that only some tests want.
const DISABLE: &str = "systemctl --root \"$1\" disable docker.service docker.socket containerd.service";

/// Makes it, unless that was done before. To have a newer one, remove `target/debian`.
///
/// # Errors
/// If this machine is not a Debian, or packages cannot be had.
pub fn ensure() -> Result<()> {
    let release = codename()?;
    let (root, partial) = (directory().join("root"), directory().join("partial"));
    let made_of = directory().join("made-of");
    let wanted = format!("{release} {PACKAGES}");
    if root.is_dir() && fs::read_to_string(&made_of).is_ok_and(|made_of| made_of == wanted) {
        return Ok(());
    }
    ensure!(workspace::is_root(), "the Debian that tests boot is not there yet, and only root can make it");
    let _ = fs::remove_dir_all(directory());
    fs::create_dir_all(directory()).with_context(|| format!("cannot make {}", directory().display()))?;
    let list = directory().join("sources.list");
    fs::write(&list, sources(&[Release { name: &release, security: true }])?)
        .context("cannot write its sources")?;
    let mut command = Command::new("mmdebstrap");
    command
        .args(["--variant=minbase", "--mode=root", &format!("--include={PACKAGES}")])
        .arg(format!("--customize-hook={DISABLE}"))
        .args(["--aptopt=Acquire::Languages \"none\"", &release])
        .args([&partial, &list]);
    step::run("a minimal Debian to install the package in (a minute or two)", &mut command)?;
    fs::rename(&partial, &root).with_context(|| format!("cannot make {}", root.display()))?;
    fs::write(&made_of, wanted).context("cannot note what it was made of")
}

/// Everything of it.
fn directory() -> PathBuf {
    workspace::target().join("debian")
}

/// This machine's release: programs that are built here run there.
fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    ensure!(
        value("ID") == Some("debian"),
        "tests install the package in a Debian like this machine, which is none"
    );
    Ok(value("VERSION_CODENAME").context("/etc/os-release does not tell the release")?.to_owned())
}
