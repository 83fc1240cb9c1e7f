//! What has become of queries, counted.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What became of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// We have answered, if only that something is not there.
    Answered,
    /// Another server's answer was handed on.
    Forwarded,
    /// No other server has answered.
    Unanswered,
    /// It was none, not one for us, or there were too many.
    Refused,
}

/// Counts of outcomes, and of the containers served.
#[derive(Debug, Default)]
pub struct Figures {
    outcomes: [AtomicU64; 4],
    sandboxes: AtomicUsize,
}

/// Counts a container as served until dropped.
#[derive(Debug)]
pub struct Serving<'a>(&'a Figures);

// === impl Figures ===

impl Figures {
    /// Counts one.
    pub fn count(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How often something has become of a query.
    #[must_use]
    pub fn of(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize].load(Ordering::Relaxed)
    }

    /// Counts one more container.
    #[must_use]
    pub fn serving(&self) -> Serving<'_> {
        self.sandboxes.fetch_add(1, Ordering::Relaxed);
        Serving(self)
    }

    /// How many containers are served.
    #[must_use]
    pub fn sandboxes(&self) -> usize {
        self.sandboxes.load(Ordering::Relaxed)
    }
}

// === impl Serving ===

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.0.sandboxes.fetch_sub(1, Ordering::Relaxed);
    }
}
