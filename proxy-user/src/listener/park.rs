//! Where clients wait while the route leads nowhere. Bounded in number; each wait is bounded by
//! its caller. Promises: a place is given back the moment its holder is dropped; clients go on in
//! order of arrival, at the pace and in the numbers that [`Queue`] says.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    counts::{Counts, Outcome, Refusal},
    pace::Pace,
    queue::{By, Queue},
};
use crate::{
    datapath::{SynGate, Turn},
    target::Slots,
};

/// The pause after a failed connection, drawn anew each time so that daemons do not beat in step.
const PAUSE_MS: std::ops::RangeInclusive<u64> = 20..=100;

#[derive(Debug)]
pub(super) struct Lot {
    limit: u32,
    queue: Mutex<Queue>,
    slots: watch::Receiver<Slots>,
    seen: Mutex<Seen>,
    /// Rung when the usher has to look again.
    bell: Notify,
    counts: Arc<Counts>,
    /// What tells the kernel whose turn it is, where it takes SYNs aside.
    gate: Option<Arc<dyn SynGate>>,
}

/// The slots as the queue knows them: node and generation.
#[derive(Debug, Default)]
struct Seen {
    last: Vec<(SocketAddr, u64)>,
    /// The last that were not none: tells a new node from one that was only paused.
    known: Vec<(SocketAddr, u64)>,
}

impl Lot {
    pub(super) fn new(
        limit: u32,
        rate: u32,
        slots: watch::Receiver<Slots>,
        counts: Arc<Counts>,
        gate: Option<Arc<dyn SynGate>>,
    ) -> Self {
        let lot = Self {
            limit,
            queue: Mutex::new(Queue::new(Pace::new(rate))),
            slots,
            seen: Mutex::default(),
            bell: Notify::new(),
            counts,
            gate,
        };
        lot.follow();
        lot
    }

    /// Whether a new client may go on without waiting.
    pub(super) fn pass(&self) -> bool {
        self.with(|queue| queue.pass(Instant::now()))
    }

    /// A place to wait for the client that arrived as number `number`; `again`: it has waited before.
    pub(super) fn stay(&self, by: By, number: u64, arrived: Instant, again: bool) -> Result<Stay<'_>, Refusal> {
        if self.with(|queue| queue.ended()) {
            return Err(Refusal::Draining);
        }
        let parked = match by {
            // Its SYN had a place, and may not have given it back yet.
            By::Socket if again => self.counts.park_if(u32::MAX),
            By::Socket => self.counts.park(self.limit),
            // Where it finds no place its client comes as a socket, and is counted as that.
            By::Syn => self.counts.park_if(self.limit),
        };
        if !parked {
            return Err(Refusal::ParkFull);
        }
        Ok(Stay { lot: self, by, number, arrived, position: Position::Aside, outcome: Some(Outcome::Left) })
    }

    /// The generation that new connections are made under; 0: none.
    pub(super) fn generation(&self) -> u64 {
        self.slots.borrow().iter().map(|slot| slot.generation).max().unwrap_or(0)
    }

    /// How many SYNs may wait. Who sends them need not be who he says he is: a part of the places is left to clients
    /// that have shown it by a handshake, with the listener.
    pub(super) fn most_syns(&self) -> u32 {
        self.limit - self.limit / 4
    }

    /// A connection was made: there is no doubt about the node.
    pub(super) fn succeeded(&self) {
        if self.with(Queue::succeeded) {
            self.bell.notify_one();
        }
    }

    /// A connection could not be made, or there is nobody to connect to.
    pub(super) fn failed(&self) {
        self.with(|queue| queue.failed(Instant::now() + pause()));
        self.bell.notify_one();
    }

    /// Takes over what the slots say now. Anyone who finds them changed may call it: the queue must
    /// not let clients through to nobody until the usher has its turn.
    pub(super) fn follow(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let slots = self.slots.borrow();
        let now: Vec<_> = slots.iter().map(|slot| (slot.addr, slot.generation)).collect();
        if seen.last == now {
            return;
        }
        let (open, new) = (!now.is_empty(), !now.iter().any(|slot| seen.known.contains(slot)));
        if open {
            seen.known.clone_from(&now);
        }
        seen.last = now;
        self.with(|queue| queue.follow(open, new, Instant::now()));
    }

    /// Lets clients through as they fall due, until `stop`; then ends every wait.
    pub(super) async fn usher(&self, stop: &CancellationToken) {
        let mut slots = self.slots.clone();
        slots.mark_changed();
        let mut switch_lives = true;
        while !stop.is_cancelled() {
            let again = self.with(|queue| {
                let now = Instant::now();
                // Also where nobody waits the kernel has to hear that newcomers are free again.
                queue.release(now, pause()).or_else(|| queue.settles(now))
            });
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                changed = slots.changed(), if switch_lives => match changed {
                    Ok(()) => self.follow(),
                    Err(_) => switch_lives = false,
                },
                () = self.bell.notified() => {}
                () = sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {}
            }
        }
        self.with(Queue::end);
    }

    /// All that is done to the queue goes through here: the kernel hears at once what it means for new SYNs.
    fn with<T>(&self, act: impl FnOnce(&mut Queue) -> T) -> T {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let done = act(&mut queue);
        if let Some(gate) = &self.gate {
            gate.set(match queue.turn(Instant::now()) {
                Turn::Held if self.most_syns() == 0 => Turn::Full,
                Turn::Paced if self.most_syns() == 0 => Turn::Listener,
                turn => turn,
            });
        }
        done
    }
}

fn pause() -> Duration {
    Duration::from_millis(rand::random_range(PAUSE_MS))
}

#[derive(Debug, PartialEq, Eq)]
enum Position {
    /// Neither in the queue nor let through.
    Aside,
    Queued,
    Trying,
}

/// One client's place, from its first wait to its end. Dropped: the client has left.
#[derive(Debug)]
pub(super) struct Stay<'a> {
    lot: &'a Lot,
    by: By,
    number: u64,
    arrived: Instant,
    position: Position,
    /// None: the wait goes on elsewhere.
    outcome: Option<Outcome>,
}

impl Stay<'_> {
    /// Waits for the client's turn to try. A client that tried in vain comes again, and is at the
    /// head of the queue again. Cancel safe: the place remains, its part in the queue does not.
    pub(super) async fn turn(&mut self) -> Result<(), Refusal> {
        self.step_aside();
        let turn = self.lot.with(|queue| queue.join(self.by, self.number, self.arrived));
        self.position = Position::Queued;
        self.lot.bell.notify_one();
        turn.await.map_err(|_| Refusal::Draining)?;
        self.position = Position::Trying;
        Ok(())
    }

    pub(super) fn end(mut self, outcome: Option<Outcome>) {
        self.outcome = outcome;
    }

    fn step_aside(&mut self) {
        let position = std::mem::replace(&mut self.position, Position::Aside);
        let was_through = self.lot.with(|queue| {
            let was_through = match position {
                Position::Aside => false,
                Position::Queued => !queue.leave(self.by, self.number) && !queue.ended(),
                Position::Trying => true,
            };
            if was_through {
                queue.back(self.by);
            }
            was_through
        });
        if was_through {
            self.lot.bell.notify_one();
        }
    }
}

impl Drop for Stay<'_> {
    fn drop(&mut self) {
        // First: the step that follows tells the kernel whether there is room.
        self.lot.counts.unpark(self.outcome);
        self.step_aside();
    }
}
