//! Attaching a container that somebody else runs: an endpoint with its interface in a network namespace.

use std::{path::PathBuf, sync::Arc};

use axum::{Json, extract::State as Shared, http::StatusCode};

use super::{
    ApiError, Attach, Attached, Context, Kind, Namespace,
    making::{self, Addresses, Wanted},
    request::Body,
};
use crate::{datapath::Mode, device::Netns, state::Delivery};

pub async fn attach(
    Shared(context): Shared<Arc<Context>>,
    Body(request): Body<Attach>,
) -> Result<(StatusCode, Json<Attached>), ApiError> {
    let netns = check(&request)?;
    if request.delivery == Delivery::Xdp && context.mode != Mode::Xdp {
        return Err(ApiError::new(
            Kind::Conflict,
            format!(
                "--deliver xdp needs XDP on the uplink; this node's data path is {} ({})",
                context.mode.name(),
                context.reason
            ),
        ));
    }
    context.check_not_drained()?;
    let Attach { network, ifname, ips, mac, names, delivery, netns: _ } = request;
    let wanted = Wanted {
        network,
        addresses: Addresses::Reserve(ips),
        mac,
        names: names.into_iter().map(String::from).collect(),
        delivery,
        inside: Some((netns, ifname)),
    };
    Ok((StatusCode::CREATED, Json(making::make(context, wanted, |_| Ok(())).await?)))
}

/// What can be refused without asking anybody.
fn check(request: &Attach) -> Result<Netns, ApiError> {
    if let Some(mac) = request.mac
        && !mac.is_unicast()
    {
        return Err(ApiError::invalid(format!("--mac {mac}: an interface has a unicast address")));
    }
    let (netns, file, flag) = match &request.netns {
        Namespace::Path(path) if !path.is_absolute() => {
            let shown = path.display();
            return Err(ApiError::invalid(format!("--netns {shown}: give an absolute path")));
        }
        Namespace::Path(path) => {
            (Netns::Path(path.clone()), path.clone(), format!("--netns {}", path.display()))
        }
        Namespace::Pid(pid) => {
            (Netns::Pid(*pid), PathBuf::from(format!("/proc/{pid}/ns/net")), format!("--pid {pid}"))
        }
    };
    if file.exists() {
        Ok(netns)
    } else {
        Err(ApiError::invalid(format!("{flag}: there is no such network namespace")))
    }
}
