//! What is in etcd, and whether it is what should be: no address or MAC address twice, every key with its
//! owner, every endpoint with its keys.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};
use etcd_client::{Client, CompactionOptions, ConnectOptions, GetOptions};
use overlay_tests::wire::Wire;
use overlay_user::{
    api::Attached,
    state::{AddressRecord, AddressState, EndpointRecord},
};
use tokio::{
    runtime::Builder,
    sync::{mpsc, oneshot},
    time::{Duration, timeout},
};

/// Where everything of the lab's cluster is kept.
const PREFIX: &str = "/overlay/v1/default/";

/// How long etcd may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// One key.
pub struct Key {
    name: String,
    value: Vec<u8>,
    leased: bool,
}

/// A thread next to etcd that looks into it.
pub struct Eye {
    requests: mpsc::UnboundedSender<Request>,
}

enum Request {
    Compact,
    Read(oneshot::Sender<Result<Vec<Key>>>),
}

impl Eye {
    pub fn open(wire: &Wire) -> Result<Self> {
        let (requests, mut asked) = mpsc::unbounded_channel();
        let url = wire.etcd();
        // It ends with the channel.
        wire.netns().spawn(move || {
            Builder::new_current_thread().enable_all().build()?.block_on(async move {
                while let Some(request) = asked.recv().await {
                    match request {
                        // It may be asked for while etcd is away.
                        Request::Compact => drop(timeout(PATIENCE, compact(&url)).await),
                        Request::Read(reply) => {
                            let answer = timeout(PATIENCE, read(&url)).await;
                            let answer = answer.map_err(anyhow::Error::from).and_then(|read| read);
                            let _ = reply.send(answer);
                        }
                    }
                }
                Ok(())
            })
        })?;
        Ok(Self { requests })
    }

    /// Has etcd forget its history, some time soon.
    pub fn compact(&self) -> Result<()> {
        self.requests.send(Request::Compact).ok().context("nobody looks into etcd any more")
    }

    /// All keys at one revision.
    pub async fn read(&self) -> Result<Vec<Key>> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Read(reply)).ok().context("nobody looks into etcd any more")?;
        answer.await?.context("cannot read etcd")
    }
}

async fn connect(url: &str) -> Result<Client> {
    let options = ConnectOptions::new().with_connect_timeout(PATIENCE);
    Ok(Client::connect([url], Some(options)).await?)
}

async fn compact(url: &str) -> Result<()> {
    let mut client = connect(url).await?;
    let answer = client.get(PREFIX, None).await?;
    let revision = answer.header().context("an answer without a header")?.revision();
    client.compact(revision, Some(CompactionOptions::new())).await?;
    Ok(())
}

async fn read(url: &str) -> Result<Vec<Key>> {
    let answer = connect(url).await?.get(PREFIX, Some(GetOptions::new().with_prefix())).await?;
    let key = |kv: &etcd_client::KeyValue| {
        Ok(Key {
            name: kv.key_str()?.strip_prefix(PREFIX).context("a key of somebody else")?.to_owned(),
            value: kv.value().to_vec(),
            leased: kv.lease() != 0,
        })
    };
    answer.kvs().iter().map(key).collect()
}

/// What should be in etcd.
pub struct Expected<'a> {
    /// Names of the nodes.
    pub nodes: BTreeSet<&'a str>,
    /// Networks and their VNIs.
    pub networks: BTreeMap<String, u32>,
    /// Endpoints and the nodes they are on.
    pub endpoints: Vec<(&'a Attached, &'a str)>,
}

/// Compares what is there with what should be.
pub fn check(keys: &[Key], expected: &Expected<'_>) -> Result<()> {
    let endpoints: BTreeMap<String, _> = expected
        .endpoints
        .iter()
        .map(|(endpoint, node)| (endpoint.id.to_string(), (*endpoint, *node)))
        .collect();
    let mut missing = all_of(expected);
    let mut seen = Seen::default();
    for key in keys {
        missing.remove(&key.name);
        known(key, expected, &endpoints, &mut seen)
            .with_context(|| format!("the key {} = {}", key.name, String::from_utf8_lossy(&key.value)))?;
    }
    ensure!(missing.is_empty(), "etcd has no {missing:?}");
    Ok(())
}

