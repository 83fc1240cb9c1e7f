use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, net::UnixListener as StdListener},
    path::Path,
    sync::Arc,
    time::Instant,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    config::{Config, Options, SOCKET},
    daemon::{Absences, CounterRequest, Journal, Known, Membership, Progress, Source},
    datapath::{Counters, Mode, Underlay},
    state::{RawRecord, RecordSet, State},
    store::{Followed, Store, StoreHealth},
};

fn state() -> State {
    let mut records = RecordSet::default();
    let endpoint = |node, last: u8, name| {
        format!(
            r#"{{"node":"{node}","mac":"02:42:0a:00:09:{last:02x}","addresses":["10.0.9.{last}"],"names":["{name}"]}}"#
        )
    };
    for (key, value) in [
        ("networks/blue", r#"{"vni":7,"subnet":"10.0.9.0/24","gateway":"10.0.9.1"}"#.to_owned()),
        (
            "nodes/n1",
            r#"{"vtep":"192.0.2.1","port":4789,"datapath":"kernel","reason":"asked for"}"#.to_owned(),
        ),
        ("nodes/n2", r#"{"vtep":"192.0.2.2","port":4789,"datapath":"xdp","reason":"it works"}"#.to_owned()),
        ("alive/n2", r#"{"incarnation":1}"#.to_owned()),
        ("endpoints/blue/aaaaaaaaaaaa", endpoint("n1", 2, "web")),
        ("endpoints/blue/aaaabbbbbbbb", endpoint("n2", 3, "db")),
        ("endpoints/blue/cccccccccccc", "nonsense".to_owned()),
    ] {
        let value = value.as_bytes();
        records.put(RawRecord { key: key.as_bytes(), value, create_revision: 1 });
    }
    records.state(42)
}

/// A daemon's control interface on a state, without a store that answers.
struct Daemon {
    directory: tempfile::TempDir,
    cancel: CancellationToken,
    served: JoinHandle<std::io::Result<()>>,
    _parts: Parts,
}

/// Ends of the channels that a daemon's other parts hold: dropped, they would seem to have stopped.
type Parts = (
    watch::Sender<Followed>,
    watch::Sender<Known>,
    watch::Sender<Underlay>,
    watch::Sender<Progress>,
    watch::Sender<Membership>,
);

impl Daemon {
    fn start(progress: Progress) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = Options {
            node: Some("n1".to_owned()),
            etcd: Some(vec!["http://127.0.0.1:1".to_owned()]),
            ..Options::default()
        };
        let config = Config::new(options, None).unwrap();
        let state = Arc::new(state());
        let (followed, followed_seen) =
            watch::channel(Followed { state: state.clone(), health: StoreHealth::Synced });
        let (known, known_seen) = watch::channel(Known { state, source: Source::Store });
        let (underlay, underlay_seen) = watch::channel(Underlay {
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
        let (progress, progress_seen) = watch::channel(progress);
        let (membership, membership_seen) = watch::channel(Membership::Joined(1));
        let (counters, mut requests) = mpsc::channel::<CounterRequest>(1);
        tokio::spawn(async move {
            while let Some(reply) = requests.recv().await {
                let _ = reply.send(Ok(Counters::default()));
            }
        });
        let context = Context {
            store: Store::new(config.store).unwrap(),
            node: config.node,
            cluster: "default".to_owned(),
            port: 4789,
            followed: followed_seen,
            known: known_seen,
            underlay: underlay_seen,
            progress: progress_seen,
            membership: membership_seen,
            absences: watch::channel(Absences::default()).1,
            journal: Journal::new(directory.path()),
            counters,
            audits: mpsc::channel(1).0,
            docker: None,
            mode: Mode::Kernel,
            reason: "--datapath kernel".to_owned(),
            dns: None,
        };
        let cancel = CancellationToken::new();
        let socket = ControlSocket::bind(directory.path()).unwrap();
        let served = tokio::spawn(serve(socket, router(Arc::new(context)), cancel.clone()));
        Self { directory, cancel, served, _parts: (followed, known, underlay, progress, membership) }
    }

    fn client(&self) -> Client {
        Client::new(self.directory.path().join(SOCKET))
    }

    /// Sends bytes as they are and returns the answer's status line and body.
    async fn raw(&self, request: &[u8]) -> (String, String) {
        let mut stream = UnixStream::connect(self.directory.path().join(SOCKET)).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        // The server may close with some of the request unread; what it said before that counts.
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }

    async fn post(&self, path: &str, body: &str) -> (String, String) {
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        self.raw(request.as_bytes()).await
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>) -> ApiError {
    match result.unwrap_err() {
        ClientError::Refused(error) => error,
        other => panic!("{other}"),
    }
}

fn up_to_date() -> Progress {
    Progress { applied: Some(42), ..Progress::default() }
}

#[tokio::test]
async fn lists_come_from_the_followed_state() {
    let daemon = Daemon::start(up_to_date());
    let client = daemon.client();
    let networks = client.networks().await.unwrap();
    assert_eq!(networks.len(), 1);
    assert_eq!((networks[0].vni, networks[0].endpoints), (7, 2));
    let detail = client.network(&"blue".parse().unwrap()).await.unwrap();
    assert_eq!(detail.members[0].host_device.as_deref(), Some("ovaaaaaaaaaaaa"));
    assert_eq!(detail.members[1].host_device, None);
    let endpoint = client.endpoint(&"web".parse().unwrap()).await.unwrap();
    assert_eq!(endpoint.endpoint.id.to_string(), "aaaaaaaaaaaa");
    assert!(endpoint.traffic.is_some());
    let nodes = client.nodes().await.unwrap();
    assert_eq!(
        nodes.iter().map(|n| (n.state, n.this)).collect::<Vec<_>>(),
        [(Liveness::Suspect, true), (Liveness::Alive, false)]
    );
}

#[tokio::test]
async fn endpoints_are_found_by_unambiguous_beginnings_and_names() {
    let daemon = Daemon::start(up_to_date());
    let client = daemon.client();
    for (text, id) in [("aaaaa", "aaaaaaaaaaaa"), ("aaaab", "aaaabbbbbbbb"), ("db", "aaaabbbbbbbb")] {
        let found = client.endpoint(&text.parse().unwrap()).await.unwrap();
        assert_eq!(found.endpoint.id.to_string(), id, "{text}");
    }
    let error = refused(client.endpoint(&"aaaa".parse().unwrap()).await);
    assert_eq!(
        (error.kind, error.error.as_str()),
        (
            Kind::Conflict,
            "aaaa stands for 2 endpoints, aaaaaaaaaaaa on blue and aaaabbbbbbbb on blue among them: give a whole id"
        )
    );
    let error = refused(client.endpoint(&"cache".parse().unwrap()).await);
    assert_eq!(
        (error.kind, error.error.as_str()),
        (Kind::NotFound, "no endpoint has the id or name cache: `overlayctl endpoint ls` lists them")
    );
}

#[tokio::test]
async fn another_nodes_endpoint_is_not_detached_here() {
    let daemon = Daemon::start(up_to_date());
    let error = refused(daemon.client().detach(&"db".parse().unwrap()).await);
    assert_eq!(
        (error.kind, error.error.as_str()),
        (
            Kind::Conflict,
            "db is on n2: detach it there, or, if that node is gone for good, `overlayctl node rm n2`"
        )
    );
}

#[tokio::test]
async fn status_tells_what_is_wrong() {
    let daemon = Daemon::start(Progress { problems: vec!["a thing".to_owned()], ..up_to_date() });
    let status = daemon.client().status().await.unwrap();
    assert_eq!(status.health, Health::Degraded);
    assert_eq!(
        status.degraded,
        [
            "a thing",
            "n2, which is alive, cannot be reached: no route to 192.0.2.2 from eth0 (`ip route get 192.0.2.2`)"
        ]
    );
    assert_eq!((status.store.revision, status.store.applied), (42, Some(42)));
    assert_eq!((status.endpoints_local, status.endpoints_remote), (1, 1));
    assert_eq!(status.rejected.keys().collect::<Vec<_>>(), ["endpoints/blue/cccccccccccc"]);
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_in_json() {
    let daemon = Daemon::start(up_to_date());
    for (path, body, status, expected) in [
        (
            "/v1/networks",
            "{",
            "400 Bad Request",
            "the request is malformed: EOF while parsing an object at line 1 column 1",
        ),
        ("/v1/networks", r#"{"name":"../x"}"#, "400 Bad Request", "the request is malformed: network name "),
        (
            "/v1/networks",
            r#"{"name":"a","sub":1}"#,
            "400 Bad Request",
            "the request is malformed: unknown field `sub`",
        ),
        (
            "/v1/networks",
            r#"{"name":"a","vni":16777216}"#,
            "400 Bad Request",
            "--vni: 16777216 is not a VNI: it must be 1 to 16777215",
        ),
        (
            "/v1/endpoints",
            r#"{"network":"a","netns":{"path":"x"},"ifname":"eth0"}"#,
            "400 Bad Request",
            "--netns x: give an absolute path",
        ),
        (
            "/v1/endpoints",
            r#"{"network":"a","netns":{"path":"/nowhere"},"ifname":"eth0"}"#,
            "400 Bad Request",
            "--netns /nowhere: there is no such network namespace",
        ),
        (
            "/v1/endpoints",
            r#"{"network":"a","netns":{"pid":0},"ifname":"e/0"}"#,
            "400 Bad Request",
            "the request is malformed: interface name ",
        ),
        (
            "/v1/endpoints",
            r#"{"network":"a","netns":{"path":"/proc/self/ns/net"},"ifname":"e","mac":"ff:ff:ff:ff:ff:ff"}"#,
            "400 Bad Request",
            "--mac ff:ff:ff:ff:ff:ff: an interface has a unicast address",
        ),
        ("/v1/nothing", "", "404 Not Found", "there is no such request"),
        ("/v1/status", "", "405 Method Not Allowed", "this cannot be done to that"),
    ] {
        let (line, answer) = daemon.post(path, body).await;
        assert_eq!(line, format!("HTTP/1.1 {status}"), "{path} {body}");
        let error: ApiError = serde_json::from_str(&answer).unwrap();
        assert!(error.error.starts_with(expected), "{}", error.error);
    }
}

#[tokio::test]
async fn a_body_without_end_is_cut_off() {
    let daemon = Daemon::start(up_to_date());
    let body = format!(r#"{{"name":"{}"}}"#, "x".repeat(MAX_BODY));
    let (line, answer) = daemon.post("/v1/networks", &body).await;
    assert_eq!(line, "HTTP/1.1 413 Payload Too Large");
    assert_eq!(answer, r#"{"error":"the request is larger than 65536 bytes","kind":"invalid"}"#);
    assert_eq!(daemon.client().networks().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_socket_nobody_listens_on_is_said_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(SOCKET);
    let shown = path.display();
    let says = async || {
        let start = Instant::now();
        let error = Client::new(&path).status().await.unwrap_err();
        assert!(start.elapsed().as_millis() < 1000);
        assert!(matches!(error, ClientError::NotRunning { .. }));
        error.to_string()
    };
    let expected = format!(
        "overlayd does not answer on {shown}: is it running? Start it, or name its socket with --socket"
    );
    assert_eq!(says().await, format!("{expected} (No such file or directory (os error 2))"));
    drop(StdListener::bind(&path).unwrap());
    assert_eq!(says().await, format!("{expected} (Connection refused (os error 111))"));
}

#[tokio::test]
async fn what_is_no_daemon_is_told_apart_from_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(SOCKET);
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"220 mail.example.com ESMTP\r\n").await;
        }
    });
    let error = Client::new(&path).status().await.unwrap_err();
    assert!(matches!(error, ClientError::Garbled { .. }), "{error}");
}

fn in_use(run_dir: &Path) -> bool {
    matches!(ControlSocket::bind(run_dir), Err(SocketError::InUse { .. }))
}

#[tokio::test]
async fn a_run_directory_has_one_daemon() {
    let daemon = Daemon::start(up_to_date());
    let run_dir = daemon.directory.path();
    let mode = fs::metadata(run_dir.join(SOCKET)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let lock = fs::metadata(run_dir.join("overlayd.lock")).unwrap().permissions().mode();
    assert_eq!(lock & 0o077, 0, "who can open it can lock it");
    assert!(in_use(run_dir));
    assert_eq!(
        ControlSocket::bind(run_dir).unwrap_err().to_string(),
        format!(
            "another overlayd runs here, on {}: stop it, or give this one a --run-dir of its own",
            run_dir.join(SOCKET).display()
        )
    );
    assert!(daemon.client().status().await.is_ok(), "the refused one must not harm the first");

    daemon.cancel.cancel();
    daemon.served.await.unwrap().unwrap();
    assert!(!run_dir.join(SOCKET).exists());
    drop(ControlSocket::bind(run_dir).unwrap());
}

#[tokio::test]
async fn only_a_socket_nobody_listens_on_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(SOCKET);
    let other = StdListener::bind(&path).unwrap();
    assert!(in_use(directory.path()));
    assert!(path.exists());
    drop(other);
    let socket = ControlSocket::bind(directory.path()).unwrap();
    assert!(path.exists());
    drop(socket);
    assert!(!path.exists());
}
