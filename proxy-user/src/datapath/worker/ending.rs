//! How connections end: one by one, or all that a switch leaves behind.

use std::time::{Duration, Instant};

use super::Worker;
use crate::datapath::{Sever, Severed, pair::Pair};

/// Resets are not repeated when they are lost, and a burst overflows the queue of a receiving CPU
/// (net.core.netdev_max_backlog, 1,000 packets): so many at a time, and a breath in between.
const BURST: usize = 256;
const BREATH: Duration = Duration::from_millis(1);

impl Worker {
    pub(super) fn carry_out(&mut self, order: &Sever) {
        let early = self.early.remove(&order.key);
        let severed = self.sever(&|pair| pair.lease.key == order.key && pair.lease.generation != order.keep);
        let connections = early.map_or(0, |(early, _)| early) + severed.0;
        let first = early.map(|(_, first)| first).or(severed.1);
        // Nobody waits for it any more when the daemon is going down.
        let _unheard = order.done.send(Severed { connections, first, last: Instant::now() });
    }

    /// Resets all matching connections, clients first: they are the ones who have to reconnect. What a close
    /// costs beside its RST (the map's links, epoll, the socket itself) is the greater part, and follows.
    /// Returns how many, and when the first client was.
    pub(super) fn sever(&mut self, doomed: &dyn Fn(&Pair) -> bool) -> (usize, Option<Instant>) {
        let doomed: Vec<usize> = self.pairs.iter().filter(|(_, pair)| doomed(pair)).map(|(index, _)| index).collect();
        let mut first = None;
        for (done, &index) in doomed.iter().enumerate() {
            self.pairs[index].dismiss_client(self.splice.as_ref(), &mut self.scratch);
            first.get_or_insert_with(Instant::now);
            breathe(done);
        }
        for (done, &index) in doomed.iter().enumerate() {
            self.end(index);
            breathe(done);
        }
        (doomed.len(), first)
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

fn breathe(done: usize) {
    if done % BURST == BURST - 1 {
        std::thread::park_timeout(BREATH);
    }
}
