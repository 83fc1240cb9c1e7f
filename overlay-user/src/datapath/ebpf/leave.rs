//! Taking it all out of the kernel again, whether or not a daemon runs.

use std::path::Path;

use rtnetlink::LinkUnspec;

use super::{
    connect,
    links::{ENDPOINT_IN, SLOWPATH_IN},
    pins::Pins,
    slow_path,
};
use crate::{datapath::DatapathError, netlink, plan::Plan};

/// Takes the programs off all interfaces and removes the maps, for another data path to begin. The
/// kernel's VXLAN devices stay: it adopts them. They and the endpoints' interfaces are set down until
/// it guards them.
///
/// # Errors
/// If something is left.
pub async fn leave(bpffs: &Path) -> Result<(), DatapathError> {
    let netlink = connect()?;
    for pins in Pins::existing(bpffs)? {
        for (program, ifindex) in pins.attached()? {
            if [ENDPOINT_IN, SLOWPATH_IN].contains(&program.as_str()) && netlink::name_at(ifindex).is_some() {
                let down = LinkUnspec::new_with_index(ifindex).down().build();
                netlink.link().change(down).execute().await.map_err(|cause| DatapathError::Netlink {
                    what: format!("cannot set interface {ifindex} down"),
                    cause,
                })?;
            }
        }
        pins.remove_all()?;
    }
    Ok(())
}

/// Takes everything of the BPF data path out of the kernel, whether or not a daemon runs.
///
/// # Errors
/// If something is left.
pub async fn remove(bpffs: &Path) -> Result<(), DatapathError> {
    leave(bpffs).await?;
    let netlink = connect()?;
    slow_path::remove_others(&netlink, &Plan::default()).await?;
    Ok(())
}
