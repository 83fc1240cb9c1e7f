//! The resolver in real network namespaces, asked by real clients.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    path::PathBuf,
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{RData, Record, RecordType, rdata::A},
};
use overlay_user::{
    daemon::{Known, Source},
    dns::{self, DEFAULT_ADDRESS, HOST_DEVICE, Outcome, Resolver, Scopes, Settings},
    state::{RawRecord, RecordSet},
};
use tokio::{runtime::Runtime, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::netns::Netns;

/// Everything is there sooner than this, but for a machine that is very busy.
const SOON: Duration = Duration::from_secs(15);

/// A resolver on a runtime of its own, with the records and scopes it goes by.
struct Served {
    _runtime: Runtime,
    resolver: Arc<Resolver>,
    records: RecordSet,
    revision: i64,
    known: watch::Sender<Known>,
    scopes: watch::Sender<Scopes>,
}

impl Served {
    fn start(upstreams: Vec<SocketAddr>) -> Self {
        let (known, known_seen) = watch::channel(Known::default());
        let (scopes, scopes_seen) = watch::channel(Scopes::default());
        let resolver = Resolver::new(Settings { addr: DEFAULT_ADDRESS, upstreams, docker: None });
        let runtime = Runtime::new().unwrap();
        runtime.spawn(Arc::clone(&resolver).run(known_seen, scopes_seen, CancellationToken::new()));
        let records = RecordSet::default();
        let mut served = Self { _runtime: runtime, resolver, records, revision: 0, known, scopes };
        served.put("nodes/n1", r#"{"vtep":"192.0.2.1","port":4789}"#);
        served.put("alive/n1", r#"{"incarnation":1}"#);
        served.put("networks/blue", r#"{"vni":7,"subnet":"10.0.9.0/24","gateway":"10.0.9.1"}"#);
        served.put("networks/red", r#"{"vni":8,"subnet":"10.0.8.0/24","gateway":"10.0.8.1"}"#);
        served.endpoint("blue", 2, "web");
        served.endpoint("red", 3, "db");
        served.publish();
        served
    }

    fn put(&mut self, key: &str, value: &str) {
        self.revision += 1;
        let (key, value) = (key.as_bytes(), value.as_bytes());
        self.records.put(RawRecord { key, value, create_revision: self.revision });
    }

    fn endpoint(&mut self, network: &str, number: u8, name: &str) {
        let subnet = if network == "blue" { 9 } else { 8 };
        let value = format!(
            r#"{{"node":"n1","mac":"02:00:00:00:00:{number:02x}","addresses":["10.0.{subnet}.{number}"],"names":["{name}"]}}"#
        );
        self.put(&format!("endpoints/{network}/{number:012x}"), &value);
    }

    fn publish(&mut self) {
        let state = self.records.state(self.revision);
        assert!(state.rejected.is_empty(), "{:?}", state.rejected);
        self.known.send_replace(Known { state: Arc::new(state), source: Source::Store });
    }

    fn serve(&self, sandboxes: &[(&Netns, &[&str])]) {
        let scopes: BTreeMap<PathBuf, dns::Scope> = sandboxes
            .iter()
            .map(|(netns, networks)| {
                (netns.path(), networks.iter().map(|network| network.parse().unwrap()).collect())
            })
            .collect();
        self.scopes.send_replace(Arc::new(scopes));
    }
}

/// A name server of the world, on the host's loopback interface, which knows `example.com`.
fn world() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut bytes = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut bytes) {
            let mut answer = Message::from_vec(&bytes[..len]).unwrap().into_response();
            let name = answer.queries[0].name.clone();
            if name == "example.com.".parse().unwrap() {
                answer.add_answer(Record::from_rdata(
                    name,
                    60,
                    RData::A(A::from(Ipv4Addr::new(192, 0, 2, 80))),
                ));
            } else {
                answer.metadata.response_code = ResponseCode::NXDomain;
            }
            socket.send_to(&answer.to_vec().unwrap(), from).unwrap();
        }
    });
    at
}

fn query(name: &str, kind: RecordType) -> Vec<u8> {
    let mut query = Message::new(7, MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(name.parse().unwrap(), kind));
    query.to_vec().unwrap()
}

/// The code and what was answered; the error if nobody has.
fn told(answer: &[u8]) -> String {
    let answer = Message::from_vec(answer).unwrap();
    let mut words = vec![format!("{:?}", answer.response_code)];
    words.extend(answer.answers.iter().map(|record| record.data.to_string()));
    words.join(" ")
}

fn ask(from: &Netns, name: &str, kind: RecordType) -> String {
    from.run(async || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut answer = [0; 512];
        let asked = socket.connect((DEFAULT_ADDRESS, 53)).and_then(|()| socket.send(&query(name, kind)));
        match asked.and_then(|_| socket.recv(&mut answer)) {
            Ok(len) => told(&answer[..len]),
            Err(error) => format!("{:?}", error.kind()),
        }
    })
}

