//! The daemon's heartbeat, as the kernel program sees it: without one, new flows end after a while, since nobody
//! would tell the program of a failover.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use nix::time::{ClockId, clock_getres, clock_gettime};

use super::globals::Globals;

#[derive(Debug)]
pub struct Heart {
    globals: Arc<Globals>,
    grace: Duration,
}

impl Heart {
    /// `grace` is how long new flows are still made after the last beat. Until the first beat, that of the daemon before
    /// us counts, if there was one.
    pub fn new(globals: Arc<Globals>, grace: Duration) -> Self {
        globals.clock.jiffy.store(jiffy(), Ordering::Relaxed);
        Self { globals, grace }
    }

    pub fn beat(&self) -> Result<(), nix::Error> {
        self.globals.clock.beat.store(now()?, Ordering::Relaxed);
        self.globals.clock.grace.store(self.grace.as_nanos() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// How much longer new flows are made without another beat.
    pub fn rest(&self) -> Result<Duration, nix::Error> {
        let clock = &self.globals.clock;
        let [beat, grace] = [&clock.beat, &clock.grace].map(|word| word.load(Ordering::Relaxed));
        Ok(Duration::from_nanos(beat.saturating_add(grace).saturating_sub(now()?)))
    }
}

/// How long a timer tick lasts, in ns: the coarse clocks go by them. 0: it is not known, and the program asks the kernel's
/// clock for each packet.
fn jiffy() -> u64 {
    clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map_or(0, |length| Duration::from(length).as_nanos() as u64)
}

/// As the program reads its clock, in ns.
fn now() -> Result<u64, nix::Error> {
    Ok(Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?).as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_beat_the_time_of_the_daemon_before_runs_out() {
        let heart = Heart::new(Arc::new(Globals::anonymous()), Duration::from_secs(3));
        assert_eq!(heart.rest().unwrap(), Duration::ZERO, "there was none");
        let second = Duration::from_secs(1).as_nanos() as u64;
        heart.globals.clock.beat.store(now().unwrap() - second, Ordering::Relaxed);
        heart.globals.clock.grace.store(10 * second, Ordering::Relaxed);
        let rest = heart.rest().unwrap();
        assert!(rest > Duration::from_secs(8) && rest <= Duration::from_secs(9), "{rest:?}");
        heart.beat().unwrap();
        assert!(heart.rest().unwrap() <= Duration::from_secs(3), "from now on ours counts");
    }
}
