//! The routes, and serving them on the control socket.

use std::{io, sync::Arc};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tokio_util::sync::CancellationToken;

use super::{
    ApiError, Context, ControlSocket, HANDLER_DEADLINE, Kind, MAX_BODY, attach, detach, doctor, endpoints,
    networks, nodes, ports, repair, status,
};

/// All routes.
pub fn router(context: Arc<Context>) -> Router {
    Router::new()
        .route("/v1/status", get(status::show))
        .route("/v1/networks", get(networks::list).post(networks::create))
        .route("/v1/networks/{name}", get(networks::inspect).patch(networks::set).delete(networks::remove))
        .route("/v1/endpoints", get(endpoints::list).post(attach::attach))
        .route("/v1/endpoints/{id}", get(endpoints::inspect).delete(detach::detach))
        .route("/v1/static-endpoints", post(endpoints::add_static))
        .route("/v1/ports", get(ports::list).post(ports::attach))
        .route("/v1/ports/{id}", axum::routing::delete(ports::detach))
        .route("/v1/nodes", get(nodes::list))
        .route("/v1/nodes/{name}", axum::routing::delete(nodes::remove))
        .route("/v1/nodes/{name}/drain", post(nodes::drain))
        .route("/v1/static-nodes", post(nodes::add_static))
        .fallback(async || {
            ApiError::not_found("there is no such request: do overlayctl's and overlayd's versions differ?")
        })
        .method_not_allowed_fallback(async || {
            let error =
                ApiError::invalid("this cannot be done to that: see the documentation of the control socket");
            (StatusCode::METHOD_NOT_ALLOWED, axum::Json(error))
        })
        .layer(middleware::from_fn(within_deadline))
        // Takes as long as there are records and rows.
        .route("/v1/doctor", post(doctor::examine))
        .route("/v1/republish", post(repair::republish))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(context)
}

/// Answers requests until `cancel`, then those that are under way.
pub async fn serve(socket: ControlSocket, router: Router, cancel: CancellationToken) -> io::Result<()> {
    let (listener, file) = socket.into_parts();
    let served = axum::serve(listener, router).with_graceful_shutdown(cancel.clone().cancelled_owned());
    let overdue = async {
        cancel.cancelled().await;
        tokio::time::sleep(HANDLER_DEADLINE).await;
    };
    let result = tokio::select! {
        result = served.into_future() => result,
        () = overdue => Ok(()),
    };
    drop(file);
    result
}

async fn within_deadline(request: Request, next: Next) -> Response {
    tokio::time::timeout(HANDLER_DEADLINE, next.run(request)).await.unwrap_or_else(|_| {
        let seconds = HANDLER_DEADLINE.as_secs();
        ApiError::new(
            Kind::Unavailable,
            format!(
                "not done within {seconds} s, and perhaps still going on: `overlayctl status` may say why"
            ),
        )
        .into_response()
    })
}
