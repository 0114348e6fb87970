//! Who of those who wait goes next, and when. Pure but for the wake-up: time is an argument.
//! Promises: first come, first served, at one rate for all; nobody overtakes a queue, but those who are led where no rate is set
//! (`turn`); few try a node that just
//! failed, so that a dead master costs no storm of connects; nothing is visited that is not let through.

use std::{collections::BTreeMap, time::Duration};

use tokio::{sync::oneshot, time::Instant};

use super::pace::Pace;
use crate::datapath::Turn;

/// How many of a line may be connecting at a time: both together a Redis' default listen backlog
/// (511), so that a queue let through at once is not dropped at the node's door.
const WINDOW: usize = 256;
/// How many sockets may try at a time after a connection failed.
const TRIALS: usize = 4;

/// How somebody who waits will connect. Both wait in one order; each kind has its own window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// The listener connects, and hears how that went.
    Socket,
    /// Its SYN goes to the node, which answers the client and not us: no doubt holds it up, since nothing would end it.
    Syn,
}

/// What the road to the route's node looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Road {
    /// No node.
    Closed,
    Open,
    /// The last try failed; the next one may start at this time.
    Doubtful(Instant),
    /// The daemon is leaving: nobody waits any more.
    Ended,
}

#[derive(Debug)]
struct Waiter {
    arrived: Instant,
    go: oneshot::Sender<()>,
}

#[derive(Debug, Default)]
struct Line {
    /// By number of arrival.
    waiting: BTreeMap<u64, Waiter>,
    /// Let through, and not yet back with a result.
    trying: usize,
}

impl Line {
    /// The number of whoever goes next, if `window` lets one more through.
    fn head(&self, window: usize) -> Option<u64> {
        self.waiting.first_key_value().filter(|_| self.trying < window).map(|(&number, _)| number)
    }
}

#[derive(Debug)]
pub(super) struct Queue {
    sockets: Line,
    syns: Line,
    road: Road,
    pace: Pace,
}

impl Queue {
    pub(super) fn new(pace: Pace) -> Self {
        Self { sockets: Line::default(), syns: Line::default(), road: Road::Closed, pace }
    }

    fn line(&mut self, by: By) -> &mut Line {
        match by {
            By::Socket => &mut self.sockets,
            By::Syn => &mut self.syns,
        }
    }

    pub(super) fn ended(&self) -> bool {
        self.road == Road::Ended
    }

    /// Whether a new arrival may go at once.
    pub(super) fn pass(&mut self, now: Instant) -> bool {
        if self.road != Road::Open || !self.sockets.waiting.is_empty() || !self.syns.waiting.is_empty() {
            return false;
        }
        match self.pace.due(now, now) {
            None => true,
            Some(due) if due <= now => {
                self.pace.step(now);
                true
            }
            Some(_) => false,
        }
    }

    /// The same for SYNs that the kernel lets through without asking. It leaves doubt aside, and counts no steps.
    pub(super) fn turn(&self, now: Instant) -> Turn {
        let queued = match self.road {
            Road::Ended => return Turn::Listener,
            Road::Closed => true,
            Road::Open => !self.sockets.waiting.is_empty() || !self.syns.waiting.is_empty(),
            Road::Doubtful(_) => !self.syns.waiting.is_empty(),
        };
        // Who is led before the pace begins would not keep it.
        let is_paced = self.pace.due(now, now).is_some() || self.road == Road::Closed && self.pace.limits();
        match is_paced {
            true => Turn::Paced,
            false if queued => Turn::Held,
            false => Turn::Free,
        }
    }

    /// When a rate ends to hold for those who arrive, if it does now.
    pub(super) fn settles(&self, now: Instant) -> Option<Instant> {
        self.pace.settles().filter(|settled| now < *settled)
    }

    /// Queues up; the receiver fails when the queue has ended.
    pub(super) fn join(&mut self, by: By, number: u64, arrived: Instant) -> oneshot::Receiver<()> {
        let (go, turn) = oneshot::channel();
        if self.road != Road::Ended {
            self.line(by).waiting.insert(number, Waiter { arrived, go });
        }
        turn
    }

    /// Leaves the queue; false: it had been let through already.
    pub(super) fn leave(&mut self, by: By, number: u64) -> bool {
        self.line(by).waiting.remove(&number).is_some()
    }

    /// One who was let through is back.
    pub(super) fn back(&mut self, by: By) {
        let line = self.line(by);
        line.trying = line.trying.saturating_sub(1);
    }

    /// The route has a node (`new`: none that it had before), or has none.
    pub(super) fn follow(&mut self, open: bool, new: bool, now: Instant) {
        if self.road == Road::Ended {
            return;
        }
        if open && (new || self.road == Road::Closed) {
            self.pace.begin(new, now);
        }
        self.road = if open { Road::Open } else { Road::Closed };
    }

    pub(super) fn failed(&mut self, retry_at: Instant) {
        if matches!(self.road, Road::Open | Road::Doubtful(_)) {
            self.road = Road::Doubtful(retry_at);
        }
    }

    pub(super) fn succeeded(&mut self) -> bool {
        let was_doubtful = matches!(self.road, Road::Doubtful(_));
        if was_doubtful {
            self.road = Road::Open;
        }
        was_doubtful
    }

    /// Lets through whoever may go now; says when to look again, if time alone can change the answer.
    pub(super) fn release(&mut self, now: Instant, pause: Duration) -> Option<Instant> {
        let window = match self.road {
            Road::Open => WINDOW,
            Road::Doubtful(retry_at) if retry_at <= now => TRIALS,
            Road::Doubtful(_) => 0,
            Road::Closed | Road::Ended => return None,
        };
        while let Some(by) = self.next(window) {
            let line = match by {
                By::Socket => &mut self.sockets,
                By::Syn => &mut self.syns,
            };
            let first = line.waiting.first_entry()?;
            match self.pace.due(first.get().arrived, now) {
                Some(due) if due > now => return Some(due),
                Some(_) => self.pace.step(now),
                None => {}
            }
            if first.remove().go.send(()).is_ok() {
                line.trying += 1;
            }
        }
        if self.sockets.waiting.is_empty() {
            return None;
        }
        let Road::Doubtful(retry_at) = &mut self.road else { return None };
        if *retry_at <= now {
            *retry_at = now + pause;
        }
        Some(*retry_at)
    }

    /// Who goes next, if so many sockets may try: whoever came first, of those whose line moves.
    fn next(&self, sockets: usize) -> Option<By> {
        match (self.sockets.head(sockets), self.syns.head(WINDOW)) {
            (Some(socket), Some(syn)) if syn < socket => Some(By::Syn),
            (Some(_), _) => Some(By::Socket),
            (None, Some(_)) => Some(By::Syn),
            (None, None) => None,
        }
    }

    /// Ends every wait.
    pub(super) fn end(&mut self) {
        self.road = Road::Ended;
        self.sockets.waiting.clear();
        self.syns.waiting.clear();
    }
}

#[cfg(test)]
mod tests;
