//! When to try again.

use std::time::Duration;

/// The least and the greatest wait after a failure.
const LEAST: Duration = Duration::from_millis(200);
const GREATEST: Duration = Duration::from_secs(5);

/// Waits that double from failure to failure.
#[derive(Debug)]
pub struct Pace {
    failures: u32,
    /// How long a success is taken to last.
    undisturbed: Duration,
}

impl Pace {
    /// A pace at which everything is looked at again each `undisturbed` though nothing seems to have changed.
    pub const fn new(undisturbed: Duration) -> Self {
        Self { failures: 0, undisturbed }
    }

    /// How long to wait after an attempt that went well.
    pub fn after_success(&mut self) -> Duration {
        self.failures = 0;
        self.undisturbed
    }

    /// How long to wait after one that did not.
    pub fn after_failure(&mut self) -> Duration {
        let wait = LEAST.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        wait.min(GREATEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_five_seconds_and_begin_anew_after_success() {
        let undisturbed = Duration::from_secs(30);
        let mut pace = Pace::new(undisturbed);
        let waits: Vec<_> = (0..7).map(|_| pace.after_failure().as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(pace.after_success(), undisturbed);
        assert_eq!(pace.after_failure(), LEAST);
    }
}
