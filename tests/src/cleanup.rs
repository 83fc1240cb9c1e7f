//! What the lab made and how to undo it: on drop, on a signal, and after a run that was killed.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{
        Arc, Mutex, MutexGuard, Once, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Names of everything in a lab begin with this, then the process id.
const PREFIX: &str = "ovlab";

/// Where `ip netns` keeps namespaces.
pub const NETNS_DIR: &str = "/run/netns";

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
    for dir in [NETNS_DIR, BPFFS, &std::env::temp_dir().to_string_lossy()] {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let mut parts = name.split('-');
            let pid = (parts.next() == Some(PREFIX)).then(|| parts.next()).flatten();
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                match dir {
                    NETNS_DIR => Resource::Netns(name).undo(),
                    _ => Resource::Directory(entry.path()).undo(),
                }
            }
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
            Self::Directory(path) => {
                let _ = fs::remove_dir_all(path);
            }
        }
    }
}
