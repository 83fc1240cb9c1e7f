//! A token bucket: how often something may happen in a second, and how many times at once.

use crate::abi::Bucket;

const SECOND: u64 = 1_000_000_000;

/// The bucket at `now`, in nanoseconds of the same clock, if that adds a token to it. `rate` tokens a
/// second, 1 to 1,000,000, and no more than one second's worth in it.
#[inline(always)]
#[must_use]
#[expect(clippy::cast_possible_wrap, reason = "at most a million tokens")]
pub const fn refilled(bucket: Bucket, now: u64, rate: u32) -> Option<Bucket> {
    let rate = rate as u64;
    let elapsed = now.wrapping_sub(bucket.time);
    if elapsed >= SECOND {
        return Some(Bucket { time: now, tokens: rate as i64 });
    }
    let gained = elapsed * rate / SECOND;
    if gained == 0 {
        return None;
    }
    let tokens = bucket.tokens + gained as i64;
    let tokens = if tokens > rate as i64 { rate as i64 } else { tokens };
    // The time that was not enough for another token counts for the next.
    match (gained * SECOND).checked_div(rate) {
        Some(spent) => Some(Bucket { time: bucket.time + spent, tokens }),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// How many of packets at these times, in nanoseconds, get a token.
    fn let_through(rate: u32, times: impl IntoIterator<Item = u64>) -> u64 {
        let mut bucket = Bucket::default();
        let mut passed = 0;
        for now in times {
            bucket = refilled(bucket, now, rate).unwrap_or(bucket);
            if bucket.tokens > 0 {
                bucket.tokens -= 1;
                passed += 1;
            }
        }
        passed
    }

    #[test]
    fn one_seconds_worth_at_once_and_the_rate_after_it() {
        let start = 77 * SECOND;
        assert_eq!(let_through(100, (0..1000).map(|n| start + n)), 100);
        // For ten seconds a packet each 10 µs.
        let passed = let_through(100, (0..1_000_000).map(|n| start + n * 10_000));
        assert!((1099..=1100).contains(&passed), "{passed}");
        // At just the rate all pass.
        assert_eq!(let_through(100, (0..1000).map(|n| start + n * 10_000_000)), 1000);
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate_allows(
            rate in 1..1_000_000_u32, gaps in prop::collection::vec(0..50_000_000_u64, 1..300),
        ) {
            let mut now = 5 * SECOND;
            let times: Vec<_> = gaps.iter().map(|gap| { now += gap; now }).collect();
            let span = now - times[0];
            let passed = let_through(rate, times);
            prop_assert!(passed <= u64::from(rate) + span * u64::from(rate) / SECOND + 1);
        }
    }
}