/// Who has been seen with an address or a MAC address.
#[derive(Default)]
struct Seen {
    addresses: BTreeSet<(String, String)>,
    macs: BTreeSet<(String, String)>,
}

/// Every key there must be.
fn all_of(expected: &Expected<'_>) -> BTreeSet<String> {
    let mut all = BTreeSet::from(["meta".to_owned()]);
    for node in &expected.nodes {
        all.extend([format!("nodes/{node}"), format!("alive/{node}")]);
    }
    for (network, vni) in &expected.networks {
        all.extend([format!("networks/{network}"), format!("vnis/{vni:08}")]);
    }
    for (endpoint, _) in &expected.endpoints {
        let Attached { network, id, mac, addresses, .. } = endpoint;
        all.insert(format!("endpoints/{network}/{id}"));
        all.insert(format!("macs/{network}/{}", mac.to_string().replace(':', "")));
        for address in addresses {
            all.insert(format!("addresses/{network}/{}", digits(address.addr())));
        }
    }
    all
}

fn digits(address: std::net::IpAddr) -> String {
    match address {
        std::net::IpAddr::V4(v4) => format!("{:08x}", v4.to_bits()),
        std::net::IpAddr::V6(v6) => format!("{:032x}", v6.to_bits()),
    }
}

/// Judges one key by itself: what it is for, and whether that is there.
fn known(
    key: &Key,
    expected: &Expected<'_>,
    endpoints: &BTreeMap<String, (&Attached, &str)>,
    seen: &mut Seen,
) -> Result<()> {
    let parts: Vec<_> = key.name.split('/').collect();
    match parts[..] {
        ["meta"] | ["subnets", "guard"] | ["pools", _] => {}
        ["nodes" | "alive", node] => ensure!(expected.nodes.contains(node), "is of no node there is"),
        ["networks", network] => {
            ensure!(expected.networks.contains_key(network), "is of a network that was removed");
        }
        ["vnis", _] => {
            let network = String::from_utf8_lossy(&key.value);
            ensure!(expected.networks.contains_key(&*network), "is of a network that was removed");
        }
        ["endpoints", network, id] => {
            let (endpoint, node) = endpoints.get(id).context("is of an endpoint that is not there")?;
            let record: EndpointRecord = serde_json::from_slice(&key.value)?;
            ensure!(endpoint.network.as_str() == network, "is in another network");
            ensure!(record.node.as_str() == *node, "says another node, not {node}");
            ensure!(seen.macs.insert((network.to_owned(), record.mac)), "has a MAC address that another has");
            for address in record.addresses {
                let once = seen.addresses.insert((network.to_owned(), address.to_string()));
                ensure!(once, "has the address {address} that another has");
            }
        }
        ["macs", network, _] => {
            let id = String::from_utf8_lossy(&key.value);
            let (endpoint, _) = endpoints.get(&*id).context("has no owner")?;
            ensure!(endpoint.network.as_str() == network, "is in another network than its owner");
        }
        ["addresses", network, number] => {
            ensure!(expected.networks.contains_key(network), "is of a network that was removed");
            address(key, number, endpoints)?;
        }
        _ => bail!("is of no kind that should be there"),
    }
    let ends = ["alive/", "pools/"].iter().any(|place| key.name.starts_with(place));
    ensure!(!ends || key.leased, "would stay for ever");
    Ok(())
}

/// An address is bound to an endpoint for good, or kept for a while.
fn address(key: &Key, number: &str, endpoints: &BTreeMap<String, (&Attached, &str)>) -> Result<()> {
    let record: AddressRecord = serde_json::from_slice(&key.value)?;
    let owner = endpoints.get(&record.endpoint.to_string());
    let is_its =
        owner.is_some_and(|(endpoint, _)| endpoint.addresses.iter().any(|own| digits(own.addr()) == number));
    match record.state {
        AddressState::Bound => {
            ensure!(is_its, "has no owner");
            ensure!(!key.leased, "would be lost by its owner");
        }
        AddressState::Reserved | AddressState::Cooling => {
            ensure!(!is_its, "is not bound to its owner");
            ensure!(key.leased, "would stay for ever");
        }
    }
    Ok(())
}
