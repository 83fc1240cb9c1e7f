//! A real etcd of a test's own, and what tests ask of it.

use std::{
    net::Ipv4Addr,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use etcd_client::{Client, ConnectOptions, TlsOptions};
use overlay_user::{
    MacAddr,
    state::{EndpointId, EndpointRecord, NetworkName, NodeName, NodeRecord, PolicyChange},
    store::{Followed, NewNetwork, Reservation, Store, StoreOptions},
};
use tempfile::TempDir;
use tokio::{sync::watch, time::Instant};

/// What a test waits for comes by then or never.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The prefix of all keys of the tests' cluster.
pub const PREFIX: &str = "/overlay/v1/default/";

/// An etcd in a directory and on a loopback address of its own; killed when dropped.
pub struct Etcd {
    dir: TempDir,
    ip: Ipv4Addr,
    /// What clients need for TLS, and the flags etcd needs for it.
    tls: Option<(TlsOptions, Vec<String>)>,
    process: Option<Child>,
}

impl Etcd {
    /// Starts one and waits until it answers.
    pub async fn start() -> Self {
        let mut etcd = Self::unstarted();
        etcd.restart().await;
        etcd
    }

    /// Only the address; nothing listens there.
    pub fn unstarted() -> Self {
        static COUNT: AtomicU8 = AtomicU8::new(1);
        let [.., b, c, d] = std::process::id().to_be_bytes();
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let ip = Ipv4Addr::new(127, 1 + (b.wrapping_add(c) % 250), d, n);
        Self { dir: tempfile::tempdir().unwrap(), ip, tls: None, process: None }
    }

    /// From the next start on it is reached by TLS.
    pub fn set_tls(&mut self, client: TlsOptions, flags: Vec<String>) {
        self.tls = Some((client, flags));
    }

    pub fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}:2379", self.ip)
    }

    /// Kills it and starts it on the same data and address.
    pub async fn restart(&mut self) {
        self.kill();
        let (url, peer) = (self.url(), format!("http://{}:2380", self.ip));
        let mut command = Command::new("etcd");
        command
            // What it has written outlives its being killed all the same.
            .args(["--name", "test", "--log-level", "error", "--unsafe-no-fsync"])
            .arg("--data-dir")
            .arg(self.data())
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("test={peer}")])
            .args(self.tls.iter().flat_map(|(_, flags)| flags))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // SAFETY: prctl is async-signal-safe and touches only the child.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        self.process = Some(command.spawn().expect("etcd is needed: apt-get install etcd-server"));
        let deadline = Instant::now() + PATIENCE;
        while !self.answers().await {
            assert!(Instant::now() < deadline, "etcd does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Kills it, throws its data away and starts it anew.
    pub async fn wipe(&mut self) {
        self.kill();
        std::fs::remove_dir_all(self.data()).unwrap();
        self.restart().await;
    }

    /// Where its data is.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn pid(&self) -> i32 {
        self.process.as_ref().unwrap().id().try_into().unwrap()
    }

    /// A client that goes past the code under test.
    pub async fn client(&self) -> Client {
        self.connect().await.unwrap()
    }

    pub async fn put(&self, key: &str, value: impl Into<Vec<u8>>) {
        self.client().await.put(format!("{PREFIX}{key}"), value, None).await.unwrap();
    }

    pub async fn delete(&self, key: &str) {
        self.client().await.delete(format!("{PREFIX}{key}"), None).await.unwrap();
    }

    pub async fn get(&self, key: &str) -> Option<String> {
        let answer = self.client().await.get(format!("{PREFIX}{key}"), None).await.unwrap();
        answer.kvs().first().map(|kv| kv.value_str().unwrap().to_owned())
    }

    pub fn options(&self) -> StoreOptions {
        StoreOptions {
            endpoints: vec![self.url()],
            cluster: "default".to_owned(),
            tls: None,
            credentials: None,
        }
    }

    pub fn store(&self) -> Store {
        Store::new(self.options()).unwrap()
    }

    async fn connect(&self) -> Result<Client, etcd_client::Error> {
        let options = self.tls.as_ref().map(|(tls, _)| ConnectOptions::new().with_tls(tls.clone()));
        Client::connect([self.url()], options).await
    }

    async fn answers(&self) -> bool {
        let Ok(mut client) = self.connect().await else {
            return false;
        };
        tokio::time::timeout(Duration::from_secs(1), client.get("ready", None)).await.is_ok_and(|r| r.is_ok())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until what is followed is as `is` says.
pub async fn until(
    followed: &mut watch::Receiver<Followed>,
    what: &str,
    is: impl Fn(&Followed) -> bool,
) -> Followed {
    let found =
        tokio::time::timeout(PATIENCE, followed.wait_for(is)).await.map(|found| found.unwrap().clone());
    found.unwrap_or_else(|_| panic!("{what} did not come: {:#?}", *followed.borrow()))
}

pub fn network(name: &str) -> NetworkName {
    name.parse().unwrap()
}

pub fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

pub fn node_record(vtep: &str) -> NodeRecord {
    NodeRecord {
        vtep: vtep.parse().unwrap(),
        port: 4789,
        mtu: Some(1500),
        datapath: "tc".to_owned(),
        reason: "test".to_owned(),
        version: "0".to_owned(),
        incarnation: 0,
        moved: 0,
        drained: false,
        prefixes: Vec::new(),
        is_static: false,
    }
}

pub fn new_network(name: &str) -> NewNetwork {
    NewNetwork {
        name: network(name),
        subnets: Vec::new(),
        gateways: Vec::new(),
        ranges: Vec::new(),
        vni: None,
        mtu: None,
        internal: false,
        policy: PolicyChange::default(),
        allow_overlap: false,
        aux: std::collections::BTreeMap::new(),
        docker: None,
    }
}

pub fn endpoint_record(node_name: &str, reservation: &Reservation, names: &[&str]) -> EndpointRecord {
    let addresses: Vec<_> = reservation.addresses.iter().map(|reserved| reserved.address.addr()).collect();
    let mac = match addresses[0] {
        std::net::IpAddr::V4(v4) => MacAddr::of_ipv4(v4),
        std::net::IpAddr::V6(v6) => MacAddr::of_ipv6(v6),
    };
    EndpointRecord {
        node: node(node_name),
        mac: mac.to_string(),
        addresses,
        names: names.iter().map(|&name| name.to_owned()).collect(),
        container: "test".to_owned(),
        ifname: "eth0".to_owned(),
        incarnation: 1,
        delivery: String::new(),
    }
}

/// Reserves and binds in one go.
pub async fn attach(
    store: &Store,
    to: &str,
    at: &str,
    name: &str,
    ip: Option<&str>,
) -> (EndpointId, EndpointRecord) {
    let id = EndpointId::random();
    let wanted: Vec<_> = ip.into_iter().map(|ip| ip.parse().unwrap()).collect();
    let reservation =
        store.reserve_addresses(&network(to), &node(at), &id, Some(name), &wanted).await.unwrap();
    let record = endpoint_record(at, &reservation, &[name]);
    store.bind_endpoint(&reservation, &record).await.unwrap();
    (id, record)
}
