//! Networks of Docker's own drivers, made here as they are there.

use std::time::{Duration, Instant};

use super::args::ImportArgs;
use crate::{
    api::{Client, ClientError, CreateNetwork, Kind, Network},
    docker::engine::{Engine, EngineError, EngineNetwork},
    state::{NetworkName, PolicyChange},
};

/// Drivers whose networks are made of subnets that containers are in.
const DRIVERS: [&str; 2] = ["overlay", "bridge"];

/// The option for an MTU, of all of Docker's drivers.
const MTU: &str = "com.docker.network.driver.mtu";

/// How long the route to a bridge that was removed may stay in the node's record.
const ROUTE_PATIENCE: Duration = Duration::from_secs(5);

/// Why a network was not imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Docker.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// overlayd.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// There is none.
    #[error("Docker has no network {0:?} (`docker network ls` lists them)")]
    NotFound(String),
    /// One that cannot be like one of ours.
    #[error("network {name} cannot be imported: {why}")]
    Unsuitable {
        /// Its name.
        name: String,
        /// Why.
        why: String,
    },
    /// Docker's own has the name.
    #[error(
        "Docker's network {name} (driver {driver}) has that name itself, and a name is one network's: either give ours \
         another, with `--as NAME`, or have this one removed, with `--replace`{disconnect}"
    )]
    Named {
        /// Its name.
        name: String,
        /// Its driver.
        driver: String,
        /// How to empty it.
        disconnect: String,
    },
    /// It has containers.
    #[error("network {name} cannot be removed from Docker, for {containers} are on it: first{commands}")]
    Used {
        /// Its name.
        name: String,
        /// Who is on it.
        containers: String,
        /// What to run.
        commands: String,
    },
    /// Docker's is gone, and ours was not made.
    #[error("Docker's network is removed, but ours could not be made: {error}; make it with `{command}`")]
    HalfDone {
        /// Why.
        error: ClientError,
        /// What to run.
        command: String,
    },
}

