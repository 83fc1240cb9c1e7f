//! Opening a container's network namespace, and work done inside it.

use std::{
    fs::{self, File, OpenOptions},
    future::Future,
    io,
    os::{
        fd::AsRawFd as _,
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
};

use nix::{
    sched::{CloneFlags, setns},
    sys::statfs::{NSFS_MAGIC, fstatfs},
};
use tokio::sync::oneshot;

use super::{DeviceError, Netns};

impl Netns {
    /// Opens the namespace's file, and makes sure that it is one.
    pub(crate) fn open(&self) -> Result<File, DeviceError> {
        let (path, cure) = match self {
            Self::Path(path) => (path.clone(), "name a file such as /run/netns/NAME or /proc/PID/ns/net"),
            Self::Pid(pid) => (format!("/proc/{pid}/ns/net").into(), "is the process still running?"),
        };
        let wrong = |why: String| {
            DeviceError::Invalid(format!("network namespace {}: {why}; {cure}", path.display()))
        };
        // A pipe would have us wait for who writes to it.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path);
        let file = file.map_err(|error| wrong(error.to_string()))?;
        let filesystem = fstatfs(&file).map_err(|error| wrong(error.to_string()))?;
        if filesystem.filesystem_type() != NSFS_MAGIC {
            return Err(wrong("this file is not bound to a namespace".into()));
        }
        // SAFETY: the descriptor is open, and NS_GET_NSTYPE takes no argument.
        let kind = unsafe { libc::ioctl(file.as_raw_fd(), libc::NS_GET_NSTYPE) };
        if kind != libc::CLONE_NEWNET {
            return Err(wrong("this is a namespace, but not a network namespace".into()));
        }
        let identity = |of: fs::Metadata| (of.dev(), of.ino());
        let own = fs::metadata("/proc/thread-self/ns/net").map(identity);
        if own.is_ok_and(|own| file.metadata().is_ok_and(|file| identity(file) == own)) {
            return Err(wrong("this is the host's own, which has no part in an overlay".into()));
        }
        Ok(file)
    }
}

/// Runs `work` in the namespace, on a thread and a runtime of its own: a thread that entered a
/// namespace is of no use to anything else.
pub(crate) async fn inside<T, F>(netns: File, work: impl FnOnce() -> F + Send + 'static) -> io::Result<T>
where
    T: Send + 'static,
    F: Future<Output = io::Result<T>>,
{
    let (sender, receiver) = oneshot::channel();
    let run = move || {
        setns(netns, CloneFlags::CLONE_NEWNET)?;
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work())
    };
    std::thread::Builder::new().name("netns".into()).spawn(move || {
        // Nobody waits any more if the caller gave up.
        let _ = sender.send(run());
    })?;
    receiver.await.map_err(|_| io::Error::other("the thread in the namespace ended early"))?
}
