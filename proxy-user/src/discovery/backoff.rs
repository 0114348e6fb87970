//! How long to wait before trying a failed server again: longer each time, up to two seconds, and never
//! in step with other daemons. Pure: the random part is an argument.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The next wait. `chance` is in 0..1 and spreads it over the upper half of the range.
    pub(super) fn next(&mut self, chance: f64) -> Duration {
        let ceiling = FIRST.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
    }
}

/// `interval`, give or take a tenth.
pub(super) fn jittered(interval: Duration, chance: f64) -> Duration {
    interval.mul_f64(0.9 + chance.clamp(0.0, 1.0) / 5.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_start_again_after_a_success() {
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..8).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
        backoff.reset();
        assert_eq!(backoff.next(0.0).as_millis(), 25);
    }

    #[test]
    fn a_thousand_failures_do_not_overflow() {
        let mut backoff = Backoff::default();
        assert!((0..1000).all(|_| backoff.next(0.3) <= LONGEST));
    }

    #[test]
    fn jitter_stays_within_a_tenth() {
        let second = Duration::from_secs(1);
        assert_eq!(jittered(second, 0.0).as_millis(), 900);
        assert_eq!(jittered(second, 1.0).as_millis(), 1100);
    }
}
