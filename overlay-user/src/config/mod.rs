//! `overlayd`'s settings: flags, `OVERLAY_*` variables and a TOML file, in that order of precedence,
//! then the defaults.

mod choice;
mod command_line;
mod docker;
mod options;
mod sample;

use std::{
    fmt::Display,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::unistd::gethostname;

pub use choice::{DatapathChoice, DockerScope, Mtu, ReservedBits};
pub use command_line::CommandLine;
pub use docker::{DEFAULT_DNS, DockerSocket, ParseSocketError};
pub use options::Options;
pub use sample::sample;

use crate::{
    state::{InterfaceName, NameError, NodeName, not_one_host},
    store::{Store, StoreOptions, TlsFiles},
    underlay::Selector,
};

/// Name of the control socket in the run directory.
pub const SOCKET: &str = "overlayd.sock";

/// Where the control socket is unless somebody says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/overlay/overlayd.sock";

/// The longest path of a Unix socket: `sun_path` has 108 bytes and ends in a zero (unix(7)).
const MAX_SOCKET_PATH: usize = 107;

/// The smallest MTU an IPv4 underlay may have: every host takes datagrams of 576 bytes (RFC 791).
const MIN_MTU: u16 = 576;

/// Endpoints that fit in 1 GiB of maps.
const MAX_ENDPOINTS: u32 = 1 << 20;

/// In seconds: what somebody else broke is not broken for long, and looking costs little.
const VERIFY_EVERY: u16 = 30;

/// Checked settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node's name.
    pub node: NodeName,
    /// Where the store is; has the cluster's name.
    pub store: StoreOptions,
    /// How the uplink is chosen.
    pub underlay: Selector,
    /// Which data path is wanted.
    pub datapath: DatapathChoice,
    /// UDP port of VXLAN.
    pub port: u16,
    /// The underlay's MTU in bytes, if not the uplink's.
    pub mtu: Option<u16>,
    /// Outer packets over IPv6 are sent and taken without a UDP checksum.
    pub udp6_zero_checksum: bool,
    /// What to do about reserved bits in VXLAN headers.
    pub reserved_bits: ReservedBits,
    /// Directory of the control socket.
    pub run_dir: PathBuf,
    /// Directory of what is kept across restarts.
    pub state_dir: PathBuf,
    /// Directory of pins.
    pub bpffs: PathBuf,
    /// What to log, in the syntax of `tracing_subscriber::EnvFilter`.
    pub log: String,
    /// Room for endpoints in the maps.
    pub max_endpoints: u32,
    /// The schema of the maps: this version's, whatever the operator says.
    pub map_schema: u32,
    /// How often everything in the kernel is compared though nothing seems to have changed.
    pub verify_every: Duration,
    /// The Docker that is kept in step with; `None`: no one.
    pub docker: Option<DockerSocket>,
    /// Where Docker finds its driver; `None`: nowhere.
    pub docker_plugin: Option<PathBuf>,
    /// Whose Docker's networks are.
    pub docker_scope: DockerScope,
    /// Where containers ask for names; `None`: nowhere.
    pub dns: Option<Ipv4Addr>,
    /// Who is asked for all other names; none: those whom the host asks.
    pub dns_upstream: Vec<SocketAddr>,
}

/// A setting that cannot be used: one line that names the flag and the cure.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The settings file cannot be read.
    #[error("--config {}: {source}: give the path of a readable TOML file", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The settings file is not what it should be.
    #[error("--config {}, line {line}: {message}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// The store's addresses cannot be used.
    #[error("--etcd: {0}")]
    Etcd(String),
    /// A value cannot be used.
    #[error("--{flag} {value:?}: {cure}")]
    Value {
        /// The flag without its dashes, which is the key in the file as well.
        flag: &'static str,
        /// What was given.
        value: String,
        /// What to give.
        cure: String,
    },
}

