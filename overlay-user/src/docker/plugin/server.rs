//! The methods by their paths, and serving them on the plugin socket.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State as Shared, rejection::BytesRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{MethodRouter, post},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::{net::UnixListener, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Plugin, PluginSocket, ipam_driver as ipam,
    message::{Activated, Empty},
    network_driver as network,
};
use crate::api::{ApiError, Kind};

/// How long a request may take: Docker itself waits for ever, and so does whoever typed.
const DEADLINE: Duration = Duration::from_secs(9);

/// The largest request in bytes.
const MAX_BODY: usize = 64 * 1024;

/// How often it is looked whether the socket is still where Docker looks for it.
const LOOK: Duration = Duration::from_secs(5);

/// How long requests that are under way may take when the daemon stops.
const LAST_REQUESTS: Duration = Duration::from_secs(9);

/// All methods. Those that are not here are answered with 404, which Docker takes for an optional method that a
/// driver does not have.
pub fn router(plugin: Arc<Plugin>) -> Router {
    const NETWORK: Driver = Driver { error: "Err" };
    const IPAM: Driver = Driver { error: "Error" };
    Router::new()
        .route("/Plugin.Activate", NETWORK.method(activate))
        .route("/NetworkDriver.GetCapabilities", NETWORK.method(network::capabilities))
        .route("/NetworkDriver.GwAllocCheck", NETWORK.method(network::check_gateways))
        .route("/NetworkDriver.AllocateNetwork", NETWORK.method(network::allocate_network))
        .route("/NetworkDriver.FreeNetwork", NETWORK.method(network::nothing))
        .route("/NetworkDriver.CreateNetwork", NETWORK.method(network::create_network))
        .route("/NetworkDriver.DeleteNetwork", NETWORK.method(network::delete_network))
        .route("/NetworkDriver.CreateEndpoint", NETWORK.method(network::create_endpoint))
        .route("/NetworkDriver.EndpointOperInfo", NETWORK.method(network::endpoint_info))
        .route("/NetworkDriver.DeleteEndpoint", NETWORK.method(network::delete_endpoint))
        .route("/NetworkDriver.Join", NETWORK.method(network::join))
        .route("/NetworkDriver.Leave", NETWORK.method(network::leave))
        .route("/NetworkDriver.DiscoverNew", NETWORK.method(network::nothing))
        .route("/NetworkDriver.DiscoverDelete", NETWORK.method(network::nothing))
        .route("/IpamDriver.GetCapabilities", IPAM.method(ipam::capabilities))
        .route("/IpamDriver.GetDefaultAddressSpaces", IPAM.method(ipam::address_spaces))
        .route("/IpamDriver.RequestPool", IPAM.method(ipam::request_pool))
        .route("/IpamDriver.ReleasePool", IPAM.method(ipam::release_pool))
        .route("/IpamDriver.RequestAddress", IPAM.method(ipam::request_address))
        .route("/IpamDriver.ReleaseAddress", IPAM.method(ipam::release_address))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(plugin)
}

/// Answers requests until `cancel`, then those that are under way; or until somebody has removed the socket.
pub async fn serve(socket: PluginSocket, router: Router, cancel: CancellationToken) -> io::Result<()> {
    let (listener, file) = socket.into_parts();
    let served = axum::serve(listener, router).with_graceful_shutdown(cancel.clone().cancelled_owned());
    let overdue = async {
        cancel.cancelled().await;
        tokio::time::sleep(LAST_REQUESTS).await;
    };
    let removed = async {
        while file.is_there() {
            tokio::time::sleep(LOOK).await;
        }
    };
    let result = tokio::select! {
        result = served.into_future() => result,
        () = overdue => Ok(()),
        () = removed => Err(io::Error::other("somebody removed it: it is made again")),
    };
    drop(file);
    result
}

/// Answers whatever is asked with an error, until `cancel`: Docker shows the text, and does not try again.
pub async fn refuse(listener: UnixListener, error: String, cancel: CancellationToken) -> io::Result<()> {
    let refusal = async move || (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "Err": error })));
    let router = Router::new().fallback(refusal);
    axum::serve(listener, router).with_graceful_shutdown(cancel.cancelled_owned()).await
}

async fn activate(_: Arc<Plugin>, _: Empty) -> Result<Activated, ApiError> {
    Ok(Activated { implements: ["NetworkDriver", "IpamDriver"] })
}

/// One of the two drivers.
#[derive(Clone, Copy)]
struct Driver {
    /// The field of an answer that Docker looks for an error in.
    error: &'static str,
}

impl Driver {
    /// A method: its request is JSON, whatever type Docker says it is, or nothing.
    fn method<Q, A, F>(self, run: fn(Arc<Plugin>, Q) -> F) -> MethodRouter<Arc<Plugin>>
    where
        Q: DeserializeOwned + Send + 'static,
        A: Serialize + Send + 'static,
        F: Future<Output = Result<A, ApiError>> + Send + 'static,
    {
        post(move |Shared(plugin): Shared<Arc<Plugin>>, body: Result<Bytes, BytesRejection>| async move {
            let body = match body {
                Ok(body) => body,
                Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                    let error = format!("the request is larger than {MAX_BODY} bytes");
                    return self.refusal(StatusCode::PAYLOAD_TOO_LARGE, &error);
                }
                Err(rejection) => {
                    let error = format!("the request was cut off: {rejection}");
                    return self.refusal(StatusCode::BAD_REQUEST, &error);
                }
            };
            let body = if body.is_empty() || *body == *b"null" { &b"{}"[..] } else { &body };
            match serde_json::from_slice(body) {
                Ok(request) => self.answer(run(plugin, request)).await,
                Err(error) => {
                    self.refusal(StatusCode::BAD_REQUEST, &format!("the request is malformed: {error}"))
                }
            }
        })
    }

    async fn answer<A: Serialize>(self, run: impl Future<Output = Result<A, ApiError>>) -> Response {
        let begun = Instant::now();
        let answer = timeout(DEADLINE, run).await.unwrap_or_else(|_| {
            let seconds = DEADLINE.as_secs();
            let error = format!("overlayd did not do it within {seconds} s: `overlayctl status` may say why");
            Err(ApiError::new(Kind::Unavailable, error))
        });
        match answer {
            Ok(answer) => Json(answer).into_response(),
            Err(error) => {
                tracing::warn!(%error, took = ?begun.elapsed(), "refused what Docker asked for");
                // Docker shows the text as it is, if the status is 200.
                self.refusal(StatusCode::OK, &error.error)
            }
        }
    }

    fn refusal(self, status: StatusCode, error: &str) -> Response {
        // Docker looks for `Err` in whatever is not 200.
        let field = if status == StatusCode::OK { self.error } else { "Err" };
        (status, Json(json!({ field: error }))).into_response()
    }
}