/// Makes a network of Docker's here.
pub async fn docker(args: ImportArgs, client: &Client) -> Result<Network, ImportError> {
    let ImportArgs { network, name, replace, allow_overlap, docker } = args;
    let engine = Engine::connect(&docker.path).await?;
    let found = engine.network(&network).await?.ok_or(ImportError::NotFound(network))?;
    // Done before: Docker's network is ours.
    if let Some(ours) = found.made_for().filter(|ours| name.as_ref().is_none_or(|name| name == ours)) {
        return Ok(client.network(&ours).await?.network);
    }
    let mut request = like(&found, name.as_ref())?;
    request.allow_overlap = allow_overlap;
    if !replace {
        if request.name.as_str() == found.name {
            let disconnect = match disconnects(&found).as_str() {
                "" => String::new(),
                commands => format!(", after{commands}"),
            };
            return Err(ImportError::Named { name: found.name, driver: found.driver, disconnect });
        }
        return match client.create_network(&request).await {
            Err(ClientError::Refused(error)) if error.kind == Kind::Conflict => {
                let there = client.network(&request.name).await.map(|there| there.network);
                there.ok().filter(|there| is_like(there, &request)).ok_or(ClientError::Refused(error).into())
            }
            made => Ok(made?),
        };
    }
    if !found.containers.is_empty() {
        let commands = disconnects(&found);
        return Err(ImportError::Used {
            containers: found.containers.join(", "),
            name: found.name,
            commands,
        });
    }
    // Who cannot make it now is not to lose it.
    client.status().await?;
    engine.remove_network(&found.id).await?;
    let end = Instant::now() + ROUTE_PATIENCE;
    loop {
        match client.create_network(&request).await {
            Ok(network) => return Ok(network),
            Err(ClientError::Refused(error))
                if error.kind == Kind::Conflict && found.driver == "bridge" && Instant::now() < end =>
            {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Err(error) => return Err(ImportError::HalfDone { error, command: command(&request) }),
        }
    }
}

/// A request for a network like one of Docker's.
fn like(found: &EngineNetwork, name: Option<&NetworkName>) -> Result<CreateNetwork, ImportError> {
    let unsuitable = |why: String| ImportError::Unsuitable { name: found.name.clone(), why };
    let EngineNetwork { driver, subnets, options, internal, .. } = found;
    if !DRIVERS.contains(&driver.as_str()) {
        let drivers = DRIVERS.join(" or ");
        return Err(unsuitable(format!("its driver is {driver:?}, and only those of {drivers} can be")));
    }
    let name = match name {
        Some(name) => name.clone(),
        None => {
            found.name.parse().map_err(|error| unsuitable(format!("{error}; give another with --as NAME")))?
        }
    };
    if subnets.is_empty() {
        return Err(unsuitable("Docker tells no subnet of it".to_owned()));
    }
    let mtu = match options.get(MTU).map(|mtu| mtu.parse()) {
        None => None,
        Some(Ok(mtu)) => Some(mtu),
        Some(Err(_)) => return Err(unsuitable(format!("its MTU is {:?}", options[MTU]))),
    };
    Ok(CreateNetwork {
        name,
        subnets: subnets.iter().map(|subnet| subnet.net).collect(),
        gateways: subnets.iter().filter_map(|subnet| subnet.gateway).collect(),
        ip_ranges: subnets.iter().filter_map(|subnet| subnet.range).collect(),
        vni: None,
        mtu,
        internal: *internal,
        policy: PolicyChange::default(),
        allow_overlap: false,
        aux: subnets.iter().flat_map(|subnet| subnet.aux.clone()).collect(),
    })
}

/// Whether a network is what is asked for.
fn is_like(there: &Network, asked: &CreateNetwork) -> bool {
    let subnets: Vec<_> =
        [&there.subnet].into_iter().chain(&there.dual).map(|subnet| subnet.subnet).collect();
    subnets.len() == asked.subnets.len() && asked.subnets.iter().all(|subnet| subnets.contains(subnet))
}

/// The commands that take the containers off a network.
fn disconnects(network: &EngineNetwork) -> String {
    let commands = network
        .containers
        .iter()
        .map(|container| format!(" `docker network disconnect {} {container}`", network.name));
    commands.collect()
}

/// The command that makes the same.
fn command(request: &CreateNetwork) -> String {
    let CreateNetwork { name, subnets, gateways, ip_ranges, mtu, internal, aux, .. } = request;
    let mut words = vec![format!("overlayctl network create {name}")];
    words.extend(subnets.iter().map(|subnet| format!("--subnet {subnet}")));
    words.extend(gateways.iter().map(|gateway| format!("--gateway {gateway}")));
    words.extend(ip_ranges.iter().map(|range| format!("--ip-range {range}")));
    words.extend(aux.iter().map(|(name, address)| format!("--aux-address {name}={address}")));
    words.extend(mtu.iter().map(|mtu| format!("--mtu {mtu}")));
    words.extend(internal.then(|| "--internal".to_owned()));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::docker::engine::EngineSubnet;

    fn network() -> EngineNetwork {
        EngineNetwork {
            id: "8fc9aa1e4d0c5f17b1f0a58c7d6e5b4a39281706f5e4d3c2b1a0998877665544".parse().unwrap(),
            name: "app".to_owned(),
            driver: "overlay".to_owned(),
            internal: true,
            subnets: vec![EngineSubnet {
                net: "10.0.9.0/24".parse().unwrap(),
                gateway: Some("10.0.9.254".parse().unwrap()),
                range: Some("10.0.9.128/25".parse().unwrap()),
                aux: BTreeMap::from([("router".to_owned(), "10.0.9.9".parse().unwrap())]),
            }],
            options: BTreeMap::from([(MTU.to_owned(), "1400".to_owned())]),
            containers: vec!["db".to_owned(), "web".to_owned()],
        }
    }

    #[test]
    fn the_same_network_is_asked_for() {
        let request = like(&network(), None).unwrap();
        assert_eq!(
            command(&request),
            "overlayctl network create app --subnet 10.0.9.0/24 --gateway 10.0.9.254 --ip-range 10.0.9.128/25 \
             --aux-address router=10.0.9.9 --mtu 1400 --internal"
        );
        let name = "other".parse().unwrap();
        assert_eq!(like(&network(), Some(&name)).unwrap().name, name);
    }

    #[test]
    fn what_cannot_be_the_same_is_refused() {
        for (bad, says) in [
            (EngineNetwork { driver: "macvlan".to_owned(), ..network() }, "only those of overlay or bridge"),
            (EngineNetwork { subnets: Vec::new(), ..network() }, "no subnet"),
            (EngineNetwork { name: "my net".to_owned(), ..network() }, "--as NAME"),
            (EngineNetwork { options: [(MTU.to_owned(), "x".to_owned())].into(), ..network() }, "its MTU is"),
        ] {
            let error = like(&bad, None).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn who_is_on_a_network_is_taken_off_by_these_commands() {
        assert_eq!(
            disconnects(&network()),
            " `docker network disconnect app db` `docker network disconnect app web`"
        );
    }
}
