//! A log line that is written once a minute, however often its cause comes back.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

const EVERY: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Throttle(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    said: Option<Instant>,
    silent: u64,
}

impl Throttle {
    /// Whether to say it now, and how often it was not said since the last time.
    pub(super) fn say(&self) -> Option<u64> {
        self.say_at(Instant::now())
    }

    fn say_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.said.is_some_and(|said| now < said + EVERY) {
            state.silent += 1;
            return None;
        }
        state.said = Some(now);
        Some(std::mem::take(&mut state.silent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_the_first_and_then_counts_for_a_minute() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        assert_eq!(throttle.say_at(now), Some(0));
        assert_eq!(throttle.say_at(now + Duration::from_secs(59)), None);
        assert_eq!(throttle.say_at(now + Duration::from_secs(60)), Some(1));
    }
}
