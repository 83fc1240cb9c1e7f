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

use tokio::net::UnixListener;

/// The socket, listening. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct PluginSocket {
    listener: UnixListener,
    file: SocketFile,
}

/// The socket's file, removed when dropped unless another daemon has its place meanwhile.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
}

/// Why the socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PluginSocketError {
    /// Somebody has it.
    #[error("another overlayd serves Docker on {}: give this one a --docker-plugin of its own, or none", .0.display())]
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
        listener.set_nonblocking(true).map_err(failed)?;
        let inode = fs::metadata(path).map_err(failed)?.ino();
        let listener = UnixListener::from_std(listener).map_err(failed)?;
        Ok(Self { listener, file: SocketFile { path: path.to_owned(), inode } })
    }

    pub(super) fn into_parts(self) -> (UnixListener, SocketFile) {
        (self.listener, self.file)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::metadata(&self.path).is_ok_and(|file| file.ino() == self.inode)
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
}
