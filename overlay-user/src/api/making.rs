//! Making an endpoint: an address, an interface, a record, and the data path behind it. All of it
//! or nothing.

use std::{fmt::Write as _, net::IpAddr, sync::Arc, time::Duration};

use ipnet::IpNet;
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};

use super::{ApiError, Attached, Context, Kind, detach};
use crate::{
    MacAddr,
    daemon::{InTheMaking, Known},
    device::{self, EndpointDevice, Netns},
    state::{
        Delivery, EndpointId, EndpointRecord, InterfaceName, NameError, Network, NetworkName, RecordKey,
    },
    store::Reservation,
};

/// How long all steps may take together; what is left of the handler's deadline is for undoing them.
const BUDGET: Duration = Duration::from_secs(7);

/// How long the answer waits for one step to be undone in the store.
const UNDO_PATIENCE: Duration = Duration::from_secs(1);

/// An endpoint that is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its network.
    pub network: NetworkName,
    /// Its addresses.
    pub addresses: Addresses,
    /// Its MAC address; else one made of its first address.
    pub mac: Option<MacAddr>,
    /// The names it is known by; else the one that its addresses were reserved for.
    pub names: Vec<String>,
    /// How frames from the wire reach it.
    pub delivery: Delivery,
    /// The namespace that its interface is in, and what that is called there; else it is in the host's, for
    /// who runs the container to fetch it.
    pub inside: Option<(Netns, InterfaceName)>,
}

/// Which addresses an endpoint gets.
#[derive(Clone, Debug)]
pub enum Addresses {
    /// These, and a free one of each family the network has and these are not of.
    Reserve(Vec<IpAddr>),
    /// These and no others, which this node has reserved already.
    TakeOver(Vec<IpAddr>),
}

/// Makes an endpoint of this node; to its end or not at all, even if the caller goes away. `keep` is called when it is
/// made, and can still refuse it.
pub async fn make(
    context: Arc<Context>,
    wanted: Wanted,
    keep: impl FnOnce(&Attached) -> Result<(), ApiError> + Send + 'static,
) -> Result<Attached, ApiError> {
    // On its own task: a client that goes away in the middle must not leave half an endpoint.
    let (reply, answer) = oneshot::channel();
    tokio::spawn(async move {
        let mut attempt = Attempt::new(context, wanted);
        let mut making = Some(attempt.context.journal.begin(&attempt.wanted.network, &attempt.id));
        let result = timeout(BUDGET, attempt.run()).await.unwrap_or_else(|_| Err(attempt.overdue()));
        let result = result.and_then(|attached| keep(&attached).map(|()| attached));
        let made = result.is_ok();
        if !made {
            attempt.undo(&mut making).await;
        }
        // Before who asks is told: it is theirs from then on.
        making = making.filter(|_| !made);
        if reply.send(result).is_err() && made {
            tracing::warn!(endpoint = %attempt.id, "nobody waits for this endpoint any more: detaching it");
            attempt.undo(&mut making).await;
        }
    });
    answer.await.unwrap_or_else(|_| Err(ApiError::new(Kind::Internal, "attaching the endpoint was cut off")))
}

/// One endpoint in the making: the steps, and which of them have to be undone.
struct Attempt {
    context: Arc<Context>,
    wanted: Wanted,
    id: EndpointId,
    reservation: Option<Reservation>,
    device: bool,
    waits_for: &'static str,
}

impl Attempt {
    fn new(context: Arc<Context>, wanted: Wanted) -> Self {
        let id = EndpointId::random();
        Self { context, wanted, id, reservation: None, device: false, waits_for: "etcd" }
    }

