//! Telling the init system that what depends on overlayd may start.

use std::{future::pending, time::Duration};

use sd_notify::NotifyState;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{Known, Progress};

/// How long a store may take to tell the first state where none was kept: longer than a kept one is
/// held back for it.
const NOTHING_KNOWN: Duration = Duration::from_secs(5);

/// Says READY once a state is forwarded by, read from the store or kept from the last run. Where there is
/// none, which is so on a node's first start, there is nothing to wait for but etcd: containers that
/// have no part in an overlay, etcd's own among them, are not to wait for that.
pub async fn announce(
    mut progress: watch::Receiver<Progress>,
    known: watch::Receiver<Known>,
    cancel: CancellationToken,
) {
    let nothing_known = async {
        sleep(NOTHING_KNOWN).await;
        if known.borrow().state.revision > 0 {
            pending::<()>().await;
        }
    };
    let status = tokio::select! {
        Ok(_) = progress.wait_for(|progress| progress.applied.is_some()) => "forwarding",
        () = nothing_known => "no state to forward by: etcd has not answered yet",
        () = cancel.cancelled() => return,
    };
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(status)]) {
        tracing::warn!(%error, "systemd could not be told that overlayd is ready");
    }
}
