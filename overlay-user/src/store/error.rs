//! Why the store did not do what was asked, and what of etcd's errors may pass by itself.

use std::error::Error;

use etcd_client::Error as EtcdError;
use tonic::{Code, ConnectError};

use crate::state::shown;

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No answer in time; the text has the last error and since when.
    #[error("etcd is unreachable: {0}; running endpoints are not affected")]
    Unreachable(String),
    /// etcd answered and would not do it: no rights, no space; the text says what to do.
    #[error("etcd refused: {0}")]
    Refused(String),
    /// It is there already, or taken; the text names the holder.
    #[error("{0}")]
    Conflict(String),
    /// There is no such thing; the text names it.
    #[error("{0}")]
    NotFound(String),
    /// The request makes no sense; the text says why.
    #[error("{0}")]
    Invalid(String),
}

/// Why etcd did not answer a request.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// No member answered in time.
    #[error("{0}")]
    NoAnswer(String),
    /// A member answered with an error that trying again does not help.
    #[error("{text}")]
    Refused {
        /// The kind of error.
        code: Code,
        /// What etcd said, and the cure where one is known.
        text: String,
    },
    /// The lease is no more.
    #[error("the lease has ended")]
    LeaseEnded,
}

/// What one failed attempt tells.
#[derive(Debug)]
pub(super) enum Attempt {
    /// This member did not answer; another may.
    Failed {
        /// The chain of causes as one text.
        text: String,
        /// There was no connection: the request was not sent.
        unsent: bool,
    },
    /// The request itself was answered with an error.
    Answered(CallError),
}

impl From<CallError> for StoreError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::NoAnswer(text) => Self::Unreachable(text),
            CallError::Refused { code: _, text } => Self::Refused(text),
            CallError::LeaseEnded => Self::Conflict(error.to_string()),
        }
    }
}

impl From<EtcdError> for Attempt {
    fn from(error: EtcdError) -> Self {
        let code = match &error {
            EtcdError::GRpcStatus(status) => status.code(),
            EtcdError::LeaseKeepAliveError(_) => return Self::Answered(CallError::LeaseEnded),
            EtcdError::InvalidArgs(_) | EtcdError::InvalidUri(_) | EtcdError::InvalidMetadataValue(_) => {
                Code::InvalidArgument
            }
            _ => Code::Unavailable,
        };
        let text = explain(&error);
        match code {
            Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Aborted
            | Code::Internal
            | Code::Unknown
            | Code::Ok => Self::Failed { text, unsent: was_unsent(&error) },
            Code::NotFound if text.contains("lease not found") => Self::Answered(CallError::LeaseEnded),
            _ => Self::Answered(CallError::Refused { code, text: with_cure(code, text) }),
        }
    }
}

/// Adds what to do to errors of etcd's that an operator can mend.
fn with_cure(code: Code, text: String) -> String {
    let cure = match code {
        Code::ResourceExhausted if text.contains("space") => {
            "its NOSPACE alarm is up: compact and defragment it, then `etcdctl alarm disarm`"
        }
        Code::Unauthenticated | Code::PermissionDenied => {
            "check the etcd user's password and its role's right to the key prefix"
        }
        Code::InvalidArgument if text.contains("user name is empty") => "give an etcd user and its password",
        Code::InvalidArgument if text.contains("authentication failed") => "check the etcd user and password",
        _ => return text,
    };
    format!("{text}: {cure}")
}

/// What the client says of every failure to send.
const NO_NEWS: &str = "transport error";

/// The chain of causes as one text, each said once.
pub(super) fn explain(error: &EtcdError) -> String {
    let mut text = match error {
        EtcdError::GRpcStatus(status) => status.message().to_owned(),
        other => other.to_string(),
    };
    for cause in causes(error) {
        let cause = if let Some(status) = cause.downcast_ref::<tonic::Status>() {
            status.message().to_owned()
        } else {
            cause.to_string()
        };
        if text.is_empty() || text == NO_NEWS {
            text = cause;
        } else if cause != NO_NEWS && !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    shown(&text)
}

fn was_unsent(error: &EtcdError) -> bool {
    causes(error).any(<dyn Error>::is::<ConnectError>)
}

/// The causes below an error; the client's own type does not lead to them.
fn causes(error: &EtcdError) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let first = match error {
        EtcdError::GRpcStatus(status) => status.source(),
        EtcdError::TransportError(error) => error.source(),
        EtcdError::IoError(error) => Some(error as &(dyn Error + 'static)),
        _ => None,
    };
    std::iter::successors(first, |&error| error.source())
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    fn attempt(status: Status) -> Attempt {
        EtcdError::GRpcStatus(status).into()
    }

    #[test]
    fn what_another_member_may_do_is_tried_again() {
        for status in [
            Status::unavailable("etcdserver: no leader"),
            Status::unknown("transport error"),
            Status::deadline_exceeded("late"),
        ] {
            assert!(matches!(attempt(status), Attempt::Failed { unsent: false, .. }));
        }
        let refused = ConnectError(Box::from("refused"));
        let unsent = attempt(Status::from_error(Box::new(refused)));
        assert!(matches!(&unsent, Attempt::Failed { unsent: true, text } if text == "refused"), "{unsent:?}");
    }

    #[test]
    fn what_etcd_refuses_comes_with_a_cure() {
        let full = attempt(Status::resource_exhausted("etcdserver: mvcc: database space exceeded"));
        let Attempt::Answered(error @ CallError::Refused { .. }) = full else {
            panic!("{full:?}");
        };
        let text = StoreError::from(error).to_string();
        assert!(text.contains("space exceeded") && text.contains("alarm disarm"), "{text}");
    }
}
