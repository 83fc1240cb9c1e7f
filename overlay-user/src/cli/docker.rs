//! dockerd's settings: that containers ask overlayd for names.

mod process;
mod restart;
mod settings;

use std::{
    fs,
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use serde::Serialize;

use self::{process::Dockerd, settings::changed};
use super::{args::SetupArgs, output::Show};
use crate::docker::engine::Engine;

/// Where dockerd reads its settings.
pub const DAEMON_JSON: &str = "/etc/docker/daemon.json";

/// Who may read a new file of settings: dockerd's have no secrets.
const MODE: u32 = 0o644;

/// What was done to dockerd's settings.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Setup {
    /// The file.
    file: PathBuf,
    /// What was changed, one sentence each.
    changed: Vec<String>,
    /// dockerd was restarted.
    restarted: bool,
    /// It has to be, for that to hold.
    to_restart: bool,
}

/// Why dockerd's settings are not as they should be.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The file cannot be read or written.
    #[error("{}: {source}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is no JSON object, or has something else where a setting should be.
    #[error("{} is not as dockerd takes it, so nothing was changed: {what}; mend it first", file.display())]
    Malformed {
        /// Which.
        file: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// dockerd would not start with it.
    #[error(
        "dockerd was started with {flag}, and does not start with the same in {}: nothing was changed; take {flag} off \
         its command line (`systemctl edit --full docker`), then do this again",
        file.display()
    )]
    Flag {
        /// The flag.
        flag: String,
        /// The file.
        file: PathBuf,
    },
    /// It cannot be restarted without harm.
    #[error(
        "{} is as it should be, but dockerd is in a Swarm, where its containers end with it: restart it yourself when that \
         may be",
        file.display()
    )]
    Swarm {
        /// The file.
        file: PathBuf,
    },
    /// It could not be restarted.
    #[error(
        "{} is as it should be, but dockerd was not restarted: {what}; restart it yourself, or where systemd does not look \
         after it say with `--restart-by COMMAND` what does",
        file.display()
    )]
    Restart {
        /// The file.
        file: PathBuf,
        /// Why.
        what: String,
    },
}

/// Sees that dockerd asks overlayd for names and leaves containers running while it restarts.
pub async fn set_up(args: SetupArgs) -> Result<Setup, SetupError> {
    let SetupArgs { file, dns, restart, restart_by, docker } = args;
    let fail = |source| SetupError::File { file: file.clone(), source };
    // What a link leads to is changed, and the link left.
    let target = fs::canonicalize(&file).unwrap_or_else(|_| file.clone());
    let old = match fs::read_to_string(&target) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Err(fail(error)),
    };
    // Swarm does not start with live-restore. One that does not answer is in none that matters.
    let in_swarm = match Engine::connect(&docker.path).await {
        Ok(engine) => engine.is_in_swarm().await.unwrap_or_default(),
        Err(_) => false,
    };
    let malformed = |what| SetupError::Malformed { file: file.clone(), what };
    let new = changed(&old, dns, !in_swarm).map_err(malformed)?;
    let runs = Dockerd::reading(&file);
    let changed = match new {
        None => Vec::new(),
        Some((new, changed)) => {
            if let Some(flag) = runs.as_ref().and_then(Dockerd::flag_in_the_way) {
                return Err(SetupError::Flag { flag, file });
            }
            write(&target, &new).map_err(fail)?;
            changed
        }
    };
    let is_due = !changed.is_empty() || runs.as_ref().is_some_and(|dockerd| dockerd.is_older_than(&target));
    let wanted = is_due && (restart || restart_by.is_some());
    if wanted && in_swarm {
        return Err(SetupError::Swarm { file });
    }
    if wanted {
        let restarted = restart::restart(restart_by.as_deref(), &docker.path, runs.as_ref()).await;
        restarted.map_err(|what| SetupError::Restart { file: file.clone(), what })?;
    }
    Ok(Setup { file, changed, restarted: wanted, to_restart: is_due && !wanted })
}

/// Writes a file so that it is always whole, for whom it was before.
fn write(file: &Path, text: &str) -> io::Result<()> {
    let mode = fs::metadata(file).map_or(MODE, |old| old.permissions().mode());
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory)?;
    }
    let beside = file.with_extension("json.new");
    let mut new = fs::File::options().write(true).create(true).truncate(true).mode(mode).open(&beside)?;
    new.write_all(text.as_bytes())?;
    new.sync_all()?;
    fs::rename(beside, file)
}

impl Show for Setup {
    fn text(&self) -> String {
        let Self { file, changed, restarted, to_restart } = self;
        let file = file.display().to_string();
        let mut text = match changed.as_slice() {
            [] => format!("{file}: nothing to change\n"),
            changed => changed.iter().flat_map(|change| [&file, ": ", change, "\n"]).collect(),
        };
        if *restarted {
            text.push_str("dockerd was restarted\n");
        }
        if *to_restart {
            text.push_str(
                "dockerd must be restarted once, for it reads name servers only at its start: `systemctl reload docker && \
                 systemctl restart docker`. The reload first, so that containers run on\n",
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::config::DockerSocket;

    const OURS: Ipv4Addr = Ipv4Addr::new(169, 254, 53, 53);

    #[tokio::test]
    async fn a_file_is_replaced_for_whom_it_was_and_links_are_left() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("real.json"), directory.path().join("daemon.json"));
        fs::write(&file, "{}").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let docker = DockerSocket { path: directory.path().join("docker.sock"), given: true };
        let args = || SetupArgs {
            file: link.clone(),
            dns: OURS,
            restart: false,
            restart_by: None,
            docker: docker.clone(),
        };
        let done = set_up(args()).await.unwrap();
        assert!(done.changed.len() == 2 && done.to_restart && !done.restarted, "{done:?}");
        assert!(link.is_symlink());
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(set_up(args()).await.unwrap().changed.is_empty());
        fs::write(&file, "{").unwrap();
        let error = set_up(args()).await.unwrap_err().to_string();
        assert!(error.contains("so nothing was changed: EOF"), "{error}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "{");
    }
}