fn ask_by_stream(from: &Netns, names: &[&str]) -> Vec<String> {
    from.run(async || {
        let mut stream = TcpStream::connect((DEFAULT_ADDRESS, 53)).unwrap();
        let mut ask = |name: &&str| {
            let query = query(name, RecordType::A);
            stream.write_all(&u16::try_from(query.len()).unwrap().to_be_bytes()).unwrap();
            stream.write_all(&query).unwrap();
            let mut len = [0; 2];
            stream.read_exact(&mut len).unwrap();
            let mut answer = vec![0; u16::from_be_bytes(len).into()];
            stream.read_exact(&mut answer).unwrap();
            told(&answer)
        };
        names.iter().map(&mut ask).collect()
    })
}

#[track_caller]
fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < SOON, "not in time: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[track_caller]
fn answers(from: &Netns, name: &str, expected: &str) {
    let mut last = String::new();
    eventually(&format!("{name}: {expected}"), || {
        last = ask(from, name, RecordType::A);
        last == expected
    });
}

#[test]
fn containers_find_each_other_by_the_names_of_their_own_networks() {
    let mut served = Served::start(vec![world()]);
    let (one, two, both) = (Netns::new("one"), Netns::new("two"), Netns::new("both"));
    two.ip("link set lo down");
    served.serve(&[(&one, &["blue"]), (&two, &["red"]), (&both, &["blue", "red"])]);

    answers(&one, "web.", "NoError 10.0.9.2");
    answers(&two, "db.", "NoError 10.0.8.3");
    answers(&both, "db.", "NoError 10.0.8.3");
    for (from, name, kind, expected) in [
        (&one, "Web.Blue.", RecordType::A, "NoError 10.0.9.2"),
        (&one, "web.", RecordType::AAAA, "NoError"),
        (&one, "2.9.0.10.in-addr.arpa.", RecordType::PTR, "NoError web.blue."),
        (&one, "nobody.blue.", RecordType::A, "NXDomain"),
        (&one, "db.", RecordType::A, "NXDomain"),
        (&one, "db.red.", RecordType::A, "NXDomain"),
        (&one, "3.8.0.10.in-addr.arpa.", RecordType::PTR, "NXDomain"),
        (&two, "web.", RecordType::A, "NXDomain"),
        (&both, "web.blue.", RecordType::A, "NoError 10.0.9.2"),
        (&one, "example.com.", RecordType::A, "NoError 192.0.2.80"),
    ] {
        assert_eq!(ask(from, name, kind), expected, "{name} {kind}");
    }
    assert_eq!(
        ask_by_stream(&one, &["web.", "example.com.", "db."]),
        ["NoError 10.0.9.2", "NoError 192.0.2.80", "NXDomain"]
    );
    assert_eq!(served.resolver.figures().sandboxes(), 3);
    for outcome in [Outcome::Answered, Outcome::Forwarded] {
        assert!(served.resolver.figures().of(outcome) >= 5, "{outcome:?}");
    }
    assert_eq!(served.resolver.problems(), Vec::<String>::new());

    // As a program would ask.
    let printed = one.exec(&format!("busybox nslookup web {DEFAULT_ADDRESS}"));
    assert!(printed.contains("10.0.9.2"), "{printed}");

    // What changes is answered at once.
    served.endpoint("blue", 2, "www");
    served.publish();
    answers(&one, "www.", "NoError 10.0.9.2");
    assert_eq!(ask(&one, "web.blue.", RecordType::A), "NXDomain");
    // One comes to a network while it runs.
    served.serve(&[(&one, &["blue", "red"]), (&two, &["red"])]);
    answers(&one, "db.", "NoError 10.0.8.3");

    // One that is on no network any more reaches the host by that address, if there is a way.
    eventually("the address is gone", || !both.ip("addr show lo").contains("169.254.53.53"));
    assert_ne!(ask(&both, "db.", RecordType::A), "NoError 10.0.8.3");
    served.serve(&[(&one, &["blue"]), (&both, &["red"])]);
    answers(&both, "db.", "NoError 10.0.8.3");
}

