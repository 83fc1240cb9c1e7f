//! What this node's Docker has of ours, on disk: which networks by its identities, and which endpoints. Docker
//! tells its drivers each once, and does not repeat it after a restart of its own or of overlayd's.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, ErrorKind, Write as _},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::sync::watch;

use super::{DockerEndpointId, DockerNetworkId};
use crate::{
    MacAddr, Vni,
    state::{EndpointId, NetworkName, PolicyChange, PoolId},
    store::{NewNetwork, StoreError},
};

/// The file of the networks. They outlive a power cut, as Docker's do.
const NETWORKS: &str = "docker.json";

/// The file of the endpoints. They do not, for no container does.
const ENDPOINTS: &str = "docker-endpoints.json";

/// What is kept of a network of Docker's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DockerNetwork {
    /// It is this one of ours.
    Known(NetworkName),
    /// Docker has made it, and has not told its name yet.
    Pending(PendingNetwork),
}

/// A network that is to be published under the name that Docker has for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PendingNetwork {
    /// The claims on its subnets.
    pub pools: Vec<PoolId>,
    /// Its subnets.
    pub subnets: Vec<IpNet>,
    /// Its gateways.
    pub gateways: Vec<IpAddr>,
    /// Where addresses are taken from, where that is not the whole subnet.
    pub ranges: Vec<IpNet>,
    /// Addresses that no endpoint gets, by what they are kept for.
    pub aux: BTreeMap<String, IpAddr>,
    /// No way out to the world.
    pub internal: bool,
    /// The VNI that was asked for.
    pub vni: Option<u32>,
    /// The MTU that was asked for.
    pub mtu: Option<u16>,
    /// What its owner decided otherwise than it is by default.
    pub policy: PolicyChange,
    /// Its identity in Docker, where that is the same on all nodes.
    pub docker: Option<DockerNetworkId>,
}

/// An endpoint that Docker has asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DockerEndpoint {
    /// Its network.
    pub network: NetworkName,
    /// Its identity in the store; its interfaces are named by it.
    pub endpoint: EndpointId,
    /// Its MAC address.
    #[serde(with = "crate::api::mac")]
    pub mac: MacAddr,
    /// The file of the network namespace that its interface is in, from when Docker has moved it there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<PathBuf>,
}

/// All that is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Docker's networks with our driver.
    pub networks: BTreeMap<DockerNetworkId, DockerNetwork>,
    /// Their endpoints on this node.
    pub endpoints: BTreeMap<DockerEndpointId, DockerEndpoint>,
}

/// What is kept, on disk and to be followed.
pub struct Registry {
    directory: PathBuf,
    content: watch::Sender<Arc<Content>>,
    /// Held while something is changed.
    changing: Mutex<()>,
}

// === impl PendingNetwork ===

impl PendingNetwork {
    /// The network to be published under `name`.
    pub fn named(&self, name: NetworkName) -> Result<NewNetwork, StoreError> {
        let Self { pools: _, subnets, gateways, ranges, aux, internal, vni, mtu, policy, docker } =
            self.clone();
        let vni = vni.map(Vni::new).transpose().map_err(|error| StoreError::Invalid(error.to_string()))?;
        Ok(NewNetwork {
            name,
            subnets,
            gateways,
            ranges,
            vni,
            mtu,
            internal,
            policy,
            allow_overlap: false,
            aux,
            docker: docker.map(String::from),
        })
    }
}

// === impl DockerNetwork ===

impl DockerNetwork {
    /// The network's name, once it is known.
    #[must_use]
    pub const fn name(&self) -> Option<&NetworkName> {
        match self {
            Self::Known(name) => Some(name),
            Self::Pending(_) => None,
        }
    }
}

// === impl Registry ===

impl Registry {
    /// The registry in a daemon's state directory. A file that is damaged is set aside and begun anew.
    #[must_use]
    pub fn open(state_dir: &Path) -> Arc<Self> {
        let networks = read(&state_dir.join(NETWORKS));
        let endpoints = read(&state_dir.join(ENDPOINTS));
        let (content, _) = watch::channel(Arc::new(Content { networks, endpoints }));
        Arc::new(Self { directory: state_dir.to_owned(), content, changing: Mutex::default() })
    }

