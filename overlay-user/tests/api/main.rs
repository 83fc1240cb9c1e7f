//! The control interface on a real etcd.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as the test does")]

#[path = "../etcd/mod.rs"]
#[expect(dead_code, reason = "what other tests need as well")]
mod etcd;

use std::{
    fs::File,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use overlay_user::{
    api::{ApiError, Client, ClientError, Context, ControlSocket, Kind, router, serve},
    daemon::{Absences, Journal, Known, Membership, Progress, Source},
    datapath::{Mode, Underlay},
    state::EndpointId,
};
use tokio::{
    io::AsyncWriteExt as _,
    net::UnixStream,
    process::Command,
    sync::{mpsc, watch},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use etcd::{Etcd, PATIENCE, attach, new_network, node, node_record};

/// Node n1's control interface, and one other node and network in the store.
struct Daemon {
    etcd: Etcd,
    directory: tempfile::TempDir,
    cancel: CancellationToken,
}

impl Daemon {
    async fn start() -> Self {
        let etcd = Etcd::start().await;
        let store = etcd.store();
        store.join(&node("n1"), node_record("192.0.2.1")).await.unwrap();
        store.join(&node("n2"), node_record("192.0.2.2")).await.unwrap();
        store.create_network(new_network("blue")).await.unwrap();

        let cancel = CancellationToken::new();
        let followed = store.follow(cancel.clone());
        let (known, known_seen) = watch::channel(Known::default());
        let (progress, progress_seen) = watch::channel(Progress::default());
        let mut source = followed.clone();
        tokio::spawn(async move {
            // What the daemon's other parts do, with nothing to forward.
            while source.changed().await.is_ok() {
                let state = Arc::clone(&source.borrow_and_update().state);
                let applied = Some(state.revision);
                known.send_replace(Known { state, source: Source::Store });
                progress.send_replace(Progress { applied, ..Progress::default() });
            }
        });
        let (_, underlay) = watch::channel(Underlay {
            ifindex: 2,
            name: "eth0".to_owned(),
            driver: "veth".to_owned(),
            addr: "192.0.2.1".parse().unwrap(),
            mac: "02:00:00:00:00:01".parse().unwrap(),
            mtu: 1500,
            port: 4789,
            udp6_zero_checksum: false,
            peers: [].into(),
            routes: [].into(),
        });
        let directory = tempfile::tempdir().unwrap();
        let context = Context {
            store,
            node: node("n1"),
            cluster: "default".to_owned(),
            port: 4789,
            followed,
            known: known_seen.clone(),
            underlay,
            progress: progress_seen,
            membership: watch::channel(Membership::Joined(1)).1,
            absences: watch::channel(Absences::default()).1,
            journal: Journal::new(directory.path()),
            counters: mpsc::channel(1).0,
            audits: mpsc::channel(1).0,
            docker: None,
            mode: Mode::Kernel,
            reason: "test".to_owned(),
            dns: None,
        };
        let socket = ControlSocket::bind(directory.path()).unwrap();
        tokio::spawn(serve(socket, router(Arc::new(context)), cancel.clone()));
        let daemon = Self { etcd, directory, cancel };
        daemon.until("the network", async |client| client.networks().await.unwrap().len() == 1).await;
        daemon
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("overlayd.sock")
    }

    fn client(&self) -> Client {
        Client::new(self.socket())
    }

    async fn until(&self, what: &str, is: impl AsyncFn(Client) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is(self.client()).await {
            assert!(Instant::now() < deadline, "{what} did not come");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// An endpoint in the store that this daemon lists.
    async fn endpoint(&self, at: &str, name: &str) -> EndpointId {
        let (id, _) = attach(&self.etcd.store(), "blue", at, name, None).await;
        self.until("the endpoint", async |client| {
            client.endpoints(None).await.unwrap().iter().any(|endpoint| endpoint.id == id)
        })
        .await;
        id
    }

    fn signal_etcd(&self, signal: Signal) {
        kill(Pid::from_raw(self.etcd.pid()), signal).unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>) -> ApiError {
    match result.unwrap_err() {
        ClientError::Refused(error) => error,
        other => panic!("{other}"),
    }
}

/// A record that somebody damaged must not hold its address and its network for ever.
#[tokio::test]
async fn an_endpoint_that_is_left_out_is_detached_from_the_store_too() {
    let daemon = Daemon::start().await;
    let id = daemon.endpoint("n1", "web").await;
    daemon.etcd.put(&format!("endpoints/blue/{id}"), "{").await;
    daemon.until("the damage", async |client| client.endpoints(None).await.unwrap().is_empty()).await;
    let blue = "blue".parse().unwrap();
    let error = refused(daemon.client().remove_network(&blue).await);
    assert_eq!(error.kind, Kind::Conflict, "{error}");

    daemon.client().detach(&id.to_string().parse().unwrap()).await.unwrap();
    assert_eq!(daemon.etcd.get(&format!("endpoints/blue/{id}")).await, None);
    daemon.client().remove_network(&blue).await.unwrap();
    // Whoever asks twice wants it gone.
    daemon.client().detach(&id.to_string().parse().unwrap()).await.unwrap();
}

#[tokio::test]
async fn nobody_is_told_that_an_endpoint_is_gone_without_the_store() {
    let mut daemon = Daemon::start().await;
    let id = daemon.endpoint("n1", "web").await;
    daemon.etcd.put(&format!("endpoints/blue/{id}"), "{").await;
    daemon.until("the damage", async |client| client.endpoints(None).await.unwrap().is_empty()).await;
    daemon.etcd.kill();
    let error = refused(daemon.client().detach(&id.to_string().parse().unwrap()).await);
    assert_eq!(error.kind, Kind::Unavailable, "{error}");
}

#[tokio::test]
async fn another_nodes_endpoint_is_not_detached_here_though_it_is_left_out() {
    let daemon = Daemon::start().await;
    let id = daemon.endpoint("n2", "web").await;
    let record = r#"{"node":"n2","mac":"02:00:00:00:00:01","addresses":["10.9.9.9"]}"#;
    daemon.etcd.put(&format!("endpoints/blue/{id}"), record).await;
    daemon.until("the damage", async |client| client.endpoints(None).await.unwrap().is_empty()).await;
    let error = refused(daemon.client().detach(&id.to_string().parse().unwrap()).await);
    assert!(error.kind == Kind::Conflict && error.error.contains("is on n2"), "{error}");
}

#[tokio::test]
async fn a_detach_goes_on_when_nobody_waits_for_it_any_more() {
    let daemon = Daemon::start().await;
    let id = daemon.endpoint("n1", "web").await;
    daemon.signal_etcd(Signal::SIGSTOP);
    let mut stream = UnixStream::connect(daemon.socket()).await.unwrap();
    let request = format!("DELETE /v1/endpoints/{id} HTTP/1.1\r\nhost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    sleep(Duration::from_millis(300)).await;
    drop(stream);
    sleep(Duration::from_millis(300)).await;
    daemon.signal_etcd(Signal::SIGCONT);
    daemon.until("the end", async |client| client.endpoints(None).await.unwrap().is_empty()).await;
}

fn overlayctl(socket: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_overlayctl"));
    command.arg("--socket").arg(socket).args(arguments);
    command
}

#[tokio::test]
async fn a_result_that_nobody_could_read_is_a_failure() {
    let daemon = Daemon::start().await;
    let mut command = overlayctl(&daemon.socket(), &["network", "ls"]);
    let full = command.stdout(File::options().write(true).open("/dev/full").unwrap());
    let output = full.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("could not be printed: No space left"), "{said}");
}

#[tokio::test]
async fn a_daemon_that_does_not_answer_is_down_and_said_to_be_in_time() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("overlayd.sock");
    let _silent = UnixListener::bind(&socket).unwrap();
    let begun = Instant::now();
    let output = overlayctl(&socket, &["status"]).output().await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("did not answer within") && said.lines().count() == 1, "{said}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}
