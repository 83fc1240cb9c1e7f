//! `overlayd --purge`: takes everything of ours out of the kernel.

use std::fs;

use nix::net::if_::if_nameindex;

use super::{DaemonError, choice};
use crate::{api::Claim, config::Config, device, dns, state::EndpointId};

/// Removes programs, pins and devices of this network namespace. Records in the store stay.
///
/// # Errors
/// If a daemon runs here, or something is left; the text names it.
pub async fn purge(config: &Config) -> Result<(), DaemonError> {
    let _claim = Claim::take(&config.run_dir)?;
    let mut left = choice::remove_all(config).await;
    // Empty now, if it is there, unless something in it is somebody else's or has been told of.
    let _ = fs::remove_dir(&config.bpffs);
    for device in endpoint_devices().map_err(|errno| DaemonError::Purge(errno.to_string()))? {
        match device::remove(&device).await {
            Ok(()) => tracing::info!(device, "removed"),
            Err(error) => left.push(error.to_string()),
        }
    }
    let address = config.dns.unwrap_or(dns::DEFAULT_ADDRESS);
    if let Err(error) = dns::remove_from_host(address).await {
        left.push(error.to_string());
    }
    if left.is_empty() { Ok(()) } else { Err(DaemonError::Purge(left.join("; "))) }
}

/// Names of the host's ends of all endpoints here, those nobody knows any more included.
fn endpoint_devices() -> nix::Result<Vec<String>> {
    let interfaces = if_nameindex()?;
    let names = interfaces.iter().filter_map(|interface| interface.name().to_str().ok());
    Ok(names.filter(|name| is_host_device(name)).map(str::to_owned).collect())
}

fn is_host_device(name: &str) -> bool {
    EndpointId::of_host_device(name).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_devices_are_taken_for_ours() {
        assert!(is_host_device(&EndpointId::random().host_device()));
        for other in ["ov42", "ovs-system", "eth0", "ov00000000000g", "lo"] {
            assert!(!is_host_device(other), "{other}");
        }
    }
}
