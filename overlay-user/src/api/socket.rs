//! The control socket: one daemon to a run directory.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, ErrorKind},
    os::unix::{
        fs::{OpenOptionsExt as _, PermissionsExt as _},
        net::{UnixListener as StdListener, UnixStream as StdStream},
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use tokio::net::UnixListener;

use crate::config::SOCKET;

/// The socket, listening. Removed when dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    file: SocketFile,
}

/// The socket's file, removed when dropped.
#[derive(Debug)]
pub struct SocketFile {
    claim: Claim,
}

/// This process's claim to a run directory.
#[derive(Debug)]
pub struct Claim {
    socket: PathBuf,
    _lock: Flock<File>,
}

/// Why the socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody has it.
    #[error(
        "another overlayd runs here, on {}: stop it, or give this one a --run-dir of its own",
        socket.display()
    )]
    InUse {
        /// The socket.
        socket: PathBuf,
    },
    /// The system refused.
    #[error("{}: {source}: --run-dir must be a directory that overlayd can write to", path.display())]
    Io {
        /// The path in question.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl ControlSocket {
    /// Claims `run_dir`, which is made if need be, and listens on its socket with mode 0660. A
    /// socket that a dead daemon left is replaced. Call it within a tokio runtime.
    pub fn bind(run_dir: &Path) -> Result<Self, SocketError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| SocketError::Io { path, source }
        };
        let claim = Claim::take(run_dir)?;
        let socket = &claim.socket;
        match StdStream::connect(socket) {
            Ok(_) => return Err(SocketError::InUse { socket: socket.clone() }),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                fs::remove_file(socket).map_err(failed(socket))?;
            }
            Err(_) => {}
        }
        let listener = StdListener::bind(socket).map_err(failed(socket))?;
        fs::set_permissions(socket, Permissions::from_mode(0o660)).map_err(failed(socket))?;
        listener.set_nonblocking(true).map_err(failed(socket))?;
        let listener = UnixListener::from_std(listener).map_err(failed(socket))?;
        Ok(Self { listener, file: SocketFile { claim } })
    }

    pub(super) fn into_parts(self) -> (UnixListener, SocketFile) {
        (self.listener, self.file)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let socket = &self.claim.socket;
        if let Err(error) = fs::remove_file(socket) {
            tracing::warn!(%error, socket = %socket.display(), "the control socket could not be removed");
        }
    }
}

impl Claim {
    /// Makes the directory if need be and locks it against other daemons. The kernel lets go when the
    /// process ends, however it ends.
    pub fn take(run_dir: &Path) -> Result<Self, SocketError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| SocketError::Io { path, source }
        };
        fs::create_dir_all(run_dir).map_err(failed(run_dir))?;
        let socket = run_dir.join(SOCKET);
        let path = socket.with_extension("lock");
        // Who may read a file may lock it, and would keep us from starting.
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let file = file.map_err(failed(&path))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { socket, _lock: lock }),
            Err((_, Errno::EWOULDBLOCK)) => Err(SocketError::InUse { socket }),
            Err((_, errno)) => Err(SocketError::Io { path, source: errno.into() }),
        }
    }
}
