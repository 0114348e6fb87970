//! What a route's listener did, counted. The labels are the label values of the metrics, and this
//! table is the only place they are written.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use tokio::sync::watch;

/// Defines a closed set of events with their labels.
macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $label:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label),+ }
            }
        }
    };
}

labels! {
    /// Why a client was turned away.
    Refusal {
        NotAllowed = "not-allowed",
        MaxConnections = "max-connections",
        ParkFull = "park-full",
        ParkTimeout = "park-timeout",
        ConnectFailed = "connect-failed",
        ConnectTimeout = "connect-timeout",
        Draining = "draining",
    }
}

labels! {
    /// How a client's wait ended.
    Outcome {
        Served = "served",
        TimedOut = "timed-out",
        /// The client went away while it waited.
        Left = "left",
        /// It was not let in: too many waited already.
        Full = "full",
        Drained = "drained",
    }
}

labels! {
    /// Why the kernel gave no connection.
    AcceptError {
        /// That one connection was gone already.
        Connection = "connection",
        /// The table of open files is full, the process's or the machine's.
        Files = "files",
        Memory = "memory",
        Other = "other",
    }
}

/// Counters of one route. They only grow, but for the number of those who wait now.
#[derive(Debug, Default)]
pub struct Counts {
    accepted: AtomicU64,
    handed_over: AtomicU64,
    abandoned: AtomicU64,
    parked_now: AtomicU64,
    parked: [AtomicU64; Outcome::ALL.len()],
    refused: [AtomicU64; Refusal::ALL.len()],
    accept_errors: [AtomicU64; AcceptError::ALL.len()],
    newest: AtomicU64,
    first: watch::Sender<Option<Instant>>,
}

/// [`Counts`] at one moment; each pair is in the order of its `ALL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub accepted: u64,
    /// Given to the datapath.
    pub handed_over: u64,
    /// Clients that went away before they were connected, parked or not.
    pub abandoned: u64,
    pub parked_now: u64,
    pub parked: Vec<(Outcome, u64)>,
    pub refused: Vec<(Refusal, u64)>,
    pub accept_errors: Vec<(AcceptError, u64)>,
}

impl Counts {
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            accepted: get(&self.accepted),
            handed_over: get(&self.handed_over),
            abandoned: get(&self.abandoned),
            parked_now: get(&self.parked_now),
            parked: Outcome::ALL.iter().map(|&o| (o, get(&self.parked[o as usize]))).collect(),
            refused: Refusal::ALL.iter().map(|&r| (r, get(&self.refused[r as usize]))).collect(),
            accept_errors: AcceptError::ALL.iter().map(|&e| (e, get(&self.accept_errors[e as usize]))).collect(),
        }
    }

    pub(super) fn accepted(&self) {
        add(&self.accepted);
    }

    /// When the first connection of the newest generation that has one was given to the datapath, or its parked SYN
    /// was sent on.
    pub fn first_of_generation(&self) -> watch::Receiver<Option<Instant>> {
        self.first.subscribe()
    }

    pub(super) fn handed_over(&self, generation: u64) {
        add(&self.handed_over);
        self.went_on(generation);
    }

    /// A client goes to a node of this generation, by whichever way.
    pub(super) fn went_on(&self, generation: u64) {
        // One load for nearly every connection: the first of a generation comes once in a switch.
        if self.newest.load(Ordering::Relaxed) < generation
            && self.newest.fetch_max(generation, Ordering::Relaxed) < generation
        {
            self.first.send_replace(Some(Instant::now()));
        }
    }

    pub(super) fn abandoned(&self) {
        add(&self.abandoned);
    }

    pub(super) fn refused(&self, refusal: Refusal) {
        add(&self.refused[refusal as usize]);
    }

    pub(super) fn accept_error(&self, error: AcceptError) {
        add(&self.accept_errors[error as usize]);
    }

    /// Takes one of `limit` waiting places; false: all are taken.
    pub(super) fn park(&self, limit: u32) -> bool {
        let parked = self.park_if(limit);
        if !parked {
            add(&self.parked[Outcome::Full as usize]);
        }
        parked
    }

    /// The same for one who may still find another place: not counted where all are taken.
    pub(super) fn park_if(&self, limit: u32) -> bool {
        let room = |now| (now < u64::from(limit)).then_some(now + 1);
        self.parked_now.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok()
    }

    /// Gives the place of [`Self::park`] back; without an outcome, the client waits on in another.
    pub(super) fn unpark(&self, outcome: Option<Outcome>) {
        self.parked_now.fetch_sub(1, Ordering::Relaxed);
        if let Some(outcome) = outcome {
            add(&self.parked[outcome as usize]);
        }
    }
}

impl Snapshot {
    pub fn parked(&self, outcome: Outcome) -> u64 {
        self.parked[outcome as usize].1
    }

    pub fn refused(&self, refusal: Refusal) -> u64 {
        self.refused[refusal as usize].1
    }

    pub fn accept_errors(&self, error: AcceptError) -> u64 {
        self.accept_errors[error as usize].1
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_of_a_newer_generation_is_noted() {
        let counts = Counts::default();
        let mut first = counts.first_of_generation();
        assert_eq!(*first.borrow_and_update(), None);
        counts.handed_over(2);
        assert!(first.borrow_and_update().is_some());
        for generation in [2, 1, 2] {
            counts.handed_over(generation);
        }
        assert!(!first.has_changed().unwrap());
        counts.handed_over(3);
        assert!(first.has_changed().unwrap());
        assert_eq!(counts.snapshot().handed_over, 5);
    }

    #[test]
    fn waiting_places_are_bounded_and_come_back() {
        let counts = Counts::default();
        assert!(counts.park(2) && counts.park(2) && !counts.park(2));
        counts.unpark(Some(Outcome::Left));
        assert!(counts.park(2));
        let seen = counts.snapshot();
        assert_eq!((seen.parked_now, seen.parked(Outcome::Left), seen.parked(Outcome::Full)), (2, 1, 1));
    }
}