#[test]
fn a_namespace_whose_file_goes_is_let_go_and_another_of_its_name_served() {
    let served = Served::start(Vec::new());
    let (one, other) = (Netns::new("one"), Netns::new("other"));
    served.serve(&[(&one, &["blue"])]);
    answers(&one, "web.", "NoError 10.0.9.2");

    // Who has the other end of a pair sees when a namespace has really ended.
    other.ip(&format!("link add end0 type veth peer name eth0 netns {}", one.name()));
    let delete = |name: &str| Command::new("ip").args(["netns", "del", name]).status().unwrap();
    assert!(delete(one.name()).success());
    eventually("the namespace ends", || !other.ip("link").contains("end0"));
    eventually("it is said", || served.resolver.figures().sandboxes() == 0);

    assert!(Command::new("ip").args(["netns", "add", one.name()]).status().unwrap().success());
    answers(&one, "web.", "NoError 10.0.9.2");
    assert_eq!(served.resolver.problems(), Vec::<String>::new());
}

#[test]
fn a_container_may_run_a_name_server_of_its_own() {
    let served = Served::start(Vec::new());
    let (before, after) = (Netns::new("before"), Netns::new("after"));
    let listen = |netns: &Netns| {
        netns.run(async || {
            (UdpSocket::bind("0.0.0.0:53").unwrap(), std::net::TcpListener::bind("0.0.0.0:53").unwrap())
        })
    };
    let _own = listen(&before);
    served.serve(&[(&before, &["blue"]), (&after, &["blue"])]);
    answers(&after, "web.", "NoError 10.0.9.2");
    let _own = listen(&after);
    for netns in [&before, &after] {
        answers(netns, "web.", "NoError 10.0.9.2");
        assert_eq!(ask_by_stream(netns, &["web."]), ["NoError 10.0.9.2"]);
    }
}

#[test]
fn a_place_that_cannot_be_served_is_named_and_tried_again() {
    let served = Served::start(Vec::new());
    let one = Netns::new("one");
    assert!(Command::new("ip").args(["netns", "del", one.name()]).status().unwrap().success());
    std::fs::write(one.path(), "").unwrap();
    served.serve(&[(&one, &["blue"])]);
    eventually("it is named", || {
        let problems = served.resolver.problems();
        problems.iter().any(|problem| problem.contains(one.name()) && problem.contains("not bound"))
    });
    std::fs::remove_file(one.path()).unwrap();
    assert!(Command::new("ip").args(["netns", "add", one.name()]).status().unwrap().success());
    answers(&one, "web.", "NoError 10.0.9.2");
    assert_eq!(served.resolver.problems(), Vec::<String>::new());
}

#[test]
fn the_host_asks_others_for_containers_on_no_network() {
    let (host, guest) = (Netns::new("host"), Netns::new("guest"));
    host.ip(&format!("link add veth0 type veth peer name eth0 netns {}", guest.name()));
    host.ip("addr add 10.7.0.1/24 dev veth0");
    host.ip("link set veth0 up");
    guest.ip("addr add 10.7.0.2/24 dev eth0");
    guest.ip("link set eth0 up");
    guest.ip("route add default via 10.7.0.1");

    host.run(async || {
        let upstream = world();
        let resolver = Resolver::new(Settings {
            addr: DEFAULT_ADDRESS,
            upstreams: vec![upstream],
            docker: Some("/run".into()),
        });
        let (known, known_seen) = watch::channel(Known::default());
        let (_scopes, scopes) = watch::channel(Scopes::default());
        let cancel = CancellationToken::new();
        let running = tokio::spawn(resolver.run(known_seen, scopes, cancel.clone()));
        let mut records = RecordSet::default();
        let meta =
            RawRecord { key: b"nodes/n1", value: br#"{"vtep":"192.0.2.1","port":4789}"#, create_revision: 1 };
        records.put(meta);
        known.send_replace(Known { state: Arc::new(records.state(1)), source: Source::Store });
        tokio::task::spawn_blocking(move || {
            answers(&guest, "example.com.", "NoError 192.0.2.80");
            assert_eq!(ask(&guest, "web.", RecordType::A), "NXDomain");
        })
        .await
        .unwrap();
        cancel.cancel();
        running.await.unwrap();
    });
    // A kernel without dummy interfaces has it on the loopback interface.
    assert!(host.ip("addr").contains("inet 169.254.53.53/32"));
    host.run(async || {
        for _ in 0..2 {
            dns::remove_from_host(DEFAULT_ADDRESS).await.unwrap();
        }
    });
    assert!(!host.ip("addr").contains("169.254.53.53") && !host.ip("link").contains(HOST_DEVICE));
}
