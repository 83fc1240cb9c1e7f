//! The settings as they are written: flags, `OVERLAY_*` variables and the TOML file share one type,
//! so that no setting can exist in one of them alone.

use std::path::PathBuf;

use clap::Args;
use serde::{Deserialize, Deserializer};

use super::{DatapathChoice, DockerScope, Mtu, ReservedBits};

/// What one source says; what it does not say is `None`.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// This node's name in the cluster [default: the host name]
    #[arg(long, env = "OVERLAY_NODE", value_name = "NAME")]
    pub node: Option<String>,

    /// The cluster's name: several share one etcd [default: default]
    #[arg(long, env = "OVERLAY_CLUSTER", value_name = "NAME")]
    pub cluster: Option<String>,

    /// Client URLs of etcd, with commas between [default: port 2379 of this machine]
    #[arg(long, env = "OVERLAY_ETCD", value_name = "URL", value_delimiter = ',')]
    #[serde(deserialize_with = "one_or_more")]
    pub etcd: Option<Vec<String>>,

    /// PEM file of the authorities to trust for etcd [default: the system's]
    #[arg(long, env = "OVERLAY_ETCD_CA", value_name = "FILE")]
    pub etcd_ca: Option<PathBuf>,

    /// PEM file of the certificate to show to etcd
    #[arg(long, env = "OVERLAY_ETCD_CERT", value_name = "FILE")]
    pub etcd_cert: Option<PathBuf>,

    /// PEM file of that certificate's key
    #[arg(long, env = "OVERLAY_ETCD_KEY", value_name = "FILE")]
    pub etcd_key: Option<PathBuf>,

    /// etcd user; the password comes from --etcd-password-file or `OVERLAY_ETCD_PASSWORD`
    #[arg(long, env = "OVERLAY_ETCD_USER", value_name = "NAME")]
    pub etcd_user: Option<String>,

    /// File that holds the etcd user's password
    #[arg(long, env = "OVERLAY_ETCD_PASSWORD_FILE", value_name = "FILE")]
    pub etcd_password_file: Option<PathBuf>,

    /// Interface or address to tunnel from [default: the interface of the default route]
    #[arg(long, env = "OVERLAY_UNDERLAY", value_name = "IFACE|IP")]
    pub underlay: Option<String>,

    /// What forwards packets: XDP or tc programs, or the kernel's VXLAN device [default: auto]
    #[arg(long, env = "OVERLAY_DATAPATH", value_name = "MODE")]
    pub datapath: Option<DatapathChoice>,

    /// UDP port of VXLAN, the same on every node [default: 4789]
    #[arg(long, env = "OVERLAY_PORT", value_name = "PORT")]
    pub port: Option<u16>,

    /// MTU of the underlay in bytes, if a path is narrower than the uplink [default: auto]
    #[arg(long, env = "OVERLAY_MTU", value_name = "auto|BYTES")]
    pub mtu: Option<Mtu>,

    /// On an IPv6 underlay, send no UDP checksums and take packets without (RFC 6935), on every node alike
    #[arg(
        long,
        env = "OVERLAY_UDP6_ZERO_CHECKSUM",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub udp6_zero_checksum: Option<bool>,

    /// Reserved bits in VXLAN headers: strict drops as Linux does, ignore is RFC 7348 [default: strict]
    #[arg(long, env = "OVERLAY_RESERVED_BITS", value_name = "POLICY")]
    pub reserved_bits: Option<ReservedBits>,

    /// Directory of the control socket overlayd.sock [default: /run/overlay]
    #[arg(long, env = "OVERLAY_RUN_DIR", value_name = "DIR")]
    pub run_dir: Option<PathBuf>,

    /// Directory of what is kept across restarts [default: /var/lib/overlay]
    #[arg(long, env = "OVERLAY_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// Directory in a BPF file system where maps and programs are pinned [default: /sys/fs/bpf/overlay]
    #[arg(long, env = "OVERLAY_BPFFS", value_name = "DIR")]
    pub bpffs: Option<PathBuf>,

    /// What to log, as in `info,overlay_user::store=debug` [default: info]
    #[arg(long, env = "OVERLAY_LOG", value_name = "FILTER")]
    pub log: Option<String>,

    /// Room for endpoints, of the whole cluster, in this node's maps [default: 65536]
    #[arg(long, env = "OVERLAY_MAX_ENDPOINTS", value_name = "N")]
    pub max_endpoints: Option<u32>,

    /// How often all in the kernel is compared with what should be there, and repaired [default: 30]
    #[arg(long, env = "OVERLAY_VERIFY_EVERY", value_name = "SECONDS")]
    pub verify_every: Option<u16>,

    /// Docker to keep in step with, by its API's socket [default: that in /var/run, where there is one]
    #[arg(long, env = "OVERLAY_DOCKER", value_name = "unix://FILE|none")]
    pub docker: Option<String>,

    /// Socket on which Docker finds the network and IPAM driver [default: /run/docker/plugins/overlayd.sock]
    #[arg(long, env = "OVERLAY_DOCKER_PLUGIN", value_name = "FILE|none")]
    pub docker_plugin: Option<PathBuf>,

    /// Whose Docker's networks are: each node's, or with Docker 20.10's --cluster-store all nodes' [default: local]
    #[arg(long, env = "OVERLAY_DOCKER_SCOPE", value_name = "SCOPE")]
    pub docker_scope: Option<DockerScope>,

    /// Address at which containers ask for each other's names [default: 169.254.53.53]
    #[arg(long, env = "OVERLAY_DNS", value_name = "IP|none")]
    pub dns: Option<String>,

    /// Name servers for all other names, with commas between [default: those of /etc/resolv.conf]
    #[arg(long, env = "OVERLAY_DNS_UPSTREAM", value_name = "IP[:PORT]", value_delimiter = ',')]
    #[serde(deserialize_with = "one_or_more")]
    pub dns_upstream: Option<Vec<String>>,
}

