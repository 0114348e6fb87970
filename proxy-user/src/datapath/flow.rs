//! One direction of a connection, and who moves its bytes now.

use std::time::{Duration, Instant};

/// Who moves the bytes of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Via {
    /// The daemon reads and writes.
    Daemon,
    /// The verdict program redirects; the daemon is not woken.
    Kernel,
    /// On the way back from the kernel. What it redirected may not all have reached the receiver's send
    /// queue, so nothing may be written behind it yet; or no segment has come since, so that the program
    /// does not know yet.
    Draining,
}

#[derive(Debug)]
pub(super) struct Flow {
    pub(super) via: Via,
    pub(super) since: Instant,
    /// The sender is in the map whose program redirects (also while `Daemon` after `Draining`: the
    /// program then passes everything to us).
    pub(super) spliced: bool,
    /// It has its turn already coming.
    pub(super) queued: bool,
    /// The FIN was passed on.
    pub(super) done: bool,
    /// It had a turn while the target was paused, and is owed one when that ends.
    pub(super) held: bool,
    /// When to look again, and how long to wait after that.
    pub(super) due: Option<Instant>,
    pub(super) wait: Duration,
    /// Since when the kernel is waited for to finish it.
    pub(super) unfinished: Option<Instant>,
    /// The other flow's step has given it something to do.
    pub(super) nudged: bool,
    /// Of the redirected bytes, those already in the route's counters.
    pub(super) counted: u64,
}

const FIRST_WAIT: Duration = Duration::from_millis(1);
/// Rarely waited for: a receiver that reads again makes its socket writable, and epoll tells of that.
const LONGEST_WAIT: Duration = Duration::from_millis(250);

impl Flow {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            via: Via::Daemon,
            since: now,
            spliced: false,
            queued: false,
            done: false,
            held: false,
            due: None,
            wait: FIRST_WAIT,
            unfinished: None,
            nudged: false,
            counted: 0,
        }
    }

    pub(super) fn go(&mut self, via: Via, now: Instant) {
        self.via = via;
        self.since = now;
        self.due = None;
        self.wait = FIRST_WAIT;
        self.unfinished = None;
    }

    /// The next time to look: soon at first, then ever more patiently.
    pub(super) fn back_off(&mut self, now: Instant) -> Instant {
        let due = now + self.wait;
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        self.due = Some(due);
        due
    }
}
