//! The last state that was applied, on disk: what a restarted daemon forwards by while the store is
//! away. It holds records as the store does, and they are checked like the store's when read.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    io::{self, BufReader, BufWriter, ErrorKind},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    config::Config,
    state::{
        Endpoint, EndpointRecord, LearnedMac, LearnedRecord, Network, NetworkRecord, Node, NodeName,
        NodeRecord, PortRecord, RawRecord, RecordKey, RecordSet, State, Subnet, SubnetRecord,
    },
    store::{Seen, Store},
};

/// Version of the file's layout.
const VERSION: u32 = 1;

/// The least time between two writes: a large state takes a while, and many changes come at once.
const PAUSE: Duration = Duration::from_secs(1);

/// How often it is looked whether the store is another one meanwhile.
const LOOK: Duration = Duration::from_millis(100);

/// And that many times as long as a write took: what it costs is that share of a core at most.
const SHARE: u32 = 10;

/// The file of the last applied state.
pub struct SnapshotFile {
    path: PathBuf,
    cluster: String,
    node: NodeName,
    port: u16,
    store: Store,
    /// What was written last.
    written: Option<(Option<Uuid>, Vec<NodeName>, Arc<State>)>,
    /// How long that took.
    took: Duration,
    /// Writing failed: a full disk is worth one line, not thousands.
    complained: bool,
}

/// What was known when the last run ended.
pub struct LastRun {
    /// The state that was applied.
    pub state: State,
    /// What it was made of: who reads the store goes on from there.
    pub records: RecordSet,
}

/// What is in the file. It is written and read record by record: there may be a million.
#[derive(Serialize, Deserialize)]
struct Snapshot<R> {
    version: u32,
    cluster: String,
    node: NodeName,
    /// Which store it is from: another one, or an older copy of it, is not to be believed.
    seen: Seen,
    revision: i64,
    /// Nodes whose records are not the store's, and the revision since which they are waited for.
    #[serde(default)]
    awaited: Vec<NodeName>,
    #[serde(default)]
    awaited_since: i64,
    /// By their keys relative to the cluster's prefix.
    records: R,
}

// === impl SnapshotFile ===

impl SnapshotFile {
    /// The file that `config` names. It goes with what `store` has seen.
    #[must_use]
    pub fn new(config: &Config, store: Store) -> Self {
        Self {
            path: config.state_dir.join("state.json"),
            cluster: config.store.cluster.clone(),
            node: config.node.clone(),
            port: config.port,
            store,
            written: None,
            took: Duration::ZERO,
            complained: false,
        }
    }

