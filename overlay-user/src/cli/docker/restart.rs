//! Restarting dockerd so that its containers run on.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::process::Dockerd;
use crate::docker::engine::Engine;

/// Debian's and Docker's own unit.
const UNIT: &str = "docker.service";

/// How long dockerd may take to read its settings again, or to be there again.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often that is looked for.
const LOOK: Duration = Duration::from_millis(100);

/// Restarts the dockerd that `runs`, if one does, by systemd or by a command of the operator's. Returns when it answers.
pub async fn restart(by: Option<&str>, socket: &Path, runs: Option<&Dockerd>) -> Result<(), String> {
    if let Some(dockerd) = runs {
        // Its containers would end with it, had it not heard before that they are not to.
        dockerd.reload().map_err(|error| format!("it cannot be told to read its settings: {error}"))?;
        outlived(socket).await?;
    } else if Engine::connect(socket).await.is_ok() {
        return Err(format!("the one that answers on {} has other settings", socket.display()));
    }
    match by {
        Some(command) => run("sh", &["-c", command])?,
        None => run("systemctl", &["restart", UNIT])?,
    }
    outlived(socket).await
}

/// Waits until dockerd answers, and its containers will outlive it.
async fn outlived(socket: &Path) -> Result<(), String> {
    let end = Instant::now() + PATIENCE;
    loop {
        let why = match Engine::connect(socket).await {
            Ok(engine) => match engine.leaves_containers().await {
                Ok(true) => return Ok(()),
                Ok(false) => "it does not take \"live-restore\", so its containers would end".to_owned(),
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        if Instant::now() > end {
            return Err(why);
        }
        sleep(LOOK).await;
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let line = [&[program], arguments].concat().join(" ");
    let done = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let done = done.map_err(|error| format!("`{line}`: {error}"))?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(format!("`{line}` says: {}", said.trim().replace('\n', "; ")))
}
