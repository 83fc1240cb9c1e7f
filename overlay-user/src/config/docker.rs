//! Settings of what is done for Docker, and for names.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use super::{ConfigError, MAX_SOCKET_PATH, value};

/// Where Docker's API is unless somebody says otherwise.
const DOCKER: &str = "/var/run/docker.sock";

/// Where Docker looks for a driver called `overlayd`.
const PLUGIN: &str = "/run/docker/plugins/overlayd.sock";

/// Link-local, so that it is nobody's on any network.
const DNS: Ipv4Addr = Ipv4Addr::new(169, 254, 53, 53);

/// The port of name servers (RFC 1035, section 4.2).
const DNS_PORT: u16 = 53;

/// The word for turning something off.
const NONE: &str = "none";

/// The socket of Docker's API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerSocket {
    /// Its path.
    pub path: PathBuf,
    /// Somebody said so. Else it is the usual one, and there may be no Docker at all.
    pub given: bool,
}

pub(super) fn socket(given: Option<String>) -> Result<Option<DockerSocket>, ConfigError> {
    let Some(text) = given else {
        return Ok(Some(DockerSocket { path: DOCKER.into(), given: false }));
    };
    if text == NONE {
        return Ok(None);
    }
    match text.strip_prefix("unix://").map(PathBuf::from).filter(|path| path.is_absolute()) {
        Some(path) => Ok(Some(DockerSocket { path, given: true })),
        None => Err(value("docker", text, format!("give none, or a Unix socket as unix://{DOCKER}"))),
    }
}

pub(super) fn plugin(given: Option<PathBuf>) -> Result<Option<PathBuf>, ConfigError> {
    let path = given.unwrap_or_else(|| PLUGIN.into());
    if path == Path::new(NONE) {
        return Ok(None);
    }
    if !path.is_absolute() || path.as_os_str().len() > MAX_SOCKET_PATH {
        let cure = format!("give none, or an absolute path of at most {MAX_SOCKET_PATH} bytes");
        return Err(value("docker-plugin", path.display(), cure));
    }
    Ok(Some(path))
}

pub(super) fn dns(given: Option<String>) -> Result<Option<Ipv4Addr>, ConfigError> {
    let Some(text) = given else { return Ok(Some(DNS)) };
    if text == NONE {
        return Ok(None);
    }
    let usable = |address: &Ipv4Addr| !(address.is_unspecified() || address.is_multicast());
    match text.parse().ok().filter(usable) {
        Some(address) => Ok(Some(address)),
        None => Err(value("dns", text, format!("give none, or an IPv4 address that nobody has, as {DNS}"))),
    }
}

pub(super) fn upstreams(given: Vec<String>) -> Result<Vec<SocketAddr>, ConfigError> {
    let upstream = |text: String| {
        let address = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, DNS_PORT));
        let address = address.or_else(|_| text.parse::<SocketAddr>());
        address.map_err(|_| {
            value("dns-upstream", text, "give addresses of name servers, as 10.0.0.2 or [fd00::2]:53")
        })
    };
    given.into_iter().map(upstream).collect()
}
