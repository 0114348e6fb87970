//! How a server answers: what a Sentinel and a node have in common. Says when a change is worth a line in
//! the log. Pure, timed by an argument.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{fault::Fault, status::State};
use crate::election::Failure;

/// Another reason for the same failure is not logged more often than this.
pub(super) const LOG_GAP: Duration = Duration::from_secs(10);

/// What a report changed, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Nothing,
    CameUp,
    WentDown,
}

/// They answer, or fail for a reason.
#[derive(Debug, Default)]
pub(super) struct Health {
    pub(super) asked: u64,
    pub(super) failed: BTreeMap<Failure, u64>,
    seen: Option<Instant>,
    pub(super) failure: Option<Failure>,
    pub(super) error: Option<String>,
    logged: Option<(Instant, Option<Failure>)>,
}

impl Health {
    pub(super) fn answered(&mut self, at: Instant) -> Change {
        self.asked += 1;
        self.seen = Some(at);
        self.failure = None;
        self.change(at)
    }

    pub(super) fn lost(&mut self, at: Instant, fault: &Fault) -> Change {
        self.asked += 1;
        *self.failed.entry(fault.failure).or_default() += 1;
        self.failure = Some(fault.failure);
        self.error = Some(fault.text.clone());
        self.change(at)
    }

    /// Up and down are told at once: a recovery that shows late in the log misleads whoever reads it. How
    /// often they come is bounded by the waits between questions. A mere change of reason can wait.
    fn change(&mut self, at: Instant) -> Change {
        let due = self.logged.is_none_or(|(logged, state)| {
            let turned = state.is_some() != self.failure.is_some();
            turned || (state != self.failure && at.saturating_duration_since(logged) >= LOG_GAP)
        });
        if !due {
            return Change::Nothing;
        }
        self.logged = Some((at, self.failure));
        if self.failure.is_none() { Change::CameUp } else { Change::WentDown }
    }

    pub(super) fn state(&self) -> State {
        match (self.failure, self.seen) {
            (Some(_), _) => State::Lost,
            (None, Some(_)) => State::Answering,
            (None, None) => State::Asking,
        }
    }

    pub(super) fn seen_ms_ago(&self, now: Instant) -> Option<u64> {
        self.seen.map(|at| u64::try_from(now.saturating_duration_since(at).as_millis()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn up_and_down_are_told_at_once_and_reasons_seldom() {
        let start = Instant::now();
        let mut health = Health::default();
        for (ms, failure, expected) in [
            (0, None, Change::CameUp),
            (100, None, Change::Nothing),
            (200, Some(Failure::TimedOut), Change::WentDown),
            (300, Some(Failure::TimedOut), Change::Nothing),
            (400, Some(Failure::Unreachable), Change::Nothing),
            (500, None, Change::CameUp),
            (600, Some(Failure::TimedOut), Change::WentDown),
            (700, Some(Failure::Unreachable), Change::Nothing),
            (10_600, Some(Failure::Unreachable), Change::WentDown),
            (60_000, Some(Failure::Unreachable), Change::Nothing),
            (60_100, None, Change::CameUp),
        ] {
            let at = start + Duration::from_millis(ms);
            let change = match failure {
                None => health.answered(at),
                Some(failure) => health.lost(at, &Fault::new(failure, "a test")),
            };
            assert_eq!(change, expected, "at {ms} ms");
        }
        assert_eq!((health.asked, health.failed.values().sum::<u64>()), (11, 7));
    }
}
