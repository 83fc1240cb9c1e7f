//! Where maps, programs, links and notes of filters are pinned, and the BPF file system they are pinned in.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{FsType, statfs},
};

use super::{
    filters,
    links::{PORT_XDP, UPLINK_XDP},
};
use crate::{datapath::DatapathError, netlink};

/// `BPF_FS_MAGIC` (include/uapi/linux/magic.h).
const BPF_FS: FsType = FsType(0xcafe_4a11);

/// The pin directory of one daemon: maps lie in it, programs, links and notes of filters in folders below. Its name
/// has the schema's number, so that daemons that disagree on layouts never share a map.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
    schema: u32,
}

impl Pins {
    /// Makes the directory for a schema, and mounts a BPF file system there if there is none.
    ///
    /// # Errors
    /// If the file system cannot be mounted or written.
    pub fn open(bpffs: &Path, schema: u32) -> Result<Self, DatapathError> {
        ensure_mounted(bpffs)?;
        let pins = Self { root: bpffs.join(format!("v{schema}")), schema };
        for dir in [pins.programs(), pins.links(), pins.filters()] {
            fs::create_dir_all(&dir).map_err(failed("create the pin directory", &dir))?;
        }
        Ok(pins)
    }

    /// The directories of former daemons, whatever their schema.
    ///
    /// # Errors
    /// If the directory they are in cannot be read.
    pub fn existing(bpffs: &Path) -> Result<Vec<Self>, DatapathError> {
        let entries = match fs::read_dir(bpffs) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(failed("read", bpffs))?,
        };
        let pins = |entry: io::Result<fs::DirEntry>| {
            let root = entry.ok()?.path();
            let schema = root.file_name()?.to_str()?.strip_prefix('v')?.parse().ok()?;
            root.is_dir().then_some(Self { root, schema })
        };
        Ok(entries.filter_map(pins).collect())
    }

    /// The schema of its maps.
    #[must_use]
    pub const fn schema(&self) -> u32 {
        self.schema
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Whether a program is on an interface by a link or filter of this directory.
    #[must_use]
    pub fn has(&self, program: &str, ifindex: u32) -> bool {
        self.link(program, ifindex).exists() || self.filter(program, ifindex).exists()
    }

    /// Makes the link or filter of another directory this one's. What it runs stays as it is.
    ///
    /// # Errors
    /// If it cannot be moved.
    pub fn take(&self, former: &Self, program: &str, ifindex: u32) -> Result<(), DatapathError> {
        for (from, to) in [
            (former.link(program, ifindex), self.link(program, ifindex)),
            (former.filter(program, ifindex), self.filter(program, ifindex)),
        ] {
            match fs::rename(&from, &to) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("take over the pin", &from)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The pin of a map.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The pin of a program.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs().join(name)
    }

    /// The pin of a program's link to an interface.
    #[must_use]
    pub fn link(&self, program: &str, ifindex: u32) -> PathBuf {
        self.links().join(format!("{program}-{ifindex}"))
    }

    /// The note of a program's filter on an interface: its program.
    #[must_use]
    pub fn filter(&self, program: &str, ifindex: u32) -> PathBuf {
        self.filters().join(format!("{program}-{ifindex}"))
    }

    /// Where a filter's program is pinned before it takes a former one's place.
    #[must_use]
    pub fn new_filter(&self) -> PathBuf {
        self.filters().join("new")
    }

    /// The programs and interfaces that have a pinned link or a filter, in the order in which to take
    /// them off: XDP before the tc program that takes up what it stripped.
    ///
    /// # Errors
    /// If a directory cannot be read.
    pub fn attached(&self) -> Result<Vec<(String, u32)>, DatapathError> {
        let mut attached = names_in(&self.links())?;
        attached.extend(names_in(&self.filters())?);
        attached.sort_by_key(|(program, _)| ![UPLINK_XDP, PORT_XDP].contains(&program.as_str()));
        Ok(attached)
    }

    /// Takes a program off an interface. A link is detached once no daemon holds it.
    ///
    /// # Errors
    /// If it is there and cannot be removed.
    pub fn detach(&self, program: &str, ifindex: u32) -> Result<(), DatapathError> {
        let filter = self.filter(program, ifindex);
        if filter.exists() {
            if let Some(device) = netlink::name_at(ifindex) {
                filters::detach(program, &device)?;
            }
            remove_file(&filter)?;
        }
        remove_file(&self.link(program, ifindex))
    }

    /// Removes every pin of this schema, and the filters; what is attached first.
    ///
    /// # Errors
    /// If one cannot be removed.
    pub fn remove_all(&self) -> Result<(), DatapathError> {
        for (program, ifindex) in self.attached()? {
            self.detach(&program, ifindex)?;
        }
        match fs::remove_dir_all(&self.root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove the pins in", &self.root)(error))
            }
            _ => Ok(()),
        }
    }

    fn programs(&self) -> PathBuf {
        self.root.join("programs")
    }

    fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    fn filters(&self) -> PathBuf {
        self.root.join("filters")
    }
}

/// Programs and interfaces, by the names of the pins in a directory.
fn names_in(dir: &Path) -> Result<Vec<(String, u32)>, DatapathError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed("read", dir))?,
    };
    let name = |entry: io::Result<fs::DirEntry>| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        let (program, ifindex) = name.rsplit_once('-')?;
        Some((program.to_owned(), ifindex.parse().ok()?))
    };
    Ok(entries.filter_map(name).collect())
}

/// Removes a file; without error if it is gone already.
pub(super) fn remove_file(path: &Path) -> Result<(), DatapathError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove the pin", path)(error)),
        _ => Ok(()),
    }
}

fn ensure_mounted(bpffs: &Path) -> Result<(), DatapathError> {
    let mut existing = bpffs;
    while !existing.exists() {
        let Some(parent) = existing.parent() else { break };
        existing = parent;
    }
    if is_bpf_fs(existing) {
        return Ok(());
    }
    // The customary place if the path lies below it, else the path itself.
    let system = Path::new("/sys/fs/bpf");
    let target = if bpffs.starts_with(system) { system } else { bpffs };
    fs::create_dir_all(target).map_err(failed("create", target))?;
    mount(Some("bpf"), target, Some("bpf"), MsFlags::empty(), None::<&str>)
        .map_err(|errno| failed("mount a BPF file system at", target)(errno.into()))
}

fn is_bpf_fs(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == BPF_FS)
}

fn failed(verb: &str, path: &Path) -> impl FnOnce(io::Error) -> DatapathError {
    let what = format!("cannot {verb} {}", path.display());
    move |cause| DatapathError::Io { what, cause }
}
