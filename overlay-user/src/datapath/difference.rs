//! Where the kernel is not as it should be, in an operator's words.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Most differences that are named: whoever empties a map of a million rows must not fill the answer.
pub const MOST_DIFFERENCES: usize = 200;

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Difference {
    /// What it is in: a map, a database, an interface.
    pub place: String,
    /// Which of its rows or properties.
    pub what: String,
    /// What is wrong with it.
    pub kind: DifferenceKind,
}

/// What is wrong with a row or object of the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DifferenceKind {
    /// It is not there.
    Missing,
    /// It should not be there.
    Extra,
    /// It is there, but otherwise.
    Different,
}

/// All that were found, as far as there is room to name them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// At most [`MOST_DIFFERENCES`].
    pub named: Vec<Difference>,
    /// How many more there are.
    pub more: usize,
}

impl Differences {
    /// Notes one, if there is room for its words.
    pub fn note(&mut self, kind: DifferenceKind, place: impl Into<String>, what: impl FnOnce() -> String) {
        if self.named.len() < MOST_DIFFERENCES {
            self.named.push(Difference { place: place.into(), what: what(), kind });
        } else {
            self.more += 1;
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    /// Forgets all but what is missing: for a plan that may be older than what the kernel has.
    pub fn only_missing(&mut self) {
        self.named.retain(|difference| difference.kind == DifferenceKind::Missing);
        self.more = 0;
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, what, kind } = self;
        match kind {
            DifferenceKind::Missing => write!(f, "{place}: {what} is missing"),
            DifferenceKind::Extra => write!(f, "{place}: {what} should not be there"),
            DifferenceKind::Different => write!(f, "{place}: {what} is not as planned"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_no_room_for_is_counted() {
        let mut found = Differences::default();
        for n in 0..MOST_DIFFERENCES + 3 {
            found.note(DifferenceKind::Missing, "map endpoints", || n.to_string());
        }
        assert_eq!((found.named.len(), found.more), (MOST_DIFFERENCES, 3));
        assert_eq!(found.named[0].to_string(), "map endpoints: 0 is missing");
    }

    #[test]
    fn by_an_old_plan_only_what_is_missing_counts() {
        let mut found = Differences::default();
        found.note(DifferenceKind::Extra, "a", || "b".into());
        found.only_missing();
        assert!(found.is_empty());
    }
}
