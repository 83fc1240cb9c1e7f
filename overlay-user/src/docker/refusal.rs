//! Telling Docker that nobody serves it on a socket that systemd holds: it would wait for an answer for ever.

use std::{io, os::unix::net::UnixListener, time::Duration};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::plugin::{self, Inherited};

/// Of a socket that the settings do not name.
pub(super) const NOT_HERE: &str = "overlayd does not serve Docker here: its --docker-plugin is another file, or none. \
                                   If that is meant, disable overlayd.socket";

/// How long requests that wait already take to be answered.
const ANSWERED: Duration = Duration::from_millis(200);

/// Answers whoever waits on the sockets that systemd holds with the reason why overlayd does not start.
pub async fn tell_who_waits(why: &str) {
    if Inherited::here().but(None).next().is_none() {
        return;
    }
    let cancel = CancellationToken::new();
    let error = format!("overlayd does not start: {why}");
    let told = Inherited::here().but(None).map(|listener| refuse(listener, error.clone(), cancel.clone()));
    let over = async {
        sleep(ANSWERED).await;
        cancel.cancel();
    };
    tokio::join!(futures::future::join_all(told), over);
}

/// Answers all that is asked on a socket with an error, until `cancel`.
pub(super) async fn refuse(listener: &UnixListener, error: String, cancel: CancellationToken) {
    let listen = || -> io::Result<_> {
        let listener = listener.try_clone()?;
        listener.set_nonblocking(true)?;
        tokio::net::UnixListener::from_std(listener)
    };
    let refused = async { plugin::refuse(listen()?, error, cancel).await };
    if let Err(error) = refused.await {
        tracing::warn!(%error, "who asks on a socket of systemd's is not answered");
    }
}
