//! What the lab made and how to undo it: on drop, on a signal, and after a run that was killed.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{
        Arc, Mutex, MutexGuard, Once, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// Names of everything in a lab begin with this, then the process id.
const PREFIX: &str = "ovlab";

/// Where `ip netns` keeps namespaces.
pub const NETNS_DIR: &str = "/run/netns";

/// Where control groups are: one hierarchy, or, of their first version, one in each directory.
const CGROUPS: &str = "/sys/fs/cgroup";

/// The BPF file system.
pub const BPFFS: &str = "/sys/fs/bpf";

/// Everything that is there now, by age.
static LIVE: Mutex<BTreeMap<u64, Resource>> = Mutex::new(BTreeMap::new());

/// Something that must not outlive its owner.
pub enum Resource {
    /// A process: killed and waited for.
    Process(Arc<Mutex<Child>>),
    /// A named network namespace.
    Netns(String),
    /// A directory with all in it.
    Directory(PathBuf),
    /// A control group at the top of all hierarchies, and those below it.
    Cgroup(String),
}

/// Undoes its resource when dropped.
#[must_use]
pub struct Undo(u64);

/// A name nobody else on this machine uses: `ovlab-<pid>-<number>-<role>`.
#[must_use]
pub fn unique(role: &str) -> String {
    static SWEPT: Once = Once::new();
    SWEPT.call_once(sweep);
    format!("{PREFIX}-{}-{}-{role}", std::process::id(), next())
}

/// Undoes everything, newest first, and ends the program. Threads that make something meanwhile wait
/// for that end.
pub fn undo_all_and_exit(code: i32) -> ! {
    let mut live = live();
    while let Some((_, resource)) = live.pop_last() {
        resource.undo();
    }
    std::process::exit(code)
}

/// Locks a mutex whose data is good even if a holder panicked.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn live() -> MutexGuard<'static, BTreeMap<u64, Resource>> {
    lock(&LIVE)
}

fn next() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Removes what processes that are gone left behind. Their daemons died with them.
fn sweep() {
    let others = [NETNS_DIR, BPFFS, &std::env::temp_dir().to_string_lossy()].map(PathBuf::from);
    for dir in others.into_iter().chain(hierarchies()) {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let mut parts = name.split('-');
            let pid = (parts.next() == Some(PREFIX)).then(|| parts.next()).flatten();
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                match dir.to_str() {
                    Some(NETNS_DIR) => Resource::Netns(name),
                    Some(dir) if dir.starts_with(CGROUPS) => Resource::Cgroup(name),
                    _ => Resource::Directory(entry.path()),
                }
                .undo();
            }
        }
    }
}

/// Where control groups at the top can be.
fn hierarchies() -> Vec<PathBuf> {
    let below = fs::read_dir(CGROUPS).into_iter().flatten().flatten().map(|entry| entry.path());
    std::iter::once(PathBuf::from(CGROUPS)).chain(below).collect()
}

/// Removes a control group and those below it, which have no processes any more.
fn remove_cgroup(group: &Path) -> io::Result<()> {
    let below = fs::read_dir(group)?.flatten().filter(|entry| entry.path().is_dir());
    below.into_iter().try_for_each(|entry| remove_cgroup(&entry.path()))?;
    fs::remove_dir(group)
}

/// Does something that may fail for a moment, while the last processes end.
fn patiently(mut remove: impl FnMut() -> io::Result<()>) {
    for _ in 0..60 {
        match remove() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => thread::sleep(Duration::from_millis(50)),
            _ => return,
        }
    }
}

// === impl Undo ===

impl Undo {
    /// Takes charge of a resource. Best called before it is made: what is not there is undone as well.
    pub fn new(resource: Resource) -> Self {
        let id = next();
        live().insert(id, resource);
        Self(id)
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        let resource = live().remove(&self.0);
        if let Some(resource) = resource {
            resource.undo();
        }
    }
}

// === impl Resource ===

impl Resource {
    /// Undoes it as well as can be: there is nobody to tell.
    fn undo(self) {
        match self {
            Self::Process(child) => {
                let mut child = lock(&child);
                let _ = child.kill();
                let _ = child.wait();
            }
            Self::Netns(name) => {
                let _ = Command::new("ip").args(["netns", "delete", &name]).output();
            }
            Self::Directory(path) => patiently(|| fs::remove_dir_all(&path)),
            Self::Cgroup(name) => {
                for group in
                    hierarchies().into_iter().map(|dir| dir.join(&name)).filter(|group| group.exists())
                {
                    patiently(|| remove_cgroup(&group));
                }
            }
        }
    }
}
