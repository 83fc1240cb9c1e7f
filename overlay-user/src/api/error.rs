//! Why a request was not done, as it goes over the socket.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use crate::{device::DeviceError, store::StoreError};

/// A refusal or failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{error}")]
pub struct ApiError {
    /// What, why, and what to do.
    pub error: String,
    /// What kind it is.
    pub kind: Kind,
}

/// What kind of failure: decides the HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It is taken, or in use: 409.
    Conflict,
    /// There is no such thing: 404.
    NotFound,
    /// The request makes no sense: 400.
    Invalid,
    /// Something it needs does not answer: 503.
    Unavailable,
    /// It should have worked: 500.
    Internal,
}

impl ApiError {
    /// A failure of `kind`; the text says what, why, and what to do.
    pub fn new(kind: Kind, error: impl Into<String>) -> Self {
        Self { error: error.into(), kind }
    }

    /// There is no such thing.
    pub fn not_found(error: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, error)
    }

    /// The request makes no sense.
    pub fn invalid(error: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, error)
    }

    /// The HTTP status it is sent with.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self.kind {
            Kind::Conflict => StatusCode::CONFLICT,
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::Invalid => StatusCode::BAD_REQUEST,
            Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status(), Json(self)).into_response()
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::Unreachable(_) | StoreError::Refused(_) => Kind::Unavailable,
            StoreError::Conflict(_) => Kind::Conflict,
            StoreError::NotFound(_) => Kind::NotFound,
            StoreError::Invalid(_) => Kind::Invalid,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<DeviceError> for ApiError {
    fn from(error: DeviceError) -> Self {
        let kind = match &error {
            DeviceError::Invalid(_) => Kind::Invalid,
            DeviceError::Taken(_) => Kind::Conflict,
            DeviceError::Failed(_) => Kind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_caller_can_mend_is_the_callers_fault() {
        for (error, kind) in [
            (DeviceError::Invalid("no such namespace".into()), Kind::Invalid),
            (DeviceError::Taken("eth0 exists".into()), Kind::Conflict),
            (DeviceError::Failed("out of memory".into()), Kind::Internal),
        ] {
            assert_eq!(ApiError::from(error).kind, kind);
        }
    }
}
