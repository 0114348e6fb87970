//! When a task asks again: after its interval, at once when nudged, sooner when the pace quickens, and
//! never more often than the least gap.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd, RawFd},
    sync::Arc,
    time::Duration,
};

use nix::sys::{
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until},
};

use super::pace::Pace;

/// Between two questions to the same server, however many events come.
pub(super) const GAP: Duration = Duration::from_millis(2);
/// The same after a failure: a server that refuses is not hammered.
pub(super) const GAP_AFTER_FAILURE: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Rhythm {
    pace: watch::Receiver<Pace>,
    nudge: Arc<Notify>,
    alarm: Alarm,
}

impl Rhythm {
    pub(super) fn new(pace: watch::Receiver<Pace>, nudge: Arc<Notify>) -> Self {
        Self { pace, nudge, alarm: Alarm::new() }
    }

    pub(super) fn pace(&self) -> Pace {
        *self.pace.borrow()
    }

    pub(super) fn nudge(&self) -> &Arc<Notify> {
        &self.nudge
    }

    /// Waits for the next turn. True if an event called for it before its time.
    pub(super) async fn rest(&mut self, since: Instant, gap: Duration, interval: impl Fn(Pace) -> Duration) -> bool {
        let nudged = loop {
            let pace = *self.pace.borrow_and_update();
            tokio::select! {
                () = self.nudge.notified() => break true,
                () = self.alarm.ring_at(since + interval(pace)) => break false,
                changed = self.pace.changed() => if changed.is_err() {
                    // The conductor is gone; this task is about to be ended too.
                    sleep_until(since + interval(pace)).await;
                    break false;
                }
            }
        };
        self.alarm.ring_at(since + gap).await;
        nudged
    }
}

/// A timer of the kernel's, where it has one for us. The runtime's own wakes its thread twice for whatever is longer than 64 ms,
/// and rounds up to the next millisecond; a node's clients on this host wait for each of these wake-ups.
#[derive(Debug)]
struct Alarm(Option<AsyncFd<Timer>>);

#[derive(Debug)]
struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Alarm {
    fn new() -> Self {
        let timer = || -> io::Result<_> {
            let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
            let timer = Timer(TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?);
            // SAFETY: the timer's file is its own, and goes with it.
            unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) }.map_err(io::Error::from)
        };
        Self(timer().ok())
    }

    async fn ring_at(&mut self, at: Instant) {
        let left = at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        let rung = match &self.0 {
            Some(timer) => ring(timer, left).await.is_ok(),
            None => false,
        };
        if !rung {
            sleep(left).await;
        }
    }
}

async fn ring(timer: &AsyncFd<Timer>, after: Duration) -> io::Result<()> {
    // Forgets what rang before.
    timer.get_ref().0.set(Expiration::OneShot(TimeSpec::from_duration(after)), TimerSetTimeFlags::empty())?;
    loop {
        let mut guard = timer.readable().await?;
        if let Ok(rung) = guard.try_io(|timer| Ok(timer.get_ref().0.wait()?)) {
            return rung;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn rhythm() -> (watch::Sender<Pace>, Arc<Notify>, Rhythm) {
        let (pace, nudge) = (watch::Sender::new(Pace::Steady), Arc::new(Notify::new()));
        let rhythm = Rhythm::new(pace.subscribe(), Arc::clone(&nudge));
        (pace, nudge, rhythm)
    }

    fn interval(pace: Pace) -> Duration {
        if pace == Pace::Hurry { Duration::from_millis(20) } else { LONG }
    }

    #[tokio::test]
    async fn a_turn_comes_after_its_interval_and_no_earlier() {
        let (_pace, _nudge, mut rhythm) = rhythm();
        for _ in 0..3 {
            let since = Instant::now();
            assert!(!rhythm.rest(since, Duration::ZERO, |_| Duration::from_millis(70)).await);
            let took = since.elapsed();
            assert!((Duration::from_millis(70)..Duration::from_secs(2)).contains(&took), "{took:?}");
        }
    }

    #[tokio::test]
    async fn a_nudge_calls_for_it_but_not_within_the_gap() {
        let (_pace, nudge, mut rhythm) = rhythm();
        nudge.notify_one();
        let since = Instant::now();
        assert!(rhythm.rest(since, Duration::from_millis(30), interval).await);
        assert!((Duration::from_millis(30)..LONG).contains(&since.elapsed()), "{:?}", since.elapsed());
    }

    #[tokio::test]
    async fn a_quicker_pace_holds_at_once() {
        let (pace, _nudge, mut rhythm) = rhythm();
        let since = Instant::now();
        let quicken = async {
            sleep(Duration::from_millis(10)).await;
            pace.send_replace(Pace::Hurry);
        };
        let (nudged, ()) = tokio::join!(rhythm.rest(since, Duration::ZERO, interval), quicken);
        assert!(!nudged && since.elapsed() >= Duration::from_millis(20) && since.elapsed() < LONG);
    }

    /// As where there are no more files.
    #[tokio::test]
    async fn without_a_timer_of_its_own_it_rests_too() {
        let mut alarm = Alarm(None);
        let before = Instant::now();
        alarm.ring_at(before + Duration::from_millis(20)).await;
        assert!(before.elapsed() >= Duration::from_millis(20));
    }
}
