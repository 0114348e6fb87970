//! What the asking tasks tell the conductor, each stamped with the task's serial number: what a task
//! said before it was replaced is not taken for its successor's word.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{events::Event, fault::Fault, membership::Listing, probe_round::Probe};
use crate::{
    clock,
    election::{SentinelView, Sign},
};

#[derive(Debug)]
pub(super) struct Report {
    pub(super) serial: u64,
    pub(super) at: Instant,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// A configured name was looked up.
    Resolved {
        place: usize,
        answer: Result<Vec<SocketAddr>, Fault>,
    },
    Polled(Result<Poll, Fault>),
    /// Published about the group; a sign of a failover, if it is one.
    Event(Event, Option<Sign>),
    /// The subscription came up, or broke.
    Subscription(Result<(), Fault>),
    Probed {
        latency: Duration,
        result: Result<Probe, Fault>,
    },
}

/// What one poll of a Sentinel brought.
#[derive(Debug)]
pub(super) struct Poll {
    pub(super) view: SentinelView,
    pub(super) id: Option<String>,
    /// How many Sentinels it knows of, itself included.
    pub(super) counts: usize,
    /// Not asked for in every poll.
    pub(super) listing: Option<Listing>,
}

/// A task's way to the conductor.
#[derive(Debug, Clone)]
pub(super) struct Outlet {
    pub(super) serial: u64,
    pub(super) to: mpsc::Sender<Report>,
}

impl Outlet {
    pub(super) async fn send(&self, what: What) {
        // The conductor is gone only when it was told to stop, and then so are we.
        let _gone = self.to.send(Report { serial: self.serial, at: clock::now(), what }).await;
    }
}
