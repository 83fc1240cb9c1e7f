//! Endpoints that Docker has let go while overlayd was away: it has moved their interfaces out of the container, and
//! tells nobody a second time.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use nix::net::if_::if_nametoindex;
use tokio::time::{Instant, interval};

use super::{DockerEndpoint, DockerEndpointId, Plugin, Registry};

/// How often it is looked for them.
const LOOK: Duration = Duration::from_secs(10);

/// How long an interface may be on its way: Docker repeats a request for no longer than 30 s.
const ON_ITS_WAY: Duration = Duration::from_secs(40);

/// How long after a start it takes at most until all are found.
pub const FOUND_WITHIN: Duration = ON_ITS_WAY.saturating_add(LOOK.saturating_mul(2));

/// Takes them off.
pub async fn take_off(plugin: Arc<Plugin>, registry: Arc<Registry>) {
    let begun = Instant::now();
    // Those that are made from now on are let go by requests that are heard.
    let mut doubtful: BTreeSet<DockerEndpointId> = registry.now().endpoints.keys().cloned().collect();
    let mut look = interval(LOOK);
    while !doubtful.is_empty() {
        look.tick().await;
        let content = registry.now();
        doubtful.retain(|id| content.endpoints.get(id).is_some_and(is_outside));
        if begun.elapsed() < ON_ITS_WAY {
            continue;
        }
        for (id, endpoint) in doubtful.iter().filter_map(|id| content.endpoints.get_key_value(id)) {
            let DockerEndpoint { network, endpoint, .. } = endpoint;
            match plugin.take_off(id.clone()).await {
                Ok(()) => tracing::info!(%endpoint, %network, "Docker has let it go meanwhile: taken off"),
                Err(error) => {
                    tracing::warn!(%endpoint, %network, %error, "what Docker has let go is still there");
                }
            }
        }
    }
}

/// Whether the end of an endpoint that is for its container is in the host's namespace.
fn is_outside(endpoint: &DockerEndpoint) -> bool {
    if_nametoindex(endpoint.endpoint.peer_device().as_str()).is_ok()
}