    /// What is in the file, if it is of this node and cluster. Tells the store what was seen of it then.
    pub fn read(&self) -> Option<LastRun> {
        let path = self.path.display();
        let file = match File::open(&self.path) {
            Ok(file) => BufReader::new(file),
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(%error, "the state kept in {path} cannot be read");
                return None;
            }
        };
        match serde_json::from_reader::<_, Snapshot<Kept>>(file) {
            Ok(snapshot) if snapshot.version != VERSION => {
                tracing::warn!(version = snapshot.version, "the state kept in {path} is of another version");
                None
            }
            Ok(snapshot) if snapshot.cluster != self.cluster || snapshot.node != self.node => {
                let Snapshot { cluster, node, .. } = snapshot;
                tracing::warn!(%node, cluster, "the state kept in {path} is another node's");
                None
            }
            Ok(snapshot) => {
                self.store.expect(snapshot.seen);
                let Kept(mut records) = snapshot.records;
                let state = records.state(snapshot.revision);
                if !snapshot.awaited.is_empty()
                    && let Ok(known) = self::records(&state, self.port)
                {
                    self.store.await_again(snapshot.awaited_since, &snapshot.awaited, &known);
                }
                Some(LastRun { state, records })
            }
            Err(error) => {
                tracing::warn!(%error, "the state kept in {path} is damaged");
                None
            }
        }
    }

    /// Keeps every state that comes, the last one before `cancel` as well.
    pub async fn keep_all(mut self, mut states: watch::Receiver<Arc<State>>, cancel: CancellationToken) {
        loop {
            let ended = tokio::select! {
                changed = states.changed() => changed.is_err(),
                () = cancel.cancelled() => true,
                () = self.another_store(), if !self.complained => false,
            };
            let state = states.borrow_and_update().clone();
            if state.revision > 0 {
                let kept = tokio::task::spawn_blocking(move || {
                    self.keep(&state);
                    self
                });
                let Ok(back) = kept.await else { return };
                self = back;
            }
            if ended {
                return;
            }
            let pause = PAUSE.max(self.took * SHARE);
            tokio::select! {
                () = sleep(pause) => {},
                () = cancel.cancelled() => {},
                () = self.another_store(), if !self.complained => states.mark_changed(),
            }
        }
    }

    /// Ends when the node believes another store than the one that was written: a daemon that is killed now
    /// would come back to one that is gone.
    async fn another_store(&self) {
        while self.written.as_ref().is_none_or(|(cluster, ..)| *cluster == self.store.seen().cluster) {
            sleep(LOOK).await;
        }
    }

    /// Keeps `state`, unless what would be kept is the same as before.
    pub fn keep(&mut self, state: &Arc<State>) {
        let seen = self.store.seen();
        let awaited = self.store.awaited();
        let same = |(cluster, names, old): &(Option<Uuid>, Vec<NodeName>, Arc<State>)| {
            *cluster == seen.cluster
                && *names == awaited
                && (&old.networks, &old.nodes, &old.endpoints)
                    == (&state.networks, &state.nodes, &state.endpoints)
                && (&old.ports, &old.learned) == (&state.ports, &state.learned)
        };
        if self.written.as_ref().is_some_and(same) {
            return;
        }
        let begun = Instant::now();
        let written = self.write(state, seen);
        self.took = begun.elapsed();
        match written {
            Ok(()) => {
                self.written = Some((seen.cluster, awaited, Arc::clone(state)));
                self.store.note_kept(seen.cluster);
                self.complained = false;
            }
            Err(error) if !self.complained => {
                let path = self.path.display();
                tracing::warn!(%error, "{path} cannot be written: a restart without etcd would not know this state");
                self.complained = true;
            }
            Err(_) => {}
        }
    }

    fn write(&self, state: &State, seen: Seen) -> io::Result<()> {
        let snapshot = Snapshot {
            version: VERSION,
            cluster: self.cluster.clone(),
            node: self.node.clone(),
            seen,
            revision: state.revision,
            awaited: self.store.awaited(),
            awaited_since: self.store.awaited_since(),
            records: Records { state, port: self.port },
        };
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(directory)?;
        // A file that is there is whole: written beside, then put in its place.
        let beside = self.path.with_extension("json.new");
        let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        let mut file = BufWriter::new(file);
        serde_json::to_writer(&mut file, &snapshot)?;
        file.into_inner()?.sync_all()?;
        fs::rename(&beside, &self.path)
    }
}

/// What is written of a state.
struct Records<'a> {
    state: &'a State,
    port: u16,
}

/// The records that a state was made from, by their keys relative to the cluster's prefix. `port` is this node's.
pub fn records(state: &State, port: u16) -> serde_json::Result<BTreeMap<String, Value>> {
    serde_json::from_value(serde_json::to_value(Records { state, port })?)
}

/// One record of it.
#[derive(Serialize)]
#[serde(untagged)]
enum One {
    Network(NetworkRecord),
    Node(NodeRecord),
    Endpoint(EndpointRecord),
    Port(PortRecord),
    Learned(LearnedRecord),
}

/// The records that were read.
struct Kept(RecordSet);

// === impl Records ===

impl Serialize for Records<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { state, port } = self;
        let networks =
            state.networks.iter().map(|(n, r)| (RecordKey::of_network(n), One::Network(network_record(r))));
        let nodes =
            state.nodes.iter().map(|(n, r)| (RecordKey::of_node(n), One::Node(node_record(r, *port))));
        let endpoints = state.endpoints.iter().map(|(network, endpoint)| {
            (RecordKey::of_endpoint(network, &endpoint.id), One::Endpoint(endpoint_record(endpoint)))
        });
        let ports = state
            .ports
            .iter()
            .map(|((network, id), port)| (RecordKey::of_port(network, id), One::Port(port.to_record())));
        let learned = state.learned.iter().map(|((network, mac), LearnedMac { node, port })| {
            let record = LearnedRecord { node: node.clone(), port: port.clone() };
            (RecordKey::of_learned(network, *mac), One::Learned(record))
        });
        serializer.collect_map(networks.chain(nodes).chain(endpoints).chain(ports).chain(learned))
    }
}

// === impl Kept ===

impl<'de> Deserialize<'de> for Kept {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;

        impl<'de> Visitor<'de> for Each {
            type Value = Kept;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("records by their keys")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kept, A::Error> {
                let mut records = RecordSet::default();
                while let Some((key, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    // Those kept do not clash, so that it does not matter who was first.
                    let value = value.get().as_bytes();
                    records.put(RawRecord { key: key.as_bytes(), value, create_revision: 1 });
                }
                Ok(Kept(records))
            }
        }

