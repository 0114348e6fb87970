//! Which SYNs of a route are parked, and which have gone on a moment ago: pure, time is an argument.
//! Promises: a client has one place however often it sends its SYN, and keeps it, and its number, if its SYN comes back
//! because the way has closed again, or because the listener has to serve it; whoever gave up has none.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use crate::datapath::{Ends, Onward, Syn};

/// How long one that went on is remembered: a handshake with the listener, and a look into the ring.
const MEMORY: Duration = Duration::from_secs(2);
/// How much later than it should a client may send its SYN again. It should within a second (RFC 6298), and then each
/// time within twice as long as before; some still begin with three seconds.
const PATIENCE: Duration = Duration::from_secs(4);

/// So often a SYN is sent on once more because it came back. The way closes and opens while it is under way, or the
/// kernel finds nobody where the switch sees somebody: then the listener has to serve it.
const MOST_RETURNS: u8 = 3;

/// A client's turn among all that came to the route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) number: u64,
    pub(super) arrived: Instant,
    /// How often its SYN was sent on and came back.
    pub(super) returns: u8,
}

#[derive(Debug)]
struct Waiting {
    /// As it last came: its time stamps are the latest.
    syn: Syn,
    ticket: Ticket,
    seen: Instant,
    /// Dropped when its client has left; it says something when the listener has taken it over.
    stays: oneshot::Sender<()>,
}

#[derive(Debug)]
struct Gone {
    sequence: u32,
    ticket: Ticket,
    onward: Onward,
    at: Instant,
}

/// What is to be done about a SYN that came in.
#[derive(Debug)]
pub(super) enum Step {
    /// It waits from now on, until the receiver fails, or hears that the listener has it.
    Wait(Ticket, oneshot::Receiver<()>),
    /// It waits already.
    Merged,
    /// Its time was up before, or there is no room.
    Listener(Syn),
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    waiting: HashMap<Ends, Waiting>,
    gone: HashMap<Ends, Gone>,
    /// In the order in which they went.
    went: VecDeque<(Instant, Ends)>,
}

impl Ledger {
    /// A SYN came in; `fresh` is the ticket it gets if it is a new one, and `most` is how many may wait.
    pub(super) fn arrive(&mut self, syn: Syn, now: Instant, most: u32, fresh: impl FnOnce() -> Ticket) -> Step {
        self.forget_old(now);
        if let Some(waiting) = self.waiting.get_mut(&syn.ends) {
            if waiting.syn.sequence == syn.sequence {
                waiting.seen = now;
                waiting.syn = syn;
                return Step::Merged;
            }
            // Its client has given that attempt up, and begun another one.
            self.waiting.remove(&syn.ends);
        }
        let before = self.gone.remove(&syn.ends).filter(|gone| gone.sequence == syn.sequence);
        let ticket = match before {
            Some(Gone { onward: Onward::Listener, .. } | Gone { ticket: Ticket { returns: MOST_RETURNS, .. }, .. }) => {
                return self.turn_away(syn, before.as_ref(), now);
            }
            _ if self.waiting.len() >= most as usize => return self.turn_away(syn, before.as_ref(), now),
            Some(Gone { ticket, .. }) => Ticket { returns: ticket.returns + 1, ..ticket },
            None => fresh(),
        };
        let (stays, leaves) = oneshot::channel();
        self.waiting.insert(syn.ends, Waiting { syn, ticket, seen: now, stays });
        Step::Wait(ticket, leaves)
    }

    /// One that has been here before keeps its ticket; a new one gets its with the listener.
    fn turn_away(&mut self, syn: Syn, before: Option<&Gone>, now: Instant) -> Step {
        if let Some(Gone { ticket, .. }) = before {
            self.remember(syn.ends, syn.sequence, *ticket, Onward::Listener, now);
        }
        Step::Listener(syn)
    }

    /// Its client has sent RST for the attempt that this number fits.
    pub(super) fn leave(&mut self, ends: &Ends, sequence: u32) {
        let fits = |waiting: &Waiting| sequence.wrapping_sub(waiting.syn.sequence) <= 1;
        if self.waiting.get(ends).is_some_and(fits) {
            self.waiting.remove(ends);
        }
    }

    /// The SYN with this ticket goes on; `None` if it is not here any more.
    pub(super) fn take(&mut self, ends: &Ends, ticket: Ticket, onward: Onward, now: Instant) -> Option<Syn> {
        let syn = self.remove(ends, ticket)?.syn;
        self.remember(*ends, syn.sequence, ticket, onward, now);
        Some(syn)
    }

    /// The same for one that has no place here any more, and will not be known.
    pub(super) fn drop_out(&mut self, ends: &Ends, ticket: Ticket) -> Option<Syn> {
        self.remove(ends, ticket).map(|waiting| waiting.syn)
    }

    /// From when on its client counts as gone if it stays silent; `None` if it is not here.
    pub(super) fn silent_from(&self, ends: &Ends, ticket: Ticket) -> Option<Instant> {
        let waiting = self.waiting.get(ends).filter(|waiting| waiting.ticket == ticket)?;
        Some(waiting.seen + (waiting.seen - ticket.arrived) + PATIENCE)
    }

    /// The listener has accepted a connection: the ticket of its SYN, if that was parked before. One that still waits
    /// has come again and was not taken aside: its wait is the listener's from now on.
    pub(super) fn claim(&mut self, ends: &Ends, now: Instant) -> Option<Ticket> {
        self.forget_old(now);
        if let Some(Waiting { ticket, stays, .. }) = self.waiting.remove(ends) {
            // Its turn may have come at this moment.
            let _gone = stays.send(());
            return Some(ticket);
        }
        self.gone.remove(ends).map(|gone| gone.ticket)
    }

    fn remove(&mut self, ends: &Ends, ticket: Ticket) -> Option<Waiting> {
        self.waiting.get(ends).filter(|waiting| waiting.ticket == ticket)?;
        self.waiting.remove(ends)
    }

    fn remember(&mut self, ends: Ends, sequence: u32, ticket: Ticket, onward: Onward, now: Instant) {
        self.gone.insert(ends, Gone { sequence, ticket, onward, at: now });
        self.went.push_back((now, ends));
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some((at, ends)) = self.went.pop_front_if(|(at, _)| *at + MEMORY <= now) {
            // It may have gone again since.
            if self.gone.get(&ends).is_some_and(|gone| gone.at == at) {
                self.gone.remove(&ends);
            }
        }
    }
}

#[cfg(test)]
mod tests;
