//! When each message is due, and how late it was heard. The publisher never waits for anybody: what is
//! overdue is sent at once and nothing is left out, and latency counts from the moment a message was due,
//! not from when it was sent. So a stall shows in every message that it held up, also in those that could
//! not even be sent meanwhile (no "coordinated omission").

use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    start: Instant,
    per_second: u32,
    pub(super) count: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Wait(Duration),
    Send,
    Done,
}

impl Schedule {
    /// Message 0 is due at `start`, and from then on so many a second.
    pub(super) fn new(start: Instant, per_second: u32, count: u64) -> Self {
        Self { start, per_second, count }
    }

    pub(super) fn due(&self, number: u64) -> Instant {
        // From the start each time: adding up an interval would add up its rounding.
        let nanos = u128::from(number) * 1_000_000_000 / u128::from(self.per_second.max(1));
        self.start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// What a publisher does that has sent `sent` messages.
    pub(super) fn step(&self, sent: u64, now: Instant) -> Step {
        if sent >= self.count {
            return Step::Done;
        }
        match self.due(sent).checked_duration_since(now) {
            Some(early) if !early.is_zero() => Step::Wait(early),
            _ => Step::Send,
        }
    }

    pub(super) fn latency(&self, number: u64, heard: Instant) -> Duration {
        heard.saturating_duration_since(self.due(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_second_has_its_messages_whatever_the_rounding() {
        let start = Instant::now();
        let schedule = Schedule::new(start, 3, 10);
        assert_eq!(schedule.due(3), start + Duration::from_secs(1));
        assert_eq!(schedule.due(3 * 3600), start + Duration::from_secs(3600));
        assert_eq!(schedule.step(0, start), Step::Send);
        assert_eq!(schedule.step(3, start + 999 * MS), Step::Wait(MS));
        assert_eq!(schedule.step(10, start + 9000 * MS), Step::Done);
    }

    /// Sends as the publisher does, in a time of its own; each message is heard as it is sent, but nothing
    /// passes in `stall`, when the publisher stands still too: its socket is full.
    fn latencies(schedule: &Schedule, stall: (Duration, Duration)) -> Vec<Duration> {
        let (mut now, mut latencies) = (schedule.start, Vec::new());
        loop {
            let since = now - schedule.start;
            if since >= stall.0 && since < stall.1 {
                now = schedule.start + stall.1;
            }
            match schedule.step(latencies.len() as u64, now) {
                Step::Wait(time) => now += time,
                Step::Send => latencies.push(schedule.latency(latencies.len() as u64, now)),
                Step::Done => return latencies,
            }
        }
    }

    #[test]
    fn a_stall_shows_in_every_message_that_was_due_in_it() {
        let schedule = Schedule::new(Instant::now(), 1000, 300);
        let latencies = latencies(&schedule, (100 * MS, 200 * MS));
        assert_eq!(latencies.len(), 300, "no message is left out");
        // The first one due in the stall waits through all of it, the next a millisecond less, and so on.
        let expected = |n: u32| if (100..200).contains(&n) { (200 - n) * MS } else { Duration::ZERO };
        let wrong = (0..300).find(|&n| latencies[n as usize] != expected(n));
        assert_eq!(wrong, None, "{latencies:?}");
    }

    #[test]
    fn a_message_heard_before_it_was_due_is_not_late() {
        let start = Instant::now();
        let schedule = Schedule::new(start, 10, 10);
        assert_eq!(schedule.latency(5, start), Duration::ZERO);
        assert_eq!(schedule.latency(5, start + 507 * MS), 7 * MS);
    }
}
