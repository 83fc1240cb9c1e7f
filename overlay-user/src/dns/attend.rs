//! Looking after one place: entering it, listening, and leaving it when that is over.

use std::{future::pending, io, net::Ipv4Addr, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{interval, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    Resolver, Scope,
    listener::Listener,
    place::{HOST_DEVICE, Sandbox, Sockets, address_host},
};

/// How often it is looked whether a place is still what it was.
const LOOK: Duration = Duration::from_secs(1);

/// How often the host's address is made sure of, and tried again if it could not be had.
const LOOK_AT_HOST: Duration = Duration::from_secs(5);

/// What looks after places.
#[derive(Clone)]
pub struct Attendant {
    pub resolver: Arc<Resolver>,
    /// Cancelled once names are known: until then queries wait in the sockets.
    pub ready: CancellationToken,
}

// === impl Attendant ===

impl Attendant {
    /// Serves a sandbox as long as it has a scope. Returns its path.
    pub async fn attend(self, path: PathBuf, mut scope: watch::Receiver<Option<Arc<Scope>>>) -> PathBuf {
        let address = self.resolver.addr;
        while scope.borrow().is_some() {
            match Sandbox::open(&path, address).await {
                Ok((sandbox, sockets)) => {
                    self.resolver.note(&path, None);
                    let _serving = self.resolver.figures.serving();
                    tokio::select! {
                        problem = self.serve(sockets, scope.clone()) => self.resolver.note(&path, Some(problem)),
                        () = gone(&sandbox) => tracing::debug!(sandbox = %path.display(), "the namespace is gone"),
                        () = withdrawn(&mut scope) => {
                            if let Err(error) = sandbox.leave(address).await {
                                tracing::debug!(%error, sandbox = %path.display(), "the address stays");
                            }
                            continue;
                        }
                    }
                }
                // It is about to be made, or was taken away before its name was.
                Err(_) if !path.exists() => self.resolver.note(&path, None),
                Err(error) => {
                    self.resolver.note(&path, Some(format!("names are not served in {error}")));
                }
            }
            tokio::select! { () = sleep(LOOK) => {}, () = withdrawn(&mut scope) => {} }
        }
        self.resolver.note(&path, None);
        path
    }

    /// Serves the host, where nobody has names of ours, for ever, from when there is Docker's socket.
    pub async fn attend_host(self, docker: PathBuf) {
        while !docker.exists() {
            sleep(LOOK_AT_HOST).await;
        }
        let place = PathBuf::from(HOST_DEVICE);
        let address = self.resolver.addr;
        // Nobody is on a network there.
        let (_scope, scope) = watch::channel(Some(Arc::default()));
        loop {
            let listening = async {
                address_host(address).await?;
                Sockets::bind(address)
            };
            let problem = match listening.await {
                Ok(sockets) => {
                    self.resolver.note(&place, None);
                    tokio::select! {
                        problem = self.serve(sockets, scope.clone()) => problem,
                        error = keep_host_addressed(address) => error.to_string(),
                    }
                }
                Err(error) => error.to_string(),
            };
            self.resolver.note(&place, Some(format!("names are not served on the host: {problem}")));
            sleep(LOOK_AT_HOST).await;
        }
    }

    /// Serves until that cannot go on, and says why.
    async fn serve(&self, sockets: Sockets, scope: watch::Receiver<Option<Arc<Scope>>>) -> String {
        self.ready.cancelled().await;
        let listener = Listener { resolver: Arc::clone(&self.resolver), scope };
        match listener.serve(sockets).await {
            Err(error) => format!("the sockets of a resolver cannot be used: {error}"),
            Ok(never) => match never {},
        }
    }
}

/// Waits until a sandbox is no longer to be served. The end of the daemon is not that.
async fn withdrawn(scope: &mut watch::Receiver<Option<Arc<Scope>>>) {
    if scope.wait_for(Option::is_none).await.is_err() {
        pending::<()>().await;
    }
}

/// Gives the host the address back whenever somebody took it away, until that fails.
async fn keep_host_addressed(address: Ipv4Addr) -> io::Error {
    loop {
        sleep(LOOK_AT_HOST).await;
        if let Err(error) = address_host(address).await {
            return error;
        }
    }
}

/// Waits until the sandbox's file stands for it no longer.
async fn gone(sandbox: &Sandbox) {
    let mut looks = interval(LOOK);
    while sandbox.is_there() {
        looks.tick().await;
    }
}
