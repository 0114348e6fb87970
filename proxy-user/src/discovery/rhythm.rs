//! When a task asks again: after its interval, at once when nudged, sooner when the pace quickens, and
//! never more often than the least gap.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};

use super::pace::Pace;

/// Between two questions to the same server, however many events come.
pub(super) const GAP: Duration = Duration::from_millis(2);
/// The same after a failure: a server that refuses is not hammered.
pub(super) const GAP_AFTER_FAILURE: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Rhythm {
    pub(super) pace: watch::Receiver<Pace>,
    pub(super) nudge: Arc<Notify>,
}

impl Rhythm {
    pub(super) fn pace(&self) -> Pace {
        *self.pace.borrow()
    }

    /// Waits for the next turn. True if an event called for it before its time.
    pub(super) async fn rest(&mut self, since: Instant, gap: Duration, interval: impl Fn(Pace) -> Duration) -> bool {
        let nudged = loop {
            let pace = *self.pace.borrow_and_update();
            tokio::select! {
                () = self.nudge.notified() => break true,
                () = sleep_until(since + interval(pace)) => break false,
                changed = self.pace.changed() => if changed.is_err() {
                    // The conductor is gone; this task is about to be ended too.
                    sleep_until(since + interval(pace)).await;
                    break false;
                }
            }
        };
        sleep_until(since + gap).await;
        nudged
    }
}