impl Config {
    /// Reads the settings file at `path`.
    pub fn read_file(path: &Path) -> Result<Options, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        toml::from_str(&text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            ConfigError::Malformed {
                path: path.to_owned(),
                line: before.matches('\n').count() + 1,
                message: error.message().trim().replace('\n', ": "),
            }
        })
    }

    /// Checks `options`, fills in the defaults, and reads the password file. `password` is the one
    /// given in the environment: it must not be a flag, which every user of the machine could read.
    pub fn new(options: Options, password: Option<String>) -> Result<Self, ConfigError> {
        let store = store_options(&options, password)?;
        let run_dir = options.run_dir.unwrap_or_else(|| "/run/overlay".into());
        if run_dir.join(SOCKET).as_os_str().len() > MAX_SOCKET_PATH {
            let cure = format!(
                "too long for the path of a Unix socket: give one of at most {} bytes",
                MAX_SOCKET_PATH - SOCKET.len() - 1
            );
            return Err(value("run-dir", run_dir.display(), cure));
        }
        let port = options.port.unwrap_or(overlay_ebpf::abi::VXLAN_PORT);
        if port == 0 {
            return Err(value("port", port, "give a UDP port of 1 to 65535, the same on every node"));
        }
        let mtu = options.mtu.unwrap_or_default().bytes();
        if let Some(mtu) = mtu
            && mtu < MIN_MTU
        {
            return Err(value("mtu", mtu, format!("give auto, or {MIN_MTU} to 65535 bytes")));
        }
        let max_endpoints = options.max_endpoints.unwrap_or(1 << 16);
        if !(1..=MAX_ENDPOINTS).contains(&max_endpoints) {
            return Err(value("max-endpoints", max_endpoints, format!("give 1 to {MAX_ENDPOINTS}")));
        }
        let verify_every = options.verify_every.unwrap_or(VERIFY_EVERY);
        if verify_every == 0 {
            return Err(value("verify-every", verify_every, "give 1 to 65535 seconds"));
        }
        Ok(Self {
            node: node_name(options.node)?,
            store,
            underlay: options.underlay.map_or_else(|| Ok(Selector::DefaultRoute), uplink)?,
            datapath: options.datapath.unwrap_or_default(),
            port,
            mtu,
            udp6_zero_checksum: options.udp6_zero_checksum.unwrap_or_default(),
            reserved_bits: options.reserved_bits.unwrap_or_default(),
            run_dir,
            state_dir: options.state_dir.unwrap_or_else(|| "/var/lib/overlay".into()),
            bpffs: options.bpffs.unwrap_or_else(|| "/sys/fs/bpf/overlay".into()),
            log: options.log.unwrap_or_else(|| "info".to_owned()),
            max_endpoints,
            map_schema: overlay_ebpf::abi::SCHEMA,
            verify_every: Duration::from_secs(verify_every.into()),
            docker: docker::socket(options.docker)?,
            docker_plugin: docker::plugin(options.docker_plugin)?,
            docker_scope: options.docker_scope.unwrap_or_default(),
            dns: docker::dns(options.dns)?,
            dns_upstream: docker::upstreams(options.dns_upstream.unwrap_or_default())?,
        })
    }

    /// Path of the control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join(SOCKET)
    }
}

fn value(flag: &'static str, value: impl Display, cure: impl Into<String>) -> ConfigError {
    ConfigError::Value { flag, value: value.to_string(), cure: cure.into() }
}

fn node_name(given: Option<String>) -> Result<NodeName, ConfigError> {
    if let Some(name) = given {
        return name.parse().map_err(|error: NameError| value("node", name, error.rule()));
    }
    let host = gethostname().unwrap_or_default().to_string_lossy().into_owned();
    host.parse().map_err(|_| value("node", host, "the host name is no node name: give --node NAME"))
}

/// An uplink: an address, or what Linux accepts as an interface name.
fn uplink(text: String) -> Result<Selector, ConfigError> {
    match text.parse::<IpAddr>() {
        Ok(address) => match not_one_host(address) {
            None => Ok(Selector::Address(address)),
            Some(kind) => Err(value("underlay", text, format!("no other node can reach it, it is {kind}"))),
        },
        Err(_) if text.parse::<InterfaceName>().is_ok() => Ok(Selector::Interface(text)),
        Err(_) => Err(value("underlay", text, "give the name of an interface or an address of one")),
    }
}

fn store_options(options: &Options, password: Option<String>) -> Result<StoreOptions, ConfigError> {
    let cluster = options.cluster.clone().unwrap_or_else(|| "default".to_owned());
    if let Err(error) = cluster.parse::<NodeName>() {
        return Err(value("cluster", cluster, error.rule()));
    }
    let identity = match (&options.etcd_cert, &options.etcd_key) {
        (Some(cert), Some(key)) => Some((readable("etcd-cert", cert)?, readable("etcd-key", key)?)),
        (None, None) => None,
        (Some(cert), None) => {
            return Err(value("etcd-cert", cert.display(), "give the key as well, with --etcd-key FILE"));
        }
        (None, Some(key)) => {
            let cure = "give the certificate as well, with --etcd-cert FILE";
            return Err(value("etcd-key", key.display(), cure));
        }
    };
    let ca = options.etcd_ca.as_deref().map(|ca| readable("etcd-ca", ca)).transpose()?;
    let tls = (ca.is_some() || identity.is_some()).then_some(TlsFiles { ca, identity });
    let endpoints = options.etcd.clone().unwrap_or_else(|| vec!["127.0.0.1:2379".to_owned()]);
    let store = StoreOptions { endpoints, cluster, tls, credentials: credentials(options, password)? };
    // It knows best what it can connect to.
    Store::new(store.clone()).map_err(|error| ConfigError::Etcd(error.to_string()))?;
    Ok(store)
}

fn credentials(options: &Options, password: Option<String>) -> Result<Option<(String, String)>, ConfigError> {
    let Some(user) = &options.etcd_user else {
        return match &options.etcd_password_file {
            Some(file) => Err(value("etcd-password-file", file.display(), "give --etcd-user NAME as well")),
            None => Ok(None),
        };
    };
    let password = match &options.etcd_password_file {
        Some(file) => std::fs::read_to_string(file)
            .map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
            .map_err(|error| value("etcd-password-file", file.display(), error.to_string()))?,
        None => password.ok_or_else(|| {
            value("etcd-user", user, "give its password by --etcd-password-file or OVERLAY_ETCD_PASSWORD")
        })?,
    };
    Ok(Some((user.clone(), password)))
}

/// `path`, if it can be opened now: better said at the start than at the first connection.
fn readable(flag: &'static str, path: &Path) -> Result<PathBuf, ConfigError> {
    match std::fs::File::open(path) {
        Ok(_) => Ok(path.to_owned()),
        Err(error) => Err(value(flag, path.display(), format!("{error}: give a readable PEM file"))),
    }
}

#[cfg(test)]
mod tests;
