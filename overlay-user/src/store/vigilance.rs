//! How little a watch is trusted that says nothing is wrong.

use std::time::Duration;

/// When a watch is asked whether it lives, when it is taken for dead, and when everything is read again all
/// the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vigilance {
    /// A watch that is silent is asked for its progress this often.
    pub ask: Duration,
    /// A watch that has not answered for this long is dead. It is looked at when it is asked.
    pub silent: Duration,
    /// Everything is read again this often even if nothing seems wrong, with up to a fifth more: etcd 3.4 is
    /// known to lose events.
    pub reread: Duration,
}

impl Default for Vigilance {
    /// What overlayd follows the store with.
    fn default() -> Self {
        Self { ask: Duration::from_secs(10), silent: Duration::from_secs(25), reread: Duration::from_mins(5) }
    }
}
