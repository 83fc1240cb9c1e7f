//! The socket on which Docker finds its driver.

use std::{
    fs::{self, Permissions},
    io::{self, ErrorKind},
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::{UnixListener as StdListener, UnixStream as StdStream},
    },
    path::{Path, PathBuf},
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use tokio::net::UnixListener;

/// The socket, listening. Its file is removed when this is dropped, if it was made here.
#[derive(Debug)]
pub struct PluginSocket {
    listener: UnixListener,
    file: SocketFile,
}

/// The socket's file. One that was made here is removed when dropped, unless another daemon has its place meanwhile.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
    made_here: bool,
}

/// Why the socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PluginSocketError {
    /// Somebody has it.
    #[error(
        "another overlayd, or systemd for one (overlayd.socket), serves Docker on {}: give this one a \
         --docker-plugin of its own, or none",
        .0.display()
    )]
    InUse(PathBuf),
    /// The system refused.
    #[error("{}: {source}: --docker-plugin must be in a directory that overlayd can write to", path.display())]
    Io {
        /// The path in question.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl PluginSocket {
    /// Takes what systemd listens on for `path`, as long as that leads there; else listens itself, as [`Self::bind`]
    /// does. Call it within a tokio runtime.
    pub fn open(path: &Path, inherited: Option<&StdListener>) -> Result<Self, PluginSocketError> {
        match inherited {
            Some(listener) if leads_to(path, listener) => Self::adopt(path, listener),
            _ => Self::bind(path),
        }
    }

    fn adopt(path: &Path, listener: &StdListener) -> Result<Self, PluginSocketError> {
        let failed = |source| PluginSocketError::Io { path: path.to_owned(), source };
        let listener = listener.try_clone().map_err(failed)?;
        Self::listen(path, listener, false).map_err(failed)
    }

    /// Listens at `path`, for root alone; its directory is made if need be. A socket that a dead daemon left is
    /// replaced. Call it within a tokio runtime.
    pub fn bind(path: &Path) -> Result<Self, PluginSocketError> {
        let failed = |source| PluginSocketError::Io { path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(failed)?;
        }
        match StdStream::connect(path) {
            Ok(_) => return Err(PluginSocketError::InUse(path.to_owned())),
            // So is a file that is no socket, which is not ours to remove.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                if fs::symlink_metadata(path).map_err(failed)?.file_type().is_socket() {
                    fs::remove_file(path).map_err(failed)?;
                }
            }
            Err(_) => {}
        }
        let listener = StdListener::bind(path).map_err(failed)?;
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
        Self::listen(path, listener, true).map_err(failed)
    }

    fn listen(path: &Path, listener: StdListener, made_here: bool) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let inode = fs::metadata(path)?.ino();
        let listener = UnixListener::from_std(listener)?;
        Ok(Self { listener, file: SocketFile { path: path.to_owned(), inode, made_here } })
    }

    pub(super) fn into_parts(self) -> (UnixListener, SocketFile) {
        (self.listener, self.file)
    }
}

/// Whether who connects to `path` is in this listener's queue. Somebody may have removed its file, and a daemon that made
/// one instead may have died; the kernel tells a client who began to listen.
fn leads_to(path: &Path, listener: &StdListener) -> bool {
    let Ok(client) = StdStream::connect(path) else { return false };
    let there = getsockopt(&client, PeerCredentials).map(|who| who.pid());
    let here = getsockopt(listener, PeerCredentials).map(|who| who.pid());
    there.is_ok_and(|pid| here == Ok(pid))
}

impl SocketFile {
    /// Whether the file is still the one that was listened on.
    pub fn is_there(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|file| file.ino() == self.inode)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.made_here
            && self.is_there()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(%error, socket = %self.path.display(), "the plugin socket could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_that_is_served_is_not_taken_and_one_left_behind_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("plugins/overlayd.sock");
        let first = PluginSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(PluginSocket::bind(&path), Err(PluginSocketError::InUse(_))));
        std::mem::forget(first.file);
        drop(first.listener);
        let second = PluginSocket::bind(&path).unwrap();
        drop(second);
        assert!(!path.exists());
        fs::write(&path, "").unwrap();
        assert!(
            matches!(PluginSocket::bind(&path), Err(PluginSocketError::Io { .. })),
            "a file of somebody's stays"
        );
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_socket_of_systemds_is_taken_and_stays_and_one_whose_file_is_gone_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("overlayd.sock");
        let systemds = StdListener::bind(&path).unwrap();
        let waiting = StdStream::connect(&path).unwrap();
        drop(PluginSocket::open(&path, Some(&systemds)).unwrap());
        assert!(path.exists(), "it is systemd's to remove");
        systemds.set_nonblocking(false).unwrap();
        systemds.accept().unwrap();
        drop(waiting);
        assert!(matches!(PluginSocket::open(&path, None), Err(PluginSocketError::InUse(_))));

        fs::remove_file(&path).unwrap();
        let own = PluginSocket::open(&path, Some(&systemds)).unwrap();
        std::mem::forget(own.file);
        drop(own.listener);
        // What a killed daemon leaves there leads nowhere.
        let own = PluginSocket::open(&path, Some(&systemds)).unwrap();
        StdStream::connect(&path).unwrap();
        drop(own);
        assert!(!path.exists());
    }
}
