//! Parks SYNs instead of connections where the datapath takes them aside: each waits in the lot like a client that
//! was accepted, and goes on as a packet. Promises: their number and their time are bounded as everybody's, and whose
//! time is up, or who finds no room, is answered by the listener's socket.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use super::{
    client::Service,
    counts::Outcome,
    ledger::{Ledger, Step, Ticket},
    queue::By,
    throttle::Throttle,
};
use crate::{
    config,
    datapath::{Arrival, Ends, Onward, Syn, SynGate},
};

/// How long a SYN that went on counts as trying: a handshake, which nobody tells us of.
const HANDSHAKE: Duration = Duration::from_millis(10);

/// The SYNs of a route.
#[derive(Debug)]
pub(super) struct Desk {
    name: config::Name,
    service: Arc<Service>,
    gate: Arc<dyn SynGate>,
    /// Arrivals of the route, by whichever way.
    numbers: Arc<AtomicU64>,
    ledger: Mutex<Ledger>,
    tasks: TaskTracker,
    troubles: Throttle,
}

impl Desk {
    pub(super) fn new(
        name: &config::Name,
        service: Arc<Service>,
        gate: Arc<dyn SynGate>,
        numbers: Arc<AtomicU64>,
        tasks: TaskTracker,
    ) -> Self {
        Self {
            name: Arc::clone(name),
            service,
            gate,
            numbers,
            ledger: Mutex::default(),
            tasks,
            troubles: Throttle::default(),
        }
    }

    /// Takes what comes until `stop`; then whoever takes it aside sends it to the listener.
    pub(super) async fn keep(self: Arc<Self>, mut arrivals: mpsc::Receiver<Arrival>, stop: CancellationToken) {
        loop {
            let arrival = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                arrival = arrivals.recv() => arrival,
            };
            match arrival {
                Some(Arrival::Syn(syn)) => self.take(syn),
                Some(Arrival::Gone(ends, sequence)) => self.ledger().leave(&ends, sequence),
                None => return,
            }
        }
    }

    /// The ticket of a connection that the listener has accepted, if its SYN was parked.
    pub(super) fn claim(&self, client: SocketAddr, door: SocketAddr) -> Option<Ticket> {
        // Frames say nothing of scopes.
        let plain = |at: SocketAddr| SocketAddr::new(at.ip(), at.port());
        self.ledger().claim(&Ends { client: plain(client), door: plain(door) }, Instant::now())
    }

    fn take(self: &Arc<Self>, syn: Syn) {
        let (ends, now) = (syn.ends, Instant::now());
        let fresh = || {
            let number = self.numbers.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Ticket { number, arrived: now, returns: 0 }
        };
        let step = self.ledger().arrive(syn, now, self.service.lot.most_syns(), fresh);
        match step {
            Step::Wait(ticket, leaves) => {
                let desk = Arc::clone(self);
                self.tasks.spawn(async move { desk.park(ends, ticket, leaves).await });
            }
            Step::Merged => {}
            Step::Listener(syn) => self.send(&syn, Onward::Listener),
        }
    }

    async fn park(&self, ends: Ends, ticket: Ticket, leaves: oneshot::Receiver<()>) {
        let Ok(mut stay) = self.service.lot.stay(By::Syn, ticket.number, ticket.arrived, false) else {
            let syn = self.ledger().drop_out(&ends, ticket);
            return syn.iter().for_each(|syn| self.send(syn, Onward::Listener));
        };
        let outcome = tokio::select! {
            biased;
            left = leaves => left.is_err().then_some(Outcome::Left),
            turn = stay.turn() => Some(turn.map_or(Outcome::Drained, |()| Outcome::Served)),
            () = sleep_until(ticket.arrived + self.service.park_timeout) => Some(Outcome::TimedOut),
            () = self.silence(&ends, ticket) => Some(Outcome::Left),
        };
        match outcome {
            Some(Outcome::Served) => {
                self.send_on(&ends, ticket, Onward::Node);
                self.service.counts.went_on(self.service.lot.generation());
                sleep(HANDSHAKE).await;
            }
            Some(Outcome::TimedOut | Outcome::Drained) => self.send_on(&ends, ticket, Onward::Listener),
            Some(Outcome::Left | Outcome::Full) | None => drop(self.ledger().drop_out(&ends, ticket)),
        }
        stay.end(outcome);
    }

    /// Returns when its client must have given up.
    async fn silence(&self, ends: &Ends, ticket: Ticket) {
        loop {
            let from = self.ledger().silent_from(ends, ticket);
            match from {
                Some(from) if Instant::now() < from => sleep_until(from).await,
                _ => return,
            }
        }
    }

    fn send_on(&self, ends: &Ends, ticket: Ticket, onward: Onward) {
        let syn = self.ledger().take(ends, ticket, onward, Instant::now());
        if let Some(syn) = syn {
            self.send(&syn, onward);
        }
    }

    /// Where it fails its client is no worse off than if the network had lost its SYN: it sends another one.
    fn send(&self, syn: &Syn, onward: Onward) {
        if let Err(error) = self.gate.send(syn, onward)
            && let Some(unsaid) = self.troubles.say()
        {
            warn!(route = %self.name, %error, unsaid, "a parked SYN cannot go on; its client has to send it again");
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
