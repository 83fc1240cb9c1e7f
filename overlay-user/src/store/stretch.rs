//! Reading a long range of keys in stretches that hold about a page each.
//!
//! For each page etcd 3.4 walks through all that is left of the range it is asked for
//! (`server/mvcc/kvstore_txn.go`, `rangeKeys`), a microsecond or so for each key: pages of one range of a million
//! keys cost more than the keys. So each page asks for the keys of one beginning only, as long a beginning as
//! leaves a page or less.

/// What of a range is still to be read, and how much of that is asked for next.
#[derive(Debug)]
pub(super) struct Stretches {
    from: Vec<u8>,
    end: Vec<u8>,
    /// How many bytes the keys of the next stretch share; as many as the range's own share at the least.
    shared: usize,
    least: usize,
    /// One byte less for once: nothing may be left of its parent, as behind the last digit.
    up: bool,
}

// === impl Stretches ===

impl Stretches {
    /// The keys from one up to but not including another.
    pub fn new(from: Vec<u8>, end: Vec<u8>) -> Self {
        let least = in_common(&from, &end);
        Self { from, end, shared: least, least, up: false }
    }

    /// From where up to but not including where to ask next; `None`: all is read.
    pub fn next(&self) -> Option<(&[u8], Vec<u8>)> {
        (self.from < self.end).then(|| (self.from.as_slice(), self.stop()))
    }

    /// A page of at most `limit` keys was read of the stretch, the first and last of them as given; there is `more`
    /// in it.
    pub fn took(&mut self, ends: Option<(&[u8], &[u8])>, count: usize, limit: usize, more: bool) {
        match ends {
            Some((first, last)) if more => {
                self.shared = in_common(first, last).min(last.len() - 1) + 1;
                self.from = [last, b"\0"].concat();
                self.up = false;
            }
            _ => {
                let once = count == 0 && !self.up && self.from.len() >= self.shared;
                self.from = self.stop();
                // Sixteen times as many are in a stretch that shares one hexadecimal digit less.
                if count <= limit / 16 && !once {
                    self.shared = self.shared.saturating_sub(1).max(self.least);
                }
                self.up = once;
            }
        }
    }

    fn stop(&self) -> Vec<u8> {
        let shared = self.shared - usize::from(self.up && self.shared > self.least);
        if shared <= self.least {
            return self.end.clone();
        }
        let beginning = &self.from[..shared.min(self.from.len())];
        after(beginning).map_or_else(|| self.end.clone(), |stop| stop.min(self.end.clone()))
    }
}

/// The first key after all that begin with `beginning`; `None`: there is none.
pub(super) fn after(beginning: &[u8]) -> Option<Vec<u8>> {
    let raised = beginning.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut after = beginning[..=raised].to_vec();
    after[raised] += 1;
    Some(after)
}

fn in_common(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::{collection::btree_set, prelude::*};

    use super::*;

    /// Reads as a client does. Returns the keys, how many times was asked and how many keys the store walked through.
    fn read(keys: &BTreeSet<Vec<u8>>, from: &[u8], end: &[u8], limit: usize) -> (Vec<Vec<u8>>, usize, usize) {
        let (mut all, mut asked, mut walked) = (Vec::new(), 0, 0);
        let mut stretches = Stretches::new(from.to_vec(), end.to_vec());
        while let Some((from, stop)) = stretches.next() {
            assert!(from < stop.as_slice());
            let in_range = || keys.range(from.to_vec()..stop.clone());
            let page: Vec<_> = in_range().take(limit).cloned().collect();
            asked += 1;
            walked += in_range().count();
            let more = in_range().count() > limit;
            let ends = page.first().zip(page.last()).map(|(first, last)| (first.as_slice(), last.as_slice()));
            stretches.took(ends, page.len(), limit, more);
            all.extend(page);
        }
        (all, asked, walked)
    }

    fn endpoints(networks: usize, each: usize) -> BTreeSet<Vec<u8>> {
        let key = |network, endpoint: usize| {
            let spread = (endpoint as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            format!("/overlay/v1/c/endpoints/net{network}/{spread:016x}").into_bytes()
        };
        (0..networks).flat_map(|network| (0..each).map(move |endpoint| key(network, endpoint))).collect()
    }

    #[test]
    fn walks_through_each_key_a_few_times() {
        for (networks, each) in [(1, 100_000), (10, 10_000), (1_000, 100), (50_000, 2)] {
            let keys = endpoints(networks, each);
            let (all, asked, walked) =
                read(&keys, b"/overlay/v1/c/endpoints/", b"/overlay/v1/c/endpoints0", 1_000);
            assert_eq!(all.len(), keys.len());
            assert!(asked < keys.len() / 40, "{networks} networks: asked {asked} times");
            assert!(walked < keys.len() * 5, "{networks} networks: {walked} keys walked through");
        }
    }

    #[test]
    fn a_few_keys_are_one_page() {
        let (_, asked, _) = read(&endpoints(3, 100), b"/overlay/", b"/overlay0", 1_000);
        assert_eq!(asked, 1);
    }

    proptest! {
        #[test]
        fn finds_every_key_once(
            keys in btree_set(prop::collection::vec(prop_oneof![0_u8..3, 253_u8..=255], 1..6), 0..200),
            range in btree_set(prop::collection::vec(prop_oneof![0_u8..3, 253_u8..=255], 1..3), 2),
            limit in 1_usize..20,
        ) {
            let ends: Vec<_> = range.into_iter().collect();
            let expected: Vec<_> = keys.range(ends[0].clone()..ends[1].clone()).cloned().collect();
            prop_assert_eq!(read(&keys, &ends[0], &ends[1], limit).0, expected);
        }
    }
}
