//! Taking a request apart, with every refusal in our own JSON.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Request, rejection::BytesRejection},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;

use super::{ApiError, Kind, MAX_BODY};

/// Does `work` to its end even if the client goes away or the deadline passes in the middle of it.
pub async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    let cut_off = |error| Err(ApiError::new(Kind::Internal, format!("the work was cut off: {error}")));
    tokio::spawn(work).await.unwrap_or_else(cut_off)
}

/// A JSON body.
pub struct Body<T>(pub T);

/// The one parameter in the path, parsed.
pub struct Name<T>(pub T);

/// Why a body was not taken.
pub enum BodyError {
    TooLarge,
    Bad(ApiError),
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = BodyError;

    async fn from_request(request: Request, state: &S) -> Result<Self, BodyError> {
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| match rejection {
            BytesRejection::FailedToBufferBody(inner) if inner.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                BodyError::TooLarge
            }
            other => BodyError::Bad(ApiError::invalid(format!("the request was cut off: {other}"))),
        })?;
        serde_json::from_slice(&bytes)
            .map(Self)
            .map_err(|error| BodyError::Bad(ApiError::invalid(format!("the request is malformed: {error}"))))
    }
}

impl IntoResponse for BodyError {
    fn into_response(self) -> Response {
        match self {
            Self::Bad(error) => error.into_response(),
            Self::TooLarge => {
                let error = ApiError::invalid(format!("the request is larger than {MAX_BODY} bytes"));
                (StatusCode::PAYLOAD_TOO_LARGE, axum::Json(error)).into_response()
            }
        }
    }
}

impl<S: Send + Sync, T> FromRequestParts<S> for Name<T>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|rejection| ApiError::invalid(rejection.body_text()))?;
        text.parse().map(Self).map_err(|error| ApiError::invalid(error.to_string()))
    }
}
