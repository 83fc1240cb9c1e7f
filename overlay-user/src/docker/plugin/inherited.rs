//! Sockets that listened before this process was: systemd holds the plugin's (`overlayd.socket`), so that what Docker
//! asks while no daemon runs waits in its queue.

use std::{
    fs,
    os::{
        fd::{FromRawFd as _, OwnedFd, RawFd},
        unix::net::UnixListener,
    },
    path::Path,
    sync::OnceLock,
};

/// The Unix sockets that whoever started this process had listening for it (`sd_listen_fds(3)`).
#[derive(Debug, Default)]
pub struct Inherited(Vec<UnixListener>);

impl Inherited {
    /// Those of this process. Who begins early keeps them from the processes that this one starts.
    #[must_use]
    pub fn here() -> &'static Self {
        static HERE: OnceLock<Inherited> = OnceLock::new();
        HERE.get_or_init(|| match sd_notify::listen_fds() {
            Ok(files) => Self(files.filter_map(listener).collect()),
            Err(error) => {
                tracing::warn!(%error, "the sockets that this was started with cannot be had");
                Self::default()
            }
        })
    }

    /// The one that is bound to `path`, if there is one.
    #[must_use]
    pub fn at(&self, path: &Path) -> Option<&UnixListener> {
        self.0.iter().find(|listener| is_bound_to(listener, path))
    }

    /// All that are not bound to `path`.
    pub fn but(&self, path: Option<&Path>) -> impl Iterator<Item = &UnixListener> {
        self.0.iter().filter(move |listener| !path.is_some_and(|path| is_bound_to(listener, path)))
    }
}

fn listener(file: RawFd) -> Option<UnixListener> {
    // SAFETY: who started this process opened the file for it, and nobody else in it knows of it: `here` comes here once
    // for each. `listen_fds` has found it open.
    let listener = UnixListener::from(unsafe { OwnedFd::from_raw_fd(file) });
    match listener.local_addr() {
        Ok(_) => Some(listener),
        Err(error) => {
            tracing::warn!(file, %error, "started with a file that is no Unix socket: closed");
            None
        }
    }
}

/// Whether it is bound to a path, which may be spelt in another way: `/var/run` is a link.
fn is_bound_to(listener: &UnixListener, path: &Path) -> bool {
    let addr = listener.local_addr().ok();
    let Some(bound) = addr.as_ref().and_then(|addr| addr.as_pathname()) else { return false };
    let directory = |path: &Path| path.parent().and_then(|parent| fs::canonicalize(parent).ok());
    bound == path || (bound.file_name() == path.file_name() && directory(bound) == directory(path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_socket_of_a_path_is_told_from_others_however_the_path_is_spelt() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("run")).unwrap();
        symlink(at("run"), at("link")).unwrap();
        let bind = |name: &str| UnixListener::bind(at(name)).unwrap();
        let inherited = Inherited(vec![bind("run/a"), bind("run/b")]);
        for spelt in ["run/b", "link/b"] {
            let found = inherited.at(&at(spelt)).unwrap();
            assert_eq!(found.local_addr().unwrap().as_pathname(), Some(&*at("run/b")), "{spelt}");
            assert_eq!(inherited.but(Some(&at(spelt))).count(), 1);
        }
        assert!(inherited.at(&at("run/c")).is_none());
        assert_eq!(inherited.but(None).count(), 2);
    }

    #[test]
    fn a_file_that_is_no_socket_is_not_listened_on() {
        let file = std::os::fd::IntoRawFd::into_raw_fd(fs::File::open("/dev/null").unwrap());
        assert!(listener(file).is_none());
    }
}
