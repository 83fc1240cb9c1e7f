//! Sockets that listened before this process was: systemd holds the plugin's (`overlayd.socket`), so that what Docker
//! asks while no daemon runs waits in its queue.

use std::{
    fs,
    os::{
        fd::{FromRawFd as _, OwnedFd, RawFd},
        unix::net::UnixListener,
    },
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

/// The Unix sockets that whoever started this process had listening for it (`sd_listen_fds(3)`).
#[derive(Debug, Default)]
pub struct Inherited(Vec<UnixListener>);

impl Inherited {
    /// Takes them: who calls it again gets none.
    #[must_use]
    pub fn take() -> Self {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        if TAKEN.swap(true, Ordering::Relaxed) {
            return Self::default();
        }
        match sd_notify::listen_fds() {
            Ok(files) => Self(files.filter_map(listener).collect()),
            Err(error) => {
                tracing::warn!(%error, "the sockets that this was started with cannot be had");
                Self::default()
            }
        }
    }

    /// The one that is bound to `path`, if there is one, and all others.
    #[must_use]
    pub fn split(self, path: Option<&Path>) -> (Option<UnixListener>, Vec<UnixListener>) {
        let mut others = self.0;
        let wanted = path.and_then(|path| others.iter().position(|listener| is_bound_to(listener, path)));
        (wanted.map(|at| others.swap_remove(at)), others)
    }
}

fn listener(file: RawFd) -> Option<UnixListener> {
    // SAFETY: who started this process opened the file for it and nobody else in it knows of it: `take` comes here
    // once. `listen_fds` has found it open.
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
        let inherited = || {
            for name in ["run/a", "run/b"] {
                let _ = fs::remove_file(at(name));
            }
            Inherited(vec![bind("run/a"), bind("run/b")])
        };
        for spelt in ["run/b", "link/b"] {
            let (wanted, others) = inherited().split(Some(&at(spelt)));
            assert_eq!(wanted.unwrap().local_addr().unwrap().as_pathname(), Some(&*at("run/b")), "{spelt}");
            assert_eq!(others.len(), 1);
        }
        assert!(inherited().split(Some(&at("run/c"))).0.is_none());
        assert_eq!(inherited().split(None).1.len(), 2);
    }

    #[test]
    fn a_file_that_is_no_socket_is_not_listened_on() {
        let file = std::os::fd::IntoRawFd::into_raw_fd(fs::File::open("/dev/null").unwrap());
        assert!(listener(file).is_none());
    }
}