impl Options {
    /// What `self` says, and where it is silent what `weaker` says.
    #[must_use]
    pub fn or(self, weaker: Self) -> Self {
        Self {
            node: self.node.or(weaker.node),
            cluster: self.cluster.or(weaker.cluster),
            etcd: self.etcd.or(weaker.etcd),
            etcd_ca: self.etcd_ca.or(weaker.etcd_ca),
            etcd_cert: self.etcd_cert.or(weaker.etcd_cert),
            etcd_key: self.etcd_key.or(weaker.etcd_key),
            etcd_user: self.etcd_user.or(weaker.etcd_user),
            etcd_password_file: self.etcd_password_file.or(weaker.etcd_password_file),
            underlay: self.underlay.or(weaker.underlay),
            datapath: self.datapath.or(weaker.datapath),
            port: self.port.or(weaker.port),
            mtu: self.mtu.or(weaker.mtu),
            udp6_zero_checksum: self.udp6_zero_checksum.or(weaker.udp6_zero_checksum),
            reserved_bits: self.reserved_bits.or(weaker.reserved_bits),
            run_dir: self.run_dir.or(weaker.run_dir),
            state_dir: self.state_dir.or(weaker.state_dir),
            bpffs: self.bpffs.or(weaker.bpffs),
            log: self.log.or(weaker.log),
            max_endpoints: self.max_endpoints.or(weaker.max_endpoints),
            verify_every: self.verify_every.or(weaker.verify_every),
            docker: self.docker.or(weaker.docker),
            docker_plugin: self.docker_plugin.or(weaker.docker_plugin),
            docker_scope: self.docker_scope.or(weaker.docker_scope),
            dns: self.dns.or(weaker.dns),
            dns_upstream: self.dns_upstream.or(weaker.dns_upstream),
        }
    }
}

fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a text or a list of texts")]
    enum OneOrMore {
        One(String),
        More(Vec<String>),
    }
    Ok(Some(match OneOrMore::deserialize(deserializer)? {
        OneOrMore::One(one) => one.split(',').map(str::to_owned).collect(),
        OneOrMore::More(more) => more,
    }))
}