    async fn run(&mut self) -> Result<Attached, ApiError> {
        let Wanted { network, addresses: wanted, mac, names, delivery, inside } = &self.wanted;
        let context = &self.context;
        let (store, node, id) = (&context.store, &context.node, &self.id);
        let reservation = match wanted {
            Addresses::Reserve(ips) => {
                let name = names.first().map(String::as_str);
                store.reserve_addresses(network, node, id, name, ips).await?
            }
            Addresses::TakeOver(ips) => store.take_over_addresses(network, node, id, ips).await?,
        };
        let reservation = &*self.reservation.insert(reservation);
        let addresses: Vec<_> = reservation.addresses.iter().map(|reserved| reserved.address).collect();
        let missing = || ApiError::new(Kind::Internal, "no address was reserved");
        let &address = addresses.first().ok_or_else(missing)?;

        let home = settled(context.known.clone(), network).await?;
        let mtu = interface_mtu(context, &home)?;
        let mac = mac.unwrap_or_else(|| default_mac(address));
        let (netns, ifname) = match inside {
            Some((netns, ifname)) => (Some(netns.clone()), ifname.clone()),
            None => {
                (None, id.peer_device().parse().map_err(|e: NameError| ApiError::invalid(e.to_string()))?)
            }
        };

        self.waits_for = "the interface";
        self.device = true;
        let device = EndpointDevice {
            host: id.host_device(),
            netns,
            ifname: ifname.to_string(),
            mac,
            mtu,
            addresses: addresses.clone(),
            takes_redirects: *delivery == Delivery::Xdp,
        };
        device::create(&device).await?;

        self.waits_for = "etcd";
        let record = EndpointRecord {
            node: context.node.clone(),
            mac: mac.to_string(),
            addresses: addresses.iter().map(IpNet::addr).collect(),
            names: if names.is_empty() { reservation.name.iter().cloned().collect() } else { names.clone() },
            container: inside.as_ref().map(|(netns, _)| netns.word()).unwrap_or_default(),
            ifname: inside.as_ref().map(|(_, ifname)| ifname.to_string()).unwrap_or_default(),
            incarnation: context.incarnation(),
            delivery: delivery.word().to_owned(),
        };
        let revision = store.bind_endpoint(reservation, &record).await?;

        self.waits_for = "the data path";
        self.forwarded(revision).await?;
        tracing::info!(endpoint = %self.id, %network, ?addresses, %mac, "endpoint attached");
        Ok(Attached {
            id: self.id.clone(),
            network: network.clone(),
            address,
            addresses,
            mac,
            host_device: device.host,
            ifname,
            vni: home.vni.get(),
            mtu,
        })
    }

    /// Waits until the data path has applied `revision`, and looks whether that went well for this
    /// endpoint.
    async fn forwarded(&self, revision: i64) -> Result<(), ApiError> {
        let mut progress = self.context.progress.clone();
        let applied = progress.wait_for(|p| p.applied.is_some_and(|applied| applied >= revision)).await;
        let id = self.id.to_string();
        if let Some(problem) = applied.map_err(|_| stopping())?.problems.iter().find(|p| p.contains(&id)) {
            return Err(ApiError::new(Kind::Internal, problem.clone()));
        }
        let state = self.context.state();
        if state.endpoint(&self.wanted.network, &self.id).is_some() {
            return Ok(());
        }
        let why = state.rejected.iter().find(|(rejected, _)| rejected.contains(&id));
        let why = why.map_or("somebody removed its record", |(_, why)| why);
        Err(ApiError::new(Kind::Conflict, format!("the endpoint did not come to be: {why}")))
    }

    fn overdue(&self) -> ApiError {
        let mut error =
            format!("not attached: no answer from {} within {} s", self.waits_for, BUDGET.as_secs());
        if let Some(last) = &self.context.progress.borrow().last_error {
            let _ = write!(error, "; the data path could not be brought up to date: {last}");
        }
        ApiError::new(Kind::Unavailable, error)
    }

    /// Takes back what was done, the last step first.
    async fn undo(&mut self, making: &mut Option<InTheMaking>) {
        if let Some(reservation) = self.reservation.take() {
            detach::abandon_surely(&self.context, reservation, making.take(), UNDO_PATIENCE).await;
        }
        if self.device
            && let Err(error) = device::remove(&self.id.host_device()).await
        {
            tracing::warn!(endpoint = %self.id, %error, "an interface was left behind");
        }
        self.device = false;
    }
}

/// The network as it is followed; one that another node created a moment ago is waited for.
async fn settled(mut known: watch::Receiver<Known>, name: &NetworkName) -> Result<Network, ApiError> {
    let key = RecordKey::of_network(name);
    let settled =
        |known: &Known| known.state.networks.contains_key(name) || known.state.rejected.contains_key(&key);
    let state = &known.wait_for(settled).await.map_err(|_| stopping())?.state;
    let left_out = || {
        let why = state.rejected.get(&key).map_or("", String::as_str);
        ApiError::new(Kind::Conflict, format!("network {name} is left out: {why}"))
    };
    state.networks.get(name).cloned().ok_or_else(left_out)
}

