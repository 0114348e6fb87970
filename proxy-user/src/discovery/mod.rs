//! Asks Sentinels and nodes, and hands what they say to the election as observations.
//! Promises that observations of one source come in order, that a Sentinel's view never comes before the
//! set it is counted in, and that all work and memory is bounded. Knows nothing of routes or datapaths.

mod backoff;
mod board;
mod conductor;
mod dial;
mod events;
mod fault;
mod health;
mod membership;
mod meter;
mod names;
mod node;
mod pace;
mod probe;
mod probe_round;
mod record;
mod reply;
mod report;
mod resolve;
mod rhythm;
mod seating;
mod seats;
mod sentinel;
mod sentinel_poll;
mod status;
mod tls;

#[cfg(test)]
pub(crate) mod tests;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, watch},
    task::{JoinError, JoinHandle},
};
use tokio_util::sync::CancellationToken;

use self::{board::Board, conductor::Conductor, dial::Dialer, resolve::Resolver};
pub use self::{
    fault::word,
    status::{NameStatus, NodeStatus, SentinelStatus, State, Status, role_word},
};
use crate::{
    clock,
    config::{Check, Group, Name},
    election::Observation,
};

/// One observation, and when the answer it comes from arrived.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    pub at: Instant,
    pub observation: Observation,
}

/// What every asking task of a group stands on.
#[derive(Debug)]
struct Ground {
    group: Name,
    check: Check,
    sentinels: Dialer,
    nodes: Dialer,
    resolver: Resolver,
}

impl Ground {
    fn new(group: &Group) -> Self {
        let timeout = group.check.timeout;
        Self {
            group: Arc::clone(&group.name),
            check: group.check.clone(),
            sentinels: Dialer::new(&group.sentinel_access, timeout),
            nodes: Dialer::new(&group.node_access, timeout),
            resolver: Resolver::new(timeout),
        }
    }
}

/// Told of what only a count is kept of, as it happens. Must return at once.
pub trait Tally: std::fmt::Debug + Send + Sync {
    /// The node answered a probe this long after it was sent.
    fn probed(&self, node: SocketAddr, took: Duration);
    /// A task ended by a bug; it is started again.
    fn task_failed(&self);
}

/// A running discovery of one group.
#[derive(Debug)]
pub struct Discovery {
    board: Arc<Mutex<Board>>,
    hurry: watch::Sender<Option<Instant>>,
    conductor: JoinHandle<()>,
}

/// Starts to discover `group`, in tasks of its own that end on `stop`. Needs a Tokio runtime. `out`
/// closes when discovery ended: before `stop`, that means by a bug, and [`Discovery::join`] says which.
pub fn start(group: &Group, out: mpsc::Sender<Seen>, tally: Box<dyn Tally>, stop: CancellationToken) -> Discovery {
    start_on(Arc::new(Ground::new(group)), group, out, tally, stop)
}

fn start_on(
    ground: Arc<Ground>,
    group: &Group,
    out: mpsc::Sender<Seen>,
    tally: Box<dyn Tally>,
    stop: CancellationToken,
) -> Discovery {
    let board = Arc::new(Mutex::new(Board::new(&group.name)));
    let (hurry, hurried) = watch::channel(None);
    let conductor = Conductor::new(ground, &group.source, Arc::clone(&board), out, tally);
    let conductor = tokio::spawn(conductor.run(hurried, stop));
    Discovery { board, hurry, conductor }
}

impl Discovery {
    pub fn status(&self) -> Status {
        self.board.lock().unwrap_or_else(PoisonError::into_inner).status(clock::now())
    }

    /// Probes every node each few milliseconds until then. A later call replaces an earlier one.
    pub fn hurry(&self, until: Instant) {
        self.hurry.send_replace(Some(until));
    }

    /// Waits until every task has ended, which they do on `stop`.
    pub async fn join(self) -> Result<(), JoinError> {
        self.conductor.await
    }
}
