//! Endpoints in the making, on disk: what a daemon that was killed in the middle has left half-made.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::state::{EndpointId, NetworkName};

/// Which endpoints are being made. Each has a file, named by its identity, that holds its network's name.
#[derive(Clone)]
pub struct Journal(Arc<Inner>);

struct Inner {
    directory: PathBuf,
    under_way: Mutex<BTreeSet<EndpointId>>,
}

/// An endpoint is in the making until this is dropped.
#[must_use]
pub struct InTheMaking {
    journal: Journal,
    id: EndpointId,
}

impl Journal {
    /// The journal in a daemon's state directory.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self(Arc::new(Inner { directory: state_dir.join("attaching"), under_way: Mutex::default() }))
    }

    /// Notes that an endpoint is in the making.
    pub fn begin(&self, network: &NetworkName, id: &EndpointId) -> InTheMaking {
        self.under_way().insert(id.clone());
        let directory = &self.0.directory;
        let noted = fs::create_dir_all(directory).and_then(|()| fs::write(self.file(id), network.as_str()));
        if let Err(error) = noted {
            let directory = directory.display();
            tracing::warn!(%error, "{directory} cannot be written: an attach that is cut off would be left half-made");
        }
        InTheMaking { journal: self.clone(), id: id.clone() }
    }

    /// Whether this process is making an endpoint.
    #[must_use]
    pub fn is_under_way(&self, id: &EndpointId) -> bool {
        self.under_way().contains(id)
    }

    /// What earlier processes have left half-made.
    #[must_use]
    pub fn left(&self) -> Vec<(NetworkName, EndpointId)> {
        let entries = fs::read_dir(&self.0.directory).into_iter().flatten().flatten();
        let left = entries.filter_map(|entry| {
            let id: EndpointId = entry.file_name().to_str()?.parse().ok()?;
            let network = fs::read_to_string(entry.path()).ok()?.parse().ok()?;
            Some((network, id))
        });
        left.filter(|(_, id)| !self.is_under_way(id)).collect()
    }

    /// Forgets an endpoint that is no longer half-made.
    pub fn forget(&self, id: &EndpointId) {
        // What cannot be removed is looked at again at the next start.
        let _ = fs::remove_file(self.file(id));
    }

    fn file(&self, id: &EndpointId) -> PathBuf {
        self.0.directory.join(id.to_string())
    }

    fn under_way(&self) -> MutexGuard<'_, BTreeSet<EndpointId>> {
        // Nothing panics while it is held.
        self.0.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InTheMaking {
    fn drop(&mut self) {
        self.journal.forget(&self.id);
        self.journal.under_way().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cut_off_is_left_and_what_is_under_way_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let network: NetworkName = "blue".parse().unwrap();
        let (killed, done, under_way) = (EndpointId::random(), EndpointId::random(), EndpointId::random());
        let before = Journal::new(directory.path());
        std::mem::forget(before.begin(&network, &killed));
        drop(before.begin(&network, &done));

        let now = Journal::new(directory.path());
        let making = now.begin(&network, &under_way);
        assert_eq!(now.left(), [(network, killed.clone())]);
        assert!(now.is_under_way(&under_way) && !now.is_under_way(&killed));
        drop(making);
        now.forget(&killed);
        assert_eq!(now.left(), []);
    }
}
