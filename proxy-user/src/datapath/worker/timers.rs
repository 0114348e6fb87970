//! When a worker has to act without being told: a flow to be looked at again, an idle time limit.

use std::{
    cmp::Reverse,
    time::{Duration, Instant},
};

use nix::sys::epoll::EpollTimeout;

use super::{Worker, place};

/// How often idle time limits, and lost words of the verdict program, are looked for.
pub(super) const TICK: Duration = Duration::from_secs(1);

impl Worker {
    pub(super) fn timeout(&self) -> EpollTimeout {
        if !self.again.is_empty() {
            return EpollTimeout::ZERO;
        }
        let look = self.later.peek().map(|Reverse((due, ..))| *due);
        let close = (!self.endings.is_empty()).then_some(self.respite);
        let due = [look, self.next_tick, close, self.dials.due()].into_iter().flatten().min();
        let Some(due) = due else { return EpollTimeout::NONE };
        let millis = due.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000);
        EpollTimeout::try_from(millis.min(60_000) as i32).unwrap_or(EpollTimeout::ZERO)
    }

    pub(super) fn look_later(&mut self, now: Instant) {
        while let Some(&Reverse((due, token, number))) = self.later.peek() {
            if due > now {
                break;
            }
            self.later.pop();
            let (index, side) = place(token);
            let current =
                self.pairs.get(index).is_some_and(|pair| pair.number == number && pair.flows[side].due == Some(due));
            if current {
                self.step(token, now);
            }
        }
        if self.next_tick.is_some_and(|due| due <= now) {
            self.end_idle(now);
            self.look_for_lost_events();
            self.next_tick = (self.timed > 0 || self.kernel.is_some()).then_some(now + TICK);
        }
    }

    fn end_idle(&mut self, now: Instant) {
        let splice = self.splice.as_ref();
        let idle: Vec<usize> = self
            .pairs
            .iter_mut()
            .filter_map(|(index, pair)| pair.idle_too_long(splice, now).then_some(index))
            .collect();
        for index in idle {
            self.end(index);
        }
    }
}