fn stopping() -> ApiError {
    ApiError::new(Kind::Unavailable, "overlayd is stopping")
}

/// The MTU of an endpoint's interface on this node.
pub fn interface_mtu(context: &Context, network: &Network) -> Result<u16, ApiError> {
    let underlay = context.underlay.borrow();
    mtu(network, underlay.mtu, underlay.inner_mtu())
}

/// The MTU of an endpoint's interface on an underlay of `underlay` bytes that leaves `room`.
fn mtu(network: &Network, underlay: u16, room: u16) -> Result<u16, ApiError> {
    match network.mtu {
        None => match network.check_mtu(room) {
            Ok(()) => Ok(room),
            Err(error) => Err(ApiError::invalid(format!(
                "this node's underlay of {underlay} bytes has no room for the network: {error}"
            ))),
        },
        Some(mtu) if mtu <= room => Ok(mtu),
        Some(mtu) => Err(ApiError::invalid(format!(
            "the network's MTU is {mtu}, but this node's underlay of {underlay} bytes has room for {room}: \
             raise the underlay's MTU or make the network with --mtu {room}"
        ))),
    }
}

/// The MAC address made from an endpoint's first address.
const fn default_mac(address: IpNet) -> MacAddr {
    match address {
        IpNet::V4(address) => MacAddr::of_ipv4(address.addr()),
        IpNet::V6(address) => MacAddr::of_ipv6(address.addr()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Vni,
        daemon::Source,
        state::{RawRecord, RecordSet, Subnet},
    };

    fn network(mtu: Option<u16>) -> Network {
        let net = "10.0.9.0/24".parse().unwrap();
        let subnet = Subnet { net, gateway: "10.0.9.1".parse().unwrap(), range: net };
        let (vni, policy) = (Vni::new(7).unwrap(), crate::state::Policy::default());
        let (aux, pools, docker) = (std::collections::BTreeMap::new(), Vec::new(), None);
        Network { vni, subnet, dual: None, mtu, internal: false, policy, aux, pools, docker }
    }

    #[test]
    fn the_mtu_leaves_room_for_the_outer_headers() {
        assert_eq!(mtu(&network(None), 1500, 1450), Ok(1450));
        assert_eq!(mtu(&network(Some(1450)), 1500, 1450), Ok(1450));
        assert_eq!(mtu(&network(Some(1400)), 9000, 8930), Ok(1400));
        let error = mtu(&network(Some(1451)), 1500, 1450).unwrap_err();
        assert_eq!(error.kind, Kind::Invalid);
        assert_eq!(
            error.error,
            "the network's MTU is 1451, but this node's underlay of 1500 bytes has room for 1450: \
             raise the underlay's MTU or make the network with --mtu 1450"
        );
        let net = "fd00::/64".parse().unwrap();
        let dual = Some(Subnet { net, gateway: "fd00::1".parse().unwrap(), range: net });
        let error = mtu(&Network { dual, ..network(None) }, 1329, 1279).unwrap_err();
        assert_eq!(
            error.error,
            "this node's underlay of 1329 bytes has no room for the network: \
             the MTU 1279 is below 1280, the least IPv6 allows"
        );
    }

    #[tokio::test]
    async fn a_network_that_is_left_out_is_not_waited_for() {
        let mut records = RecordSet::default();
        for (name, created) in [("blue", 1), ("red", 2)] {
            let value = br#"{"vni":7,"subnet":"10.0.9.0/24","gateway":"10.0.9.1"}"#;
            let key = format!("networks/{name}");
            records.put(RawRecord { key: key.as_bytes(), value, create_revision: created });
        }
        let state = Arc::new(records.state(2));
        let (_sender, known) = watch::channel(Known { state, source: Source::Store });
        assert!(settled(known.clone(), &"blue".parse().unwrap()).await.is_ok());
        let error = settled(known, &"red".parse().unwrap()).await.unwrap_err();
        assert_eq!(
            (error.kind, error.error.as_str()),
            (Kind::Conflict, "network red is left out: VNI 7 is network blue's")
        );
    }

    #[test]
    fn a_mac_is_made_from_the_address() {
        let of = |address: &str| default_mac(address.parse().unwrap()).to_string();
        assert_eq!(of("10.0.9.2/24"), "02:42:0a:00:09:02");
        assert_eq!(of("fd00::1234:5678/64"), "02:66:12:34:56:78");
    }
}
