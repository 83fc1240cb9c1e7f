//! Gateway ports: attach, list, detach.

use std::{fmt, str::FromStr, sync::Arc};

use axum::{Json, extract::State as Shared, http::StatusCode};

use super::{
    ApiError, AttachPort, Context, Kind, Named, Port,
    request::{Body, Name, to_the_end},
};
use crate::{
    datapath::Mode,
    netlink,
    state::{EndpointId, NameError, NetworkName, NodeName, PortRecord, RecordKey},
};

/// A port by its identity, the beginning of it, or, on its own node, its interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRef(NodeName);

impl FromStr for PortRef {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        text.parse().map(Self)
    }
}

impl fmt::Display for PortRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

pub async fn attach(
    Shared(context): Shared<Arc<Context>>,
    Body(request): Body<AttachPort>,
) -> Result<(StatusCode, Json<Port>), ApiError> {
    if context.mode == Mode::Kernel {
        let error = format!("the kernel data path has no gateway ports ({})", context.reason);
        return Err(ApiError::new(Kind::Conflict, error));
    }
    context.check_not_drained()?;
    check_device(&context, request.device.as_str()).await?;
    to_the_end(async move {
        let AttachPort { network, device, max_macs, age, datapath } = request;
        let id = EndpointId::random();
        let record = PortRecord { node: context.node.clone(), device, max_macs, age, datapath };
        let revision = context.store.attach_port(&network, &id, &record).await?;
        context.applied(revision).await;
        let key = (network.clone(), id.clone());
        let why = if context.state().ports.contains_key(&key) {
            let problems = &context.progress.borrow().problems;
            problems.iter().find(|problem| problem.contains(&id.to_string())).cloned()
        } else {
            let state = context.state();
            let why = state.rejected.get(&RecordKey::of_port(&network, &id)).cloned();
            Some(why.unwrap_or_else(|| "overlayd did not get to it in time".to_owned()))
        };
        if let Some(why) = why {
            context.store.remove_port(&network, &id).await?;
            return Err(ApiError::new(Kind::Conflict, format!("not attached: {why}")));
        }
        tracing::info!(port = %id, %network, device = %record.device, "port attached");
        let ports = described(&context).await?;
        let port = ports.into_iter().find(|port| port.id == id);
        let gone = || ApiError::new(Kind::Conflict, "the port was detached meanwhile");
        Ok((StatusCode::CREATED, Json(port.ok_or_else(gone)?)))
    })
    .await
}

pub async fn list(Shared(context): Shared<Arc<Context>>) -> Result<Json<Vec<Port>>, ApiError> {
    described(&context).await.map(Json)
}

pub async fn detach(
    Shared(context): Shared<Arc<Context>>,
    Name(reference): Name<PortRef>,
) -> Result<Json<Named>, ApiError> {
    to_the_end(async move {
        let (network, id) = find(&context, &reference)?;
        let revision = context.store.remove_port(&network, &id).await?;
        context.applied(revision).await;
        tracing::info!(port = %id, %network, "port detached");
        Ok(Json(Named { name: id.into() }))
    })
    .await
}

fn find(context: &Context, reference: &PortRef) -> Result<(NetworkName, EndpointId), ApiError> {
    let text = reference.0.as_str();
    let state = context.state();
    let found = state.ports.iter().filter(|((_, id), port)| {
        id.starts_with(text) || (port.node == context.node && port.device.as_str() == text)
    });
    let found: Vec<_> = found.collect();
    match found[..] {
        [((network, id), port)] if port.node == context.node => Ok((network.clone(), id.clone())),
        [(_, port)] => Err(ApiError::new(
            Kind::Conflict,
            format!("the port is on {}: detach it there, or `overlayctl node rm` the node", port.node),
        )),
        [] => Err(ApiError::not_found(format!(
            "no port has the id or interface {text}: `overlayctl port ls` lists them"
        ))),
        _ => Err(ApiError::new(Kind::Conflict, format!("{text} stands for several ports: give a whole id"))),
    }
}

async fn check_device(context: &Context, device: &str) -> Result<(), ApiError> {
    let failed = |e: std::io::Error| ApiError::new(Kind::Internal, format!("look up {device}: {e}"));
    let kernel = netlink::connect().map_err(failed)?;
    let link = netlink::link_named(&kernel, device).await.map_err(failed)?;
    let link =
        link.ok_or_else(|| ApiError::invalid(format!("--dev {device}: there is no such interface")))?;
    let refused = |why: &str| Err(ApiError::invalid(format!("--dev {device}: {why}")));
    if link.ifindex == context.underlay.borrow().ifindex {
        return refused("this is the uplink; a port is another interface");
    }
    if link.mac.is_none() || device == "lo" {
        return refused("a port is an Ethernet interface");
    }
    if link.controller.is_some() {
        return refused("it is part of a bridge or bond: take it out, or give that interface");
    }
    Ok(())
}

async fn described(context: &Context) -> Result<Vec<Port>, ApiError> {
    let status = context.counters().await?.ports;
    let state = context.state();
    let describe = |((network, id), port): (&(NetworkName, EndpointId), &crate::state::Port)| Port {
        id: id.clone(),
        network: network.clone(),
        node: port.node.clone(),
        device: port.device.clone(),
        max_macs: port.max_macs,
        age: port.age,
        macs: state
            .learned_of(network)
            .filter(|(_, l)| l.port == *id)
            .map(|(mac, _)| mac.to_string())
            .collect(),
        datapath: status.get(id).map(|status| status.mode),
        reason: status.get(id).map(|status| status.reason.clone()),
    };
    Ok(state.ports.iter().map(describe).collect())
}