    /// Follows what is kept.
    #[must_use]
    pub fn content(&self) -> watch::Receiver<Arc<Content>> {
        self.content.subscribe()
    }

    /// What is kept now.
    #[must_use]
    pub fn now(&self) -> Arc<Content> {
        Arc::clone(&self.content.borrow())
    }

    /// What a network of Docker's is.
    #[must_use]
    pub fn network(&self, id: &DockerNetworkId) -> Option<DockerNetwork> {
        self.now().networks.get(id).cloned()
    }

    /// What an endpoint of Docker's is.
    #[must_use]
    pub fn endpoint(&self, id: &DockerEndpointId) -> Option<DockerEndpoint> {
        self.now().endpoints.get(id).cloned()
    }

    /// Keeps what a network of Docker's is.
    ///
    /// # Errors
    /// If it cannot be written; then it is not kept.
    pub fn set_network(&self, id: DockerNetworkId, network: DockerNetwork) -> io::Result<()> {
        self.change(|content| drop(content.networks.insert(id, network)))
    }

    /// Forgets a network of Docker's.
    ///
    /// # Errors
    /// If that cannot be written; then it is kept.
    pub fn forget_network(&self, id: &DockerNetworkId) -> io::Result<()> {
        self.change(|content| drop(content.networks.remove(id)))
    }

    /// Keeps what an endpoint of Docker's is.
    ///
    /// # Errors
    /// If it cannot be written; then it is not kept.
    pub fn set_endpoint(&self, id: DockerEndpointId, endpoint: DockerEndpoint) -> io::Result<()> {
        self.change(|content| drop(content.endpoints.insert(id, endpoint)))
    }

    /// Notes in which namespace the interface of an endpoint is, if that is kept; `None`: in the host's again.
    ///
    /// # Errors
    /// If it cannot be written; then it is not noted.
    pub fn set_sandbox(&self, id: &DockerEndpointId, sandbox: Option<PathBuf>) -> io::Result<()> {
        self.change(|content| {
            if let Some(endpoint) = content.endpoints.get_mut(id) {
                endpoint.sandbox = sandbox;
            }
        })
    }

    /// Forgets an endpoint of Docker's.
    ///
    /// # Errors
    /// If that cannot be written; then it is kept.
    pub fn forget_endpoint(&self, id: &DockerEndpointId) -> io::Result<()> {
        self.change(|content| drop(content.endpoints.remove(id)))
    }

    /// Forgets the endpoints that are not as `stands` says.
    ///
    /// # Errors
    /// If that cannot be written; then they are kept.
    pub fn retain_endpoints(&self, stands: impl Fn(&DockerEndpoint) -> bool) -> io::Result<()> {
        self.change(|content| content.endpoints.retain(|_, endpoint| stands(endpoint)))
    }

    fn change(&self, change: impl FnOnce(&mut Content)) -> io::Result<()> {
        // Nothing panics while it is held.
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.now();
        let mut new = Content::clone(&old);
        change(&mut new);
        if new.networks != old.networks {
            write(&self.directory, NETWORKS, &new.networks, true)?;
        }
        if new.endpoints != old.endpoints {
            write(&self.directory, ENDPOINTS, &new.endpoints, false)?;
        }
        if new != *old {
            self.content.send_replace(Arc::new(new));
        }
        Ok(())
    }
}

/// What is in a file; nothing if there is none or it is damaged.
fn read<T: Default + DeserializeOwned>(path: &Path) -> T {
    let shown = path.display();
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return T::default(),
        Err(error) => {
            tracing::warn!(%error, "{shown} cannot be read: what Docker has of ours is not known");
            return T::default();
        }
    };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        let aside = path.with_extension("json.damaged");
        tracing::warn!(%error, "{shown} is damaged: set aside as {}, and begun anew", aside.display());
        if let Err(error) = fs::rename(path, &aside) {
            tracing::warn!(%error, "{shown} cannot be set aside");
        }
        T::default()
    })
}

