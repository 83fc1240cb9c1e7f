//! Endpoints that Docker has let go while overlayd was away: it has moved their interfaces out of the container, and
//! tells nobody a second time.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use nix::net::if_::if_nametoindex;
use tokio::time::{Instant, interval};

use super::{DockerEndpoint, DockerEndpointId, Plugin, Registry};

/// How often it is looked for them.
const LOOK: Duration = Duration::from_secs(10);

/// How long an interface may be on its way: Docker repeats a request for no longer than 30 s.
const ON_ITS_WAY: Duration = Duration::from_secs(40);

/// Takes them off.
pub async fn take_off(plugin: Arc<Plugin>, registry: Arc<Registry>) {
    let mut outside: BTreeMap<DockerEndpointId, Instant> = BTreeMap::new();
    let mut look = interval(LOOK);
    loop {
        look.tick().await;
        let (content, now) = (registry.now(), Instant::now());
        outside.retain(|id, _| content.endpoints.get(id).is_some_and(is_outside));
        for (id, endpoint) in content.endpoints.iter().filter(|(_, endpoint)| is_outside(endpoint)) {
            if *outside.entry(id.clone()).or_insert(now) + ON_ITS_WAY > now {
                continue;
            }
            let DockerEndpoint { network, endpoint, .. } = endpoint;
            match plugin.take_off(id.clone()).await {
                Ok(()) => tracing::info!(%endpoint, %network, "Docker has let it go meanwhile: taken off"),
                Err(error) => {
                    tracing::warn!(%endpoint, %network, %error, "what Docker has let go is still there")
                }
            }
        }
    }
}

/// Whether the end of an endpoint that is for its container is in the host's namespace.
fn is_outside(endpoint: &DockerEndpoint) -> bool {
    if_nametoindex(endpoint.endpoint.peer_device().as_str()).is_ok()
}
