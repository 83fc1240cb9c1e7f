//! `overlayctl`'s side of the socket.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    time::Duration,
};

use axum::body::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, time::timeout};

use super::{
    AddStaticEndpoint, AddStaticNode, ApiError, Attach, AttachPort, Attached, CLIENT_DEADLINE, CreateNetwork,
    DrainNode, Drained, EXAMINATION_DEADLINE, Endpoint, EndpointDetail, EndpointRef, Examine, Named, Network,
    NetworkDetail, Node, Port, PortRef, Report, SetNetwork, Status,
};
use crate::{
    state::{NetworkName, NodeName},
    store::Republished,
};

/// How long a Unix socket takes to be connected to, with a wide margin.
const CONNECT_DEADLINE: Duration = Duration::from_millis(400);

/// The largest answer taken, in bytes: some 200 000 endpoints.
const MAX_ANSWER: usize = 64 << 20;

/// Talks to the daemon behind one socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// Why there is no answer, or none that was hoped for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "overlayd does not answer on {}: is it running? Start it, or name its socket with --socket ({source})",
        socket.display()
    )]
    NotRunning {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is there, but not for us.
    #[error("{} may not be used by you: run overlayctl as root or as a member of the socket's group", socket.display())]
    Forbidden {
        /// The socket.
        socket: PathBuf,
    },
    /// It took the request and did not answer.
    #[error("overlayd on {} did not answer within {} s: its log may say why", socket.display(), deadline.as_secs())]
    Overdue {
        /// The socket.
        socket: PathBuf,
        /// How long it was waited for.
        deadline: Duration,
    },
    /// It refused, or failed.
    #[error(transparent)]
    Refused(#[from] ApiError),
    /// What came back is no answer to this request.
    #[error("{} is not overlayd's socket, or of another version: {what}", socket.display())]
    Garbled {
        /// The socket.
        socket: PathBuf,
        /// What was wrong with it.
        what: String,
    },
}

impl Client {
    /// A client of the daemon behind `socket`. Connects for each request.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// How the node is.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get("/v1/status").await
    }

    /// What is not as it should be.
    pub async fn examine(&self, request: &Examine) -> Result<Report, ClientError> {
        let body = serde_json::to_vec(request).map_err(|error| self.garbled(&error))?;
        self.exchange_within(EXAMINATION_DEADLINE, Method::POST, "/v1/doctor", body.into()).await
    }

    /// Writes what the node knows into a store that was lost.
    pub async fn republish(&self) -> Result<Republished, ClientError> {
        self.exchange_within(EXAMINATION_DEADLINE, Method::POST, "/v1/republish", Bytes::new()).await
    }

    /// Creates a network.
    pub async fn create_network(&self, request: &CreateNetwork) -> Result<Network, ClientError> {
        self.post("/v1/networks", request).await
    }

    /// Changes what a network's owner decides.
    pub async fn set_network(
        &self,
        name: &NetworkName,
        request: &SetNetwork,
    ) -> Result<Network, ClientError> {
        self.send_body(Method::PATCH, &format!("/v1/networks/{name}"), request).await
    }

    /// All networks.
    pub async fn networks(&self) -> Result<Vec<Network>, ClientError> {
        self.get("/v1/networks").await
    }

    /// A network and who is on it.
    pub async fn network(&self, name: &NetworkName) -> Result<NetworkDetail, ClientError> {
        self.get(&format!("/v1/networks/{name}")).await
    }

    /// Removes a network nobody is on.
    pub async fn remove_network(&self, name: &NetworkName) -> Result<Named, ClientError> {
        self.delete(&format!("/v1/networks/{name}")).await
    }

    /// Attaches a container to a network.
    pub async fn attach(&self, request: &Attach) -> Result<Attached, ClientError> {
        self.post("/v1/endpoints", request).await
    }

    /// Detaches an endpoint of this node.
    pub async fn detach(&self, endpoint: &EndpointRef) -> Result<Named, ClientError> {
        self.delete(&format!("/v1/endpoints/{endpoint}")).await
    }

    /// The endpoints of a network, or all.
    pub async fn endpoints(&self, network: Option<&NetworkName>) -> Result<Vec<Endpoint>, ClientError> {
        match network {
            Some(network) => self.get(&format!("/v1/endpoints?network={network}")).await,
            None => self.get("/v1/endpoints").await,
        }
    }

    /// An endpoint and its traffic.
    pub async fn endpoint(&self, endpoint: &EndpointRef) -> Result<EndpointDetail, ClientError> {
        self.get(&format!("/v1/endpoints/{endpoint}")).await
    }

    /// Enters an endpoint behind a third party's VTEP.
    pub async fn add_static_endpoint(&self, request: &AddStaticEndpoint) -> Result<Named, ClientError> {
        self.post("/v1/static-endpoints", request).await
    }

    /// Makes an interface part of a network.
    pub async fn attach_port(&self, request: &AttachPort) -> Result<Port, ClientError> {
        self.post("/v1/ports", request).await
    }

    /// All gateway ports.
    pub async fn ports(&self) -> Result<Vec<Port>, ClientError> {
        self.get("/v1/ports").await
    }

    /// Takes an interface off its network.
    pub async fn detach_port(&self, port: &PortRef) -> Result<Named, ClientError> {
        self.delete(&format!("/v1/ports/{port}")).await
    }

    /// All nodes.
    pub async fn nodes(&self) -> Result<Vec<Node>, ClientError> {
        self.get("/v1/nodes").await
    }

    /// Enters a third party's VTEP.
    pub async fn add_static_node(&self, request: &AddStaticNode) -> Result<Named, ClientError> {
        self.post("/v1/static-nodes", request).await
    }

    /// Says whether a node takes new endpoints.
    pub async fn drain_node(&self, name: &NodeName, request: DrainNode) -> Result<Drained, ClientError> {
        self.post(&format!("/v1/nodes/{name}/drain"), &request).await
    }

    /// Removes a node that does not live, with its endpoints.
    pub async fn remove_node(&self, name: &NodeName) -> Result<Named, ClientError> {
        self.delete(&format!("/v1/nodes/{name}")).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.exchange(Method::GET, path, Bytes::new()).await
    }

    async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.exchange(Method::DELETE, path, Bytes::new()).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        self.send_body(Method::POST, path, body).await
    }

    async fn send_body<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.garbled(&error))?;
        self.exchange(method, path, body.into()).await
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        self.exchange_within(CLIENT_DEADLINE, method, path, body).await
    }

    async fn exchange_within<T: DeserializeOwned>(
        &self,
        deadline: Duration,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let stream = self.connect().await?;
        let overdue = |_| ClientError::Overdue { socket: self.socket.clone(), deadline };
        let (status, answer) =
            timeout(deadline, self.send(stream, method, path, body)).await.map_err(overdue)??;
        if status.is_success() {
            return serde_json::from_slice(&answer).map_err(|error| self.garbled(&error));
        }
        let refusal = serde_json::from_slice::<ApiError>(&answer);
        Err(refusal.map_or_else(|_| self.garbled(&format!("it answers {status}")), ClientError::Refused))
    }

    async fn connect(&self) -> Result<UnixStream, ClientError> {
        let connected = timeout(CONNECT_DEADLINE, UnixStream::connect(&self.socket)).await;
        connected.unwrap_or_else(|late| Err(late.into())).map_err(|source| {
            let socket = self.socket.clone();
            match source.kind() {
                ErrorKind::PermissionDenied => ClientError::Forbidden { socket },
                _ => ClientError::NotRunning { socket, source },
            }
        })
    }

    async fn send(
        &self,
        stream: UnixStream,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.garbled(&error))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "overlayd")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| self.garbled(&error))?;
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(|error| self.garbled(&error))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            Ok((status, body.map_err(|error| self.garbled(&error))?.to_bytes()))
        };
        tokio::pin!(exchange);
        tokio::select! {
            answer = &mut exchange => answer,
            // The connection ends when the server closes it; what it sent before is still to be read.
            _ = connection => exchange.await,
        }
    }

    fn garbled(&self, what: &impl ToString) -> ClientError {
        ClientError::Garbled { socket: self.socket.clone(), what: what.to_string() }
    }
}
