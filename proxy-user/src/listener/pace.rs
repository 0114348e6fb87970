//! How fast clients go to a node that is new to them. Pure: time is an argument.
//! Promises: the rate holds over any second; whoever came later than the herd is not held back.

use std::time::Duration;

use tokio::time::Instant;

/// How long after a switch arrivals still belong to it: the clients of the old node have seen
/// their RST and come back by then.
const SETTLING: Duration = Duration::from_secs(5);
/// How late the schedule may be caught up with after the process was held up.
const CATCH_UP: Duration = Duration::from_millis(50);

/// A schedule of equal steps. `None` as the interval: no limit at all.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Option<Duration>,
    /// Arrivals up to here are paced.
    until: Option<Instant>,
    next: Option<Instant>,
}

impl Pace {
    /// `rate` connections a second; 0: no limit.
    pub(super) fn new(rate: u32) -> Self {
        let interval = (rate > 0).then(|| Duration::from_secs(1) / rate);
        Self { interval, until: None, next: None }
    }

    pub(super) fn limits(&self) -> bool {
        self.interval.is_some()
    }

    /// Who arrives from then on is not paced.
    pub(super) fn settles(&self) -> Option<Instant> {
        self.until.filter(|_| self.limits()).map(|until| until + Duration::from_millis(1))
    }

    /// The route leads somewhere again: to a `new` node, or to the one it led to before.
    pub(super) fn begin(&mut self, new: bool, now: Instant) {
        let until = if new { now + SETTLING } else { now };
        self.until = Some(self.until.map_or(until, |old| old.max(until)));
    }

    /// When one who arrived at `arrived` may go; `None`: at any time.
    pub(super) fn due(&self, arrived: Instant, now: Instant) -> Option<Instant> {
        let paced = self.interval.is_some() && self.until.is_some_and(|until| arrived <= until);
        paced.then(|| self.next.unwrap_or(now))
    }

    /// One of those who are paced goes.
    pub(super) fn step(&mut self, now: Instant) {
        let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
        let from = self.next.map_or(now, |next| next.max(earliest));
        self.next = self.interval.map(|interval| from + interval);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of a large herd go within `span`, looked at every `look`.
    fn gone(rate: u32, span: Duration, look: Duration) -> u32 {
        let start = Instant::now();
        let mut pace = Pace::new(rate);
        pace.begin(true, start);
        let (mut now, mut gone) = (start, 0);
        while now < start + span {
            while pace.due(start, now).is_some_and(|due| due <= now) {
                pace.step(now);
                gone += 1;
            }
            now += look;
        }
        gone
    }

    #[test]
    fn the_rate_is_exact_whatever_the_timer() {
        for rate in [1, 10, 333, 1000, 20_000] {
            for look in [100_u64, 1000, 7000] {
                let gone = gone(rate, Duration::from_secs(10), Duration::from_micros(look));
                let wanted = f64::from(rate) * 10.0;
                assert!(
                    (f64::from(gone) - wanted).abs() <= wanted * 0.01 + 1.0,
                    "{rate}/s seen every {look} us: {gone}"
                );
            }
        }
    }

    #[test]
    fn no_rate_and_no_switch_mean_no_pace() {
        let now = Instant::now();
        let mut pace = Pace::new(0);
        pace.begin(true, now);
        assert_eq!(pace.due(now, now), None);
        assert_eq!(Pace::new(10).due(now, now), None);
    }

    #[test]
    fn a_switch_paces_the_herd_and_nobody_later() {
        let now = Instant::now();
        let mut pace = Pace::new(10);
        pace.begin(true, now);
        assert!(pace.due(now + Duration::from_secs(4), now).is_some(), "came back after its RST");
        assert_eq!(pace.due(now + Duration::from_secs(6), now + Duration::from_secs(6)), None);
        let mut pace = Pace::new(10);
        pace.begin(false, now);
        assert!(pace.due(now, now).is_some(), "waited through a pause");
        assert_eq!(pace.due(now + Duration::from_millis(1), now + Duration::from_millis(1)), None);
    }

    #[test]
    fn time_lost_is_caught_up_with_by_little() {
        let now = Instant::now();
        let mut pace = Pace::new(1000);
        pace.begin(true, now);
        pace.step(now);
        let late = now + Duration::from_secs(2);
        let mut burst = 0;
        while pace.due(now, late).is_some_and(|due| due <= late) {
            pace.step(late);
            burst += 1;
        }
        assert!((50..=52).contains(&burst), "{burst}");
    }
}
