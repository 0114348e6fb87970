//! Keeps an error that repeats from filling the log: one line a period with the number of repeats,
//! or one line until it is over. Both are safe in a `static` and take no lock.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Where the clock of [`Every`] starts: an instant has no representation that fits an atomic.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Lets a line through once a period.
///
/// ```
/// use std::time::Duration;
/// static ACCEPT: switchmaster::log::Every = switchmaster::log::Every::new(Duration::from_secs(10));
/// if let Some(repeats) = ACCEPT.pass() {
///     tracing::warn!(repeats, "cannot accept connections");
/// }
/// ```
#[derive(Debug)]
pub struct Every {
    period: Duration,
    /// Milliseconds on our clock, from 1; 0: never yet.
    next: AtomicU64,
    held: AtomicU64,
}

impl Every {
    pub const fn new(period: Duration) -> Self {
        Self { period, next: AtomicU64::new(0), held: AtomicU64::new(0) }
    }

    /// The number of lines held back since the last one that passed, if this one passes.
    pub fn pass(&self) -> Option<u64> {
        LazyLock::force(&START);
        self.pass_at(Instant::now())
    }

    /// As [`Self::pass`], at a given time.
    pub fn pass_at(&self, now: Instant) -> Option<u64> {
        let now = millis(now.saturating_duration_since(*START)).saturating_add(1);
        let next = self.next.load(Ordering::Relaxed);
        let later = now.saturating_add(millis(self.period));
        // Of several threads that come at once, the one that sets the next time is let through.
        let won = now >= next && self.next.compare_exchange(next, later, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if won {
            return Some(self.held.swap(0, Ordering::Relaxed));
        }
        self.held.fetch_add(1, Ordering::Relaxed);
        None
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Lets a line through once, until what it told of is over.
#[derive(Debug, Default)]
pub struct Once {
    told: AtomicBool,
    held: AtomicU64,
}

impl Once {
    pub const fn new() -> Self {
        Self { told: AtomicBool::new(false), held: AtomicU64::new(0) }
    }

    /// Whether this line passes.
    pub fn pass(&self) -> bool {
        let first = !self.told.swap(true, Ordering::Relaxed);
        if !first {
            self.held.fetch_add(1, Ordering::Relaxed);
        }
        first
    }

    /// It is over: the number of lines held back meanwhile, if there was anything to tell.
    pub fn over(&self) -> Option<u64> {
        let held = self.held.swap(0, Ordering::Relaxed);
        self.told.swap(false, Ordering::Relaxed).then_some(held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lets_one_line_a_period_through_and_counts_the_rest() {
        let every = Every::new(Duration::from_secs(10));
        let start = *START;
        let at = |seconds| every.pass_at(start + Duration::from_secs(seconds));
        assert_eq!(at(0), Some(0));
        assert_eq!([at(1), at(5), at(9)], [None; 3]);
        assert_eq!(at(10), Some(3));
        assert_eq!(at(11), None);
        assert_eq!(at(100), Some(1));
    }

    #[test]
    fn every_lets_one_of_many_threads_through() {
        let every = Every::new(Duration::from_secs(3600));
        let now = Instant::now();
        let passed: usize = std::thread::scope(|scope| {
            let one = || (0..1000).filter(|_| every.pass_at(now).is_some()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
            threads.into_iter().map(|thread| thread.join().expect("it ends")).sum()
        });
        assert_eq!(passed, 1);
        assert_eq!(every.pass_at(now + Duration::from_secs(3601)), Some(3999));
    }

    #[test]
    fn once_tells_again_after_it_was_over() {
        let once = Once::new();
        assert_eq!(once.over(), None);
        assert_eq!([once.pass(), once.pass(), once.pass()], [true, false, false]);
        assert_eq!(once.over(), Some(2));
        assert!(once.pass());
    }
}