        deserializer.deserialize_map(Each)
    }
}

fn network_record(network: &Network) -> NetworkRecord {
    let Network { vni, subnet: Subnet { net: subnet, gateway, range }, dual, mtu, internal, policy, .. } =
        *network;
    let Network { aux, pools, docker, .. } = network.clone();
    let dual = dual.map(|Subnet { net: subnet, gateway, range }| SubnetRecord {
        subnet,
        gateway,
        range: Some(range),
    });
    let (vni, range) = (vni.get(), Some(range));
    NetworkRecord { vni, subnet, gateway, range, dual, mtu, internal, policy, aux, pools, docker }
}

/// The port is that of this node: the state has none, for it is the same on all.
fn node_record(node: &Node, port: u16) -> NodeRecord {
    let Node { vtep, mtu, datapath, reason, is_static, drained } = node.clone();
    NodeRecord {
        vtep,
        port,
        mtu,
        datapath,
        reason,
        version: String::new(),
        incarnation: 0,
        host: String::new(),
        moved: 0,
        drained,
        prefixes: Vec::new(),
        is_static,
    }
}

fn endpoint_record(endpoint: &Endpoint) -> EndpointRecord {
    let Endpoint { node, mac, addresses, delivery, .. } = endpoint;
    EndpointRecord {
        node: node.clone(),
        mac: mac.to_string(),
        addresses: addresses.to_vec(),
        names: endpoint.names().map(str::to_owned).collect(),
        container: endpoint.container().to_owned(),
        ifname: String::new(),
        incarnation: 0,
        delivery: delivery.word().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::config::Options;

    fn file(directory: &Path, node: &str) -> SnapshotFile {
        let options = Options {
            node: Some(node.to_owned()),
            state_dir: Some(directory.to_owned()),
            ..Options::default()
        };
        let config = Config::new(options, None).unwrap();
        let store = Store::new(config.store.clone()).unwrap();
        SnapshotFile::new(&config, store)
    }

    fn example() -> Arc<State> {
        let mut records = RecordSet::default();
        for (key, value) in [
            (
                "networks/blue",
                r#"{"vni":7,"subnet":"10.0.9.0/24","gateway":"10.0.9.1","mtu":1400,
                    "aux":{"router":"10.0.9.9"},"pools":["0123456789ab"],"docker":"d0",
                    "dual":{"subnet":"fd00::/64","gateway":"fd00::1","range":"fd00::/80"}}"#,
            ),
            (
                "nodes/n1",
                r#"{"vtep":"192.0.2.1","port":4789,"mtu":1500,"datapath":"xdp","reason":"it works"}"#,
            ),
            ("nodes/n2", r#"{"vtep":"192.0.2.2","port":4789,"static":true}"#),
            (
                "endpoints/blue/0123456789ab",
                r#"{"node":"n2","mac":"02:42:0a:00:09:02","addresses":["10.0.9.2","fd00::2"],"names":["web"]}"#,
            ),
        ] {
            let raw = RawRecord { key: key.as_bytes(), value: value.as_bytes(), create_revision: 1 };
            assert!(records.put(raw));
        }
        Arc::new(records.state(42))
    }

    #[test]
    fn what_is_kept_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("made/when/needed");
        let mut kept = file(&below, "n1");
        assert!(kept.read().is_none());
        let state = example();
        assert_eq!((state.endpoints.len(), state.rejected.len()), (1, 0));
        let seen = Seen { cluster: Some(Uuid::from_u128(1)), revision: 42 };
        kept.store.expect(seen);
        kept.keep(&state);
        let mode = fs::metadata(below.join("state.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let later = file(&below, "n1");
        assert_eq!(later.read().map(|last| last.state).as_ref(), Some(&*state));
        assert_eq!(later.store.seen(), seen, "a store that has less must not be believed after a restart");
    }

    #[test]
    fn another_nodes_state_and_damaged_ones_are_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let mut kept = file(directory.path(), "n1");
        kept.keep(&example());
        assert!(file(directory.path(), "n2").read().is_none());
        let path = directory.path().join("state.json");
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert!(kept.read().is_none());
    }

    #[test]
    fn a_record_that_was_tampered_with_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let mut kept = file(directory.path(), "n1");
        kept.keep(&example());
        let path = directory.path().join("state.json");
        let text = fs::read_to_string(&path).unwrap().replace("10.0.9.2", "10.0.8.2");
        fs::write(&path, text).unwrap();
        let state = kept.read().unwrap().state;
        assert_eq!((state.endpoints.len(), state.networks.len()), (0, 1));
        assert!(state.rejected.contains_key("endpoints/blue/0123456789ab"));
    }
}
