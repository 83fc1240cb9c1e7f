//! Why dockerd did not do what was asked.

use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bollard::errors::Error as ClientError;

use crate::state::shown;

/// Why dockerd did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Nobody answers.
    #[error("dockerd does not answer on {}: {why}", socket.display())]
    Unreachable {
        /// Its socket.
        socket: PathBuf,
        /// Why.
        why: String,
    },
    /// It takes longer than it may.
    #[error("dockerd does not answer on {} within {} s", socket.display(), deadline.as_secs())]
    Overdue {
        /// Its socket.
        socket: PathBuf,
        /// How long it was waited for.
        deadline: Duration,
    },
    /// It answered, and would not do it.
    #[error("dockerd refused: {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// What came back makes no sense.
    #[error("what answers on {} is no dockerd, or of a version that is not known: {what}", socket.display())]
    Garbled {
        /// Its socket.
        socket: PathBuf,
        /// What was wrong.
        what: String,
    },
}

impl EngineError {
    pub(super) fn of(socket: &Path, error: ClientError) -> Self {
        let socket = socket.to_owned();
        match error {
            ClientError::DockerResponseServerError { status_code, message } => {
                Self::Refused { status: status_code, message: shown(message.trim()) }
            }
            ClientError::SocketNotFoundError(_) => {
                Self::Unreachable { socket, why: "there is no such socket: is Docker running?".to_owned() }
            }
            ClientError::RequestTimeoutError => {
                Self::Unreachable { socket, why: "no answer in time".to_owned() }
            }
            error @ (ClientError::HyperResponseError { .. }
            | ClientError::HyperLegacyError { .. }
            | ClientError::IOError { .. }) => Self::Unreachable { socket, why: why(&error) },
            error => Self::Garbled { socket, what: shown(&error.to_string()) },
        }
    }

    pub(super) fn overdue(socket: &Path, deadline: Duration) -> Self {
        Self::Overdue { socket: socket.to_owned(), deadline }
    }

    /// Whether dockerd is away, or gives answers that are none.
    #[must_use]
    pub const fn is_away(&self) -> bool {
        !matches!(self, Self::Refused { .. })
    }
}

/// What the system said, which is the last of the causes; else all that is known.
fn why(error: &ClientError) -> String {
    let causes = std::iter::successors(Some(error as &(dyn Error + 'static)), |&error| error.source());
    let system = causes.filter_map(|cause| cause.downcast_ref::<io::Error>()).last();
    match system.map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionRefused) => "nobody listens there: is Docker running?".to_owned(),
        Some(io::ErrorKind::PermissionDenied) => "it may not be used by you: run this as root".to_owned(),
        _ => shown(&system.map_or_else(|| error.to_string(), ToString::to_string)),
    }
}
