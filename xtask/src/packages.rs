//! Packages of Debian releases other than this machine's, fetched by apt and unpacked, not installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};

use crate::step;

/// Debian's archive keys, of all its releases.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// After this the package lists are fetched again.
const FRESH: Duration = Duration::from_hours(24 * 7);

/// A release to look in.
#[derive(Clone, Copy)]
pub struct Release<'a> {
    /// Its name in the archive.
    pub name: &'a str,
    /// Whether its security archive is of use.
    pub security: bool,
}

/// An apt of our own: other releases, own lists, own cache, the machine's mirror.
pub struct Packages {
    dir: PathBuf,
}

/// Unpacks packages of a release, whose `lists` are kept, in a place, unless there are the `programs` already.
///
/// # Errors
/// If one cannot be fetched or unpacked.
pub fn ensure(
    place: &Path,
    lists: &Path,
    release: Release<'_>,
    packages: &[&str],
    programs: &[&str],
) -> Result<()> {
    if programs.iter().all(|program| place.join(program).is_file()) {
        return Ok(());
    }
    let what = format!("{} of Debian's {}", packages.join(", "), release.name);
    eprintln!("{what} are not there: fetching them into {}", place.display());
    let packages: Vec<_> = packages.iter().map(|&package| package.to_owned()).collect();
    Packages::open(lists, &[release])?.unpack(&packages, place).with_context(|| format!("cannot get {what}"))
}

impl Packages {
    /// Sets it up below a directory and gets the package lists of releases.
    ///
    /// # Errors
    /// If this machine's apt knows no Debian mirror, or the lists cannot be had.
    pub fn open(dir: &Path, releases: &[Release<'_>]) -> Result<Self> {
        let packages = Self { dir: dir.join("apt") };
        for part in ["state/lists/partial", "cache/archives/partial", "debs"] {
            create_dir(&packages.dir.join(part))?;
        }
        let at = |part: &str| packages.dir.join(part).to_string_lossy().into_owned();
        write(&packages.dir.join("status"), "")?;
        write(
            &packages.dir.join("apt.conf"),
            format!(
                "Dir::State \"{}\";\nDir::State::status \"{}\";\nDir::Cache \"{}\";\n\
                 Dir::Etc::SourceList \"{}\";\nDir::Etc::SourceParts \"/dev/null\";\n\
                 Dir::Etc::Preferences \"/dev/null\";\nDir::Etc::PreferencesParts \"/dev/null\";\n\
                 APT::Sandbox::User \"root\";\nAcquire::Languages \"none\";\n",
                at("state"),
                at("status"),
                at("cache"),
                at("sources.list"),
            ),
        )?;
        let sources = sources(releases)?;
        let list = packages.dir.join("sources.list");
        let old = fs::read_to_string(&list).unwrap_or_default();
        let stamp = packages.dir.join("updated");
        let age = fs::metadata(&stamp).and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH).elapsed();
        if old != sources || age.is_ok_and(|age| age > FRESH) {
            write(&list, sources)?;
            step::run(
                "package lists of other Debian releases",
                packages.apt("apt-get").args(["update", "-q"]),
            )?;
            write(&stamp, "")?;
        }
        Ok(packages)
    }

    /// Names of packages that match a regular expression.
    pub fn search(&self, pattern: &str) -> Vec<String> {
        let found = step::output(self.apt("apt-cache").args(["search", "--names-only", pattern]));
        let found = found.unwrap_or_default();
        found.lines().filter_map(|line| Some(line.split_once(" - ")?.0.to_owned())).collect()
    }

    /// Direct dependencies of a package.
    pub fn dependencies(&self, package: &str) -> Vec<String> {
        let listed = step::output(self.apt("apt-cache").args(["depends", "--important", package]));
        let listed = listed.unwrap_or_default();
        listed.lines().filter_map(|line| Some(line.trim().strip_prefix("Depends: ")?.to_owned())).collect()
    }

    /// Unpacks packages into a directory; what was unpacked there before is not fetched again.
    ///
    /// # Errors
    /// If one cannot be fetched or unpacked.
    pub fn unpack(&self, packages: &[String], into: &Path) -> Result<()> {
        let done = into.join("unpacked");
        let names = packages.join("\n");
        if fs::read_to_string(&done).is_ok_and(|unpacked| unpacked == names) {
            return Ok(());
        }
        let debs = self.dir.join("debs");
        let _ = fs::remove_dir_all(&debs);
        create_dir(&debs)?;
        create_dir(into)?;
        let mut fetch = self.apt("apt-get");
        step::run("fetch packages", fetch.current_dir(&debs).args(["download", "-q"]).args(packages))?;
        for deb in fs::read_dir(&debs).context("cannot list what was fetched")? {
            let deb = deb?.path();
            step::run("unpack", Command::new("dpkg").arg("-x").arg(&deb).arg(into))?;
            fs::remove_file(&deb).with_context(|| format!("cannot remove {}", deb.display()))?;
        }
        write(&done, names)
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.dir.join("apt.conf"));
        command
    }
}

/// Lines for `sources.list`, with the mirrors this machine's apt has.
///
/// # Errors
/// If it has none.
pub fn sources(releases: &[Release<'_>]) -> Result<String> {
    let listed = step::output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(ORIGIN) $(LABEL) $(REPO_URI)",
        "Created-By: Packages",
    ]));
    let listed = listed.context("apt-get does not tell its sources: packages are fetched from Debian")?;
    let mirror = |label: &str| {
        let prefix = format!("Debian {label} ");
        listed.lines().find_map(|line| line.strip_prefix(&prefix).map(str::to_owned))
    };
    let Some(main) = mirror("Debian") else {
        bail!(
            "this machine's apt has no Debian mirror to get packages from (or never fetched its lists: run \
             apt-get update)"
        )
    };
    let security = mirror("Debian-Security");
    let source = |uri: &str, suite: &str| format!("deb [signed-by={KEYRING}] {uri} {suite} main\n");
    let lines = releases.iter().map(|release| {
        let security = security.as_ref().filter(|_| release.security);
        let security = security.map(|uri| source(uri, &format!("{}-security", release.name)));
        source(&main, release.name) + &security.unwrap_or_default()
    });
    Ok(lines.collect())
}

fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))
}