/// Writes a file so that it is always whole: beside, then in its place.
fn write(directory: &Path, name: &str, content: &impl Serialize, durable: bool) -> io::Result<()> {
    let path = directory.join(name);
    let failed = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let write = || {
        fs::create_dir_all(directory)?;
        let beside = path.with_extension("json.new");
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(&serde_json::to_vec(content)?)?;
        if durable {
            file.sync_all()?;
        }
        fs::rename(&beside, &path)
    };
    write().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network_id(digit: char) -> DockerNetworkId {
        digit.to_string().repeat(64).parse().unwrap()
    }

    fn endpoint_id(digit: char) -> DockerEndpointId {
        digit.to_string().repeat(64).parse().unwrap()
    }

    fn endpoint() -> DockerEndpoint {
        DockerEndpoint {
            network: "blue".parse().unwrap(),
            endpoint: "0123456789ab".parse().unwrap(),
            mac: MacAddr([2, 0x42, 10, 0, 9, 2]),
            sandbox: None,
        }
    }

    fn pending() -> PendingNetwork {
        PendingNetwork {
            pools: vec![PoolId::random()],
            subnets: vec!["10.0.9.0/24".parse().unwrap()],
            gateways: vec!["10.0.9.1".parse().unwrap()],
            aux: BTreeMap::from([("router".to_owned(), "10.0.9.9".parse().unwrap())]),
            policy: PolicyChange { bum_rate: Some(7), ..PolicyChange::default() },
            ..PendingNetwork::default()
        }
    }

    #[test]
    fn what_is_kept_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("made/when/needed");
        let registry = Registry::open(&below);
        let mut content = registry.content();
        registry.set_network(network_id('a'), DockerNetwork::Known("blue".parse().unwrap())).unwrap();
        registry.set_network(network_id('b'), DockerNetwork::Pending(pending())).unwrap();
        registry.set_endpoint(endpoint_id('1'), endpoint()).unwrap();
        registry.set_endpoint(endpoint_id('2'), endpoint()).unwrap();
        registry.set_sandbox(&endpoint_id('1'), Some("/var/run/docker/netns/1".into())).unwrap();
        registry.forget_network(&network_id('a')).unwrap();
        registry.forget_endpoint(&endpoint_id('2')).unwrap();
        assert!(content.has_changed().unwrap());
        let now = Arc::clone(&content.borrow_and_update());
        assert_eq!((now.networks.len(), now.endpoints.len()), (1, 1));
        assert_eq!(Registry::open(&below).now(), now);
        // What changes nothing is no news.
        registry.forget_endpoint(&endpoint_id('9')).unwrap();
        registry.set_sandbox(&endpoint_id('9'), None).unwrap();
        registry.retain_endpoints(|_| true).unwrap();
        assert!(!content.has_changed().unwrap());
    }

    #[test]
    fn a_damaged_file_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(NETWORKS), "{\"").unwrap();
        let registry = Registry::open(directory.path());
        registry.set_endpoint(endpoint_id('1'), endpoint()).unwrap();
        assert_eq!(*registry.now(), *Registry::open(directory.path()).now());
        assert!(directory.path().join("docker.json.damaged").exists());
    }

    #[test]
    fn what_cannot_be_written_is_not_taken_for_kept() {
        let directory = tempfile::tempdir().unwrap();
        let in_the_way = directory.path().join("file");
        fs::write(&in_the_way, "").unwrap();
        let registry = Registry::open(&in_the_way);
        let error = registry.set_endpoint(endpoint_id('1'), endpoint()).unwrap_err();
        assert!(error.to_string().contains("docker-endpoints.json"), "{error}");
        assert_eq!(*registry.now(), Content::default());
    }

    #[test]
    fn a_pending_network_gets_its_name() {
        let new = pending().named("blue".parse().unwrap()).unwrap();
        assert_eq!((new.name.as_str(), new.subnets.len(), new.policy.bum_rate), ("blue", 1, Some(7)));
        let bad = PendingNetwork { vni: Some(1 << 24), ..pending() };
        assert!(bad.named("blue".parse().unwrap()).is_err());
    }
}
