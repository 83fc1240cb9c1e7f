//! A Debian package: programs, units, settings, manual pages and completions for shells.

mod files;
mod tree;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use self::{files::FILES, tree::Tree};
use crate::{
    build::{self, Profile},
    requirement::{DIST_REQUIREMENTS, REQUIREMENTS},
    setup, step, workspace,
};

const NAME: &str = "overlayd";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Builds the package, and says where it is.
///
/// # Errors
/// If something does not build, or the tools for packages refuse.
pub fn dist(profile: Profile) -> Result<()> {
    setup::ensure_all(&[REQUIREMENTS, DIST_REQUIREMENTS])?;
    build::build(profile)?;
    for package in packages(profile)? {
        eprintln!("{}", package.display());
    }
    Ok(())
}

/// Packs what is built already. What was built without optimisations is for tests, which want it as the version
/// it is upgraded to as well.
///
/// # Errors
/// If the tools for packages refuse.
pub fn packages(profile: Profile) -> Result<Vec<PathBuf>> {
    let staged = Staged::new(profile)?;
    let next = (profile == Profile::Debug).then(|| format!("{VERSION}+next"));
    [Some(VERSION.to_owned()), next].into_iter().flatten().map(|version| staged.pack(&version)).collect()
}

/// Everything that is in a package.
struct Staged {
    tree: Tree,
    profile: Profile,
    architecture: String,
    depends: String,
}

impl Staged {
    /// Collects what is built already.
    fn new(profile: Profile) -> Result<Self> {
        let dir = workspace::target().join("dist").join(profile.name());
        let _ = fs::remove_dir_all(&dir);
        let pages = dir.join("pages");
        let written = Command::new(profile.dir().join("overlay-pages")).arg(&pages).status();
        anyhow::ensure!(written.is_ok_and(|status| status.success()), "overlay-pages failed");

        let tree = Tree::new(dir.join("root"));
        for file in FILES {
            file.put(&tree, profile, &pages)?;
        }
        tree.add_pages(&pages.join("man"))?;
        let depends = libraries(&tree)?;
        tree.write("DEBIAN/md5sums", tree.sums()?, 0o644)?;
        Ok(Self { tree, profile, architecture: architecture()?, depends })
    }

    /// Makes the package of a version. One of what was built without optimisations is compressed in a hurry.
    fn pack(&self, version: &str) -> Result<PathBuf> {
        let Self { tree, profile, architecture, depends: _ } = self;
        tree.write("DEBIAN/control", self.control(version)?, 0o644)?;
        let package = tree.path().with_file_name(format!("{NAME}_{version}_{architecture}.deb"));
        let mut command = Command::new("dpkg-deb");
        command.arg("--root-owner-group");
        if *profile == Profile::Debug {
            command.args(["-Zgzip", "-z1"]);
        }
        command.arg("--build").arg(tree.path()).arg(&package);
        step::run("pack", &mut command)?;
        Ok(package)
    }

    /// What the package manager is to know.
    fn control(&self, version: &str) -> Result<String> {
        let Self { tree, profile: _, architecture, depends } = self;
        Ok(format!(
            "Package: {NAME}\n\
             Version: {version}\n\
             Architecture: {architecture}\n\
             Maintainer: the overlay maintainers <root@localhost>\n\
             Installed-Size: {}\n\
             Pre-Depends: init-system-helpers (>= 1.54~)\n\
             Depends: {depends}\n\
             Recommends: nftables\n\
             Suggests: etcd-server, docker.io\n\
             Section: net\n\
             Priority: optional\n\
             Description: virtual networks across many machines, by XDP and tc\n \
             A daemon on each node fills BPF maps from records in etcd; programs in the kernel encapsulate and\n \
             decapsulate VXLAN, without the kernel's tunnel device in the path where the network card allows.\n",
            tree.kilobytes()?,
        ))
    }
}

fn architecture() -> Result<String> {
    let told = step::output(Command::new("dpkg").arg("--print-architecture"));
    Ok(told.context("dpkg does not tell this machine's architecture")?.trim().to_owned())
}

/// The packages that have the libraries the programs are linked to.
fn libraries(tree: &Tree) -> Result<String> {
    let dir = tree.path().with_file_name("shlibdeps");
    fs::create_dir_all(dir.join("debian")).context("cannot make a directory for dpkg-shlibdeps")?;
    // It wants to be in a source package.
    fs::write(dir.join("debian/control"), format!("Source: {NAME}\n\nPackage: {NAME}\nArchitecture: any\n"))?;
    let programs = files::PROGRAMS.map(|(_, to)| tree.path().join(to));
    let mut command = Command::new("dpkg-shlibdeps");
    command.current_dir(&dir).arg("-O").args(programs);
    let told = step::output(&mut command).context("dpkg-shlibdeps does not tell what the programs need")?;
    let depends = told.lines().find_map(|line| line.strip_prefix("shlibs:Depends="));
    depends.map(str::to_owned).with_context(|| format!("dpkg-shlibdeps said {told:?}"))
}

/// Runs a tool that changes a file.
fn change(title: &str, program: &str, arguments: &[&str], file: &Path) -> Result<()> {
    let status = Command::new(program).args(arguments).arg(file).status();
    let status = status.with_context(|| format!("cannot run {program}"))?;
    anyhow::ensure!(status.success(), "{title}: {program} {} ended with {status}", file.display());
    Ok(())
}
