//! How connections end: one by one, or all that a switch leaves behind.

use std::time::{Duration, Instant};

use super::Worker;
use crate::{
    datapath::{Sever, Severed, pair::Pair},
    urgent::Urgent,
};

/// Resets are not repeated when they are lost, and a burst overflows the queue of a receiving CPU
/// (net.core.netdev_max_backlog, 1,000 packets): so many at a time, and a breath in between.
const BURST: usize = 256;
const BREATH: Duration = Duration::from_millis(1);

/// The closes begin so long after the last reset, and are so many in one turn of the worker, between which it
/// looks after everyone else: those who were reset are back within a millisecond, and want the processors for
/// it; a close costs 20 us and more, and nobody waits for it but for its files.
const RESPITE: Duration = Duration::from_millis(5);
const SLICE: usize = 32;

/// A connection whose client was reset, still to be closed.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) index: usize,
    number: u64,
}

impl Worker {
    pub(super) fn carry_out(&mut self, order: &Sever, urgent: Urgent) {
        let early = self.early.remove(&order.key);
        let doomed = |pair: &Pair| pair.lease.key == order.key && pair.lease.generation != order.keep;
        let severed = self.sever(&doomed, urgent.or_here());
        let connections = early.map_or(0, |(early, _)| early) + severed.0;
        let first = early.map(|(_, first)| first).or(severed.1);
        // Nobody waits for it any more when the daemon is going down.
        let _unheard = order.done.send(Severed { connections, first, last: Instant::now() });
        self.give_up_calls(order);
    }

    /// Resets the clients of all matching connections: they are the ones who have to reconnect. What a close
    /// costs beside its RST (the map's links, epoll, the socket itself) is the greater part, and follows.
    /// Returns how many, and when the first client was.
    fn sever(&mut self, doomed: &dyn Fn(&Pair) -> bool, mut urgent: Urgent) -> (usize, Option<Instant>) {
        let (mut severed, mut first, none_before) = (0, None, self.endings.is_empty());
        // First those whose words a pause has held up: they wait for an answer.
        for all in [false, true] {
            for (index, pair) in &mut self.pairs {
                if pair.dismissed || !all && !pair.is_held() || !doomed(pair) {
                    continue;
                }
                pair.dismiss_client(self.splice.as_ref(), &mut self.scratch);
                self.endings.push_back(Ending { index, number: pair.number });
                first.get_or_insert_with(Instant::now);
                severed += 1;
                if severed % BURST == 0 {
                    urgent.yield_if_long();
                    std::thread::park_timeout(BREATH);
                }
            }
        }
        if none_before {
            self.respite = Instant::now() + RESPITE;
        }
        (severed, first)
    }

    pub(super) fn sever_all(&mut self) {
        self.sever(&|_| true, Urgent::here());
        while !self.endings.is_empty() {
            self.close_some();
        }
    }

    pub(super) fn close_when_due(&mut self) {
        if !self.endings.is_empty() && self.respite <= Instant::now() {
            self.close_some();
        }
    }

    fn close_some(&mut self) {
        let some = self.endings.len().min(SLICE);
        for Ending { index, number } in self.endings.drain(..some).collect::<Vec<_>>() {
            // It may have ended by itself, and its place be another's.
            if self.pairs.get(index).is_some_and(|pair| pair.number == number) {
                self.end(index);
            }
        }
    }

    pub(super) fn end(&mut self, index: usize) {
        let pair = self.take(index);
        self.bury(pair);
    }

    fn take(&mut self, index: usize) -> Pair {
        let mut pair = self.pairs.remove(index);
        self.timed -= usize::from(pair.timed());
        self.vacated -= usize::from(pair.is_vacated());
        if let Some(splice) = &self.splice {
            pair.take_leave(splice, &mut self.scratch);
        }
        pair
    }

    /// Closes both sockets, by RST unless they part in order.
    pub(super) fn bury(&mut self, pair: Pair) {
        let (client, node, remains) = pair.into_parts();
        drop((client, node));
        remains.settle(self.splice.as_mut());
    }
}
