//! The life of one accepted client up to its hand-over or its refusal. Nothing of it remains here
//! once the datapath has it.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::{
    net::TcpStream,
    sync::watch,
    time::{Instant, timeout_at},
};
use tracing::warn;

use super::{
    connect::{Dialer, Failure},
    counts::{Counts, Outcome, Refusal},
    leave::left,
    park::{Lot, Stay},
    queue::By,
    reply,
    throttle::Throttle,
};
use crate::{
    config,
    datapath::{Connection, Datapath, Place, SynGate, Traffic},
    target::{Lease, Slots},
};

/// A client that was let in.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) stream: TcpStream,
    pub(super) ip: IpAddr,
    /// Counts the arrivals of the route.
    pub(super) number: u64,
    pub(super) arrived: Instant,
    /// Its SYN was parked from then on.
    pub(super) has_waited: bool,
    pub(super) place: Place,
}

/// What every client of a route needs.
#[derive(Debug)]
pub(super) struct Service {
    name: config::Name,
    dialer: Dialer,
    pub(super) lot: Lot,
    pub(super) park_timeout: Duration,
    idle_timeout: Duration,
    datapath: Arc<dyn Datapath>,
    pub(super) counts: Arc<Counts>,
    traffic: Arc<Traffic>,
    failures: Throttle,
}

type Reached = (TcpStream, Lease);

impl Service {
    pub(super) fn new(
        route: &config::Route,
        slots: watch::Receiver<Slots>,
        datapath: Arc<dyn Datapath>,
        counts: Arc<Counts>,
        traffic: Arc<Traffic>,
        gate: Option<Arc<dyn SynGate>>,
    ) -> Self {
        Self {
            name: Arc::clone(&route.name),
            dialer: Dialer::new(slots.clone(), Arc::clone(&datapath), route.balance, route.connect_timeout),
            lot: Lot::new(route.park.limit, route.reconnect_rate, slots, Arc::clone(&counts), gate),
            park_timeout: route.park.timeout,
            idle_timeout: route.idle_timeout,
            datapath,
            counts,
            traffic,
            failures: Throttle::default(),
        }
    }

    pub(super) fn datapath(&self) -> &dyn Datapath {
        &*self.datapath
    }

    pub(super) async fn serve(&self, client: Client) {
        let mut stay = None;
        let reached = tokio::select! {
            biased;
            reached = self.reach(&client, &mut stay) => Some(reached),
            () = left(&client.stream) => None,
        };
        match reached {
            Some(Ok(reached)) => {
                end(stay, Outcome::Served);
                self.hand_over(client, reached);
            }
            Some(Err(refusal)) => {
                end(stay, if refusal == Refusal::Draining { Outcome::Drained } else { Outcome::TimedOut });
                self.counts.refused(refusal);
                reply::refuse(client.stream, refusal).await;
            }
            None => {
                end(stay, Outcome::Left);
                self.counts.abandoned();
            }
        }
    }

    /// Connects the client to a node, now or after a wait.
    async fn reach<'a>(&'a self, client: &Client, stay: &mut Option<Stay<'a>>) -> Result<Reached, Refusal> {
        let mut why = None;
        while self.lot.pass() {
            match self.dial(client.ip).await {
                Ok(reached) => return Ok(reached),
                Err(Failure::Moved) => {}
                Err(failure) => {
                    why = why_not(&failure);
                    break;
                }
            }
        }
        if client.has_waited && client.arrived + self.park_timeout <= Instant::now() {
            return Err(why.unwrap_or(Refusal::ParkTimeout));
        }
        let place = self.lot.stay(By::Socket, client.number, client.arrived, client.has_waited);
        let stay = stay.insert(place.map_err(|refusal| match refusal {
            Refusal::ParkFull => why.unwrap_or(refusal),
            other => other,
        })?);
        let waited = timeout_at(client.arrived + self.park_timeout, self.wait(client.ip, stay, &mut why)).await;
        waited.unwrap_or_else(|_| Err(why.unwrap_or(Refusal::ParkTimeout)))
    }

    /// Waits for turns and tries at each. Ends only by success or the listener's end.
    async fn wait(&self, ip: IpAddr, stay: &mut Stay<'_>, why: &mut Option<Refusal>) -> Result<Reached, Refusal> {
        loop {
            stay.turn().await?;
            match self.dial(ip).await {
                Ok(reached) => return Ok(reached),
                Err(failure) => *why = why_not(&failure),
            }
        }
    }

    /// Dials once and lets the lot know how it went.
    async fn dial(&self, ip: IpAddr) -> Result<Reached, Failure> {
        let dialled = self.dialer.dial(ip).await;
        match &dialled {
            Ok(_) => self.lot.succeeded(),
            Err(Failure::Moved) => self.lot.follow(),
            Err(Failure::NoNode) => {
                self.lot.follow();
                self.lot.failed();
            }
            Err(failure) => {
                self.lot.failed();
                self.tell(failure);
            }
        }
        dialled
    }

    fn tell(&self, failure: &Failure) {
        let Some(unsaid) = self.failures.say() else { return };
        match failure {
            Failure::Failed(node, error) => {
                warn!(route = %self.name, %node, %error, unsaid, "cannot connect to the node; its clients wait");
            }
            Failure::TimedOut(node) => {
                warn!(route = %self.name, %node, unsaid, "the node does not answer a connect; its clients wait");
            }
            Failure::NoNode | Failure::Moved => {}
        }
    }

    fn hand_over(&self, client: Client, (node, lease): Reached) {
        // Fails only if the runtime is shutting down; then both ends are closed here.
        let (Ok(client_end), Ok(node_end)) = (client.stream.into_std(), node.into_std()) else {
            return self.counts.refused(Refusal::Draining);
        };
        let generation = lease.generation;
        self.datapath.adopt(Connection {
            client: client_end,
            node: node_end,
            lease,
            traffic: Arc::clone(&self.traffic),
            idle_timeout: self.idle_timeout,
            place: client.place,
        });
        self.counts.handed_over(generation);
    }
}

/// What to tell the client if this was the last try.
fn why_not(failure: &Failure) -> Option<Refusal> {
    match failure {
        Failure::NoNode | Failure::Moved => None,
        Failure::Failed(..) => Some(Refusal::ConnectFailed),
        Failure::TimedOut(_) => Some(Refusal::ConnectTimeout),
    }
}

fn end(stay: Option<Stay<'_>>, outcome: Outcome) {
    if let Some(stay) = stay {
        stay.end(Some(outcome));
    }
}
