//! Small numbers for names: rows of arrays that the programs reach without a hash.

use std::collections::{BTreeMap, BTreeSet};

/// Numbers given to keys, each number to one key at a time.
#[derive(Clone, Debug)]
pub struct Indices<K> {
    first: u32,
    end: u32,
    taken: BTreeMap<K, u32>,
    /// Numbers that rows in the kernel may still point to, though no key has them.
    resting: BTreeSet<u32>,
}

impl<K: Ord + Clone> Indices<K> {
    /// Numbers from `first` up to but not including `end`.
    #[must_use]
    pub const fn new(first: u32, end: u32) -> Self {
        Self { first, end, taken: BTreeMap::new(), resting: BTreeSet::new() }
    }

    /// The number of a key.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<u32> {
        self.taken.get(key).copied()
    }

    /// Gives a key the number that a former daemon gave it.
    pub fn adopt(&mut self, key: K, index: u32) {
        if (self.first..self.end).contains(&index) && !self.taken.values().any(|taken| *taken == index) {
            self.resting.remove(&index);
            self.taken.insert(key, index);
        }
    }

    /// Keeps a number from being given out until [`Self::settle`].
    pub fn rest(&mut self, index: u32) {
        self.resting.insert(index);
    }

    /// Takes the numbers of all other keys back, and gives each of these keys one. Numbers taken back
    /// rest until [`Self::settle`]. Returns how many keys got none.
    pub fn assign<'a>(&mut self, keys: impl IntoIterator<Item = &'a K>) -> usize
    where
        K: 'a,
    {
        let mut wanted: BTreeMap<K, Option<u32>> = BTreeMap::new();
        for key in keys {
            let index = self.taken.remove(key);
            wanted.insert(key.clone(), index);
        }
        self.resting.extend(std::mem::take(&mut self.taken).into_values());
        let used: BTreeSet<u32> = wanted.values().flatten().chain(&self.resting).copied().collect();
        let mut free = (self.first..self.end).filter(|index| !used.contains(index));
        let mut without = 0;
        for (key, index) in wanted {
            match index.or_else(|| free.next()) {
                Some(index) => drop(self.taken.insert(key, index)),
                None => without += 1,
            }
        }
        without
    }

    /// No row in the kernel points to a number that was taken back any more.
    pub fn settle(&mut self) {
        self.resting.clear();
    }

    /// Keys and their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (&K, u32)> {
        self.taken.iter().map(|(key, index)| (key, *index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_not_given_out_again_before_rows_are_gone() {
        let mut indices = Indices::new(1, 4);
        assert_eq!(indices.assign(&["a", "b"]), 0);
        assert_eq!((indices.get(&"a"), indices.get(&"b")), (Some(1), Some(2)));
        assert_eq!(indices.assign(&["b", "c"]), 0);
        assert_eq!((indices.get(&"b"), indices.get(&"c")), (Some(2), Some(3)));
        assert_eq!(indices.assign(&["b", "c", "d"]), 1, "1 rests");
        indices.settle();
        assert_eq!(indices.assign(&["b", "c", "d"]), 0);
        assert_eq!(indices.get(&"d"), Some(1));
    }

    #[test]
    fn adopted_numbers_stay_and_clashes_are_ignored() {
        let mut indices = Indices::new(1, 8);
        indices.adopt("a", 5);
        indices.adopt("b", 5);
        indices.adopt("c", 9);
        indices.rest(1);
        assert_eq!(indices.assign(&["a", "b", "c"]), 0);
        assert_eq!(indices.get(&"a"), Some(5));
        assert!(["b", "c"].iter().all(|k| indices.get(k) != Some(5) && indices.get(k) != Some(1)));
    }
}
