//! The life of one accepted client up to its hand-over or its refusal. Nothing of it remains here
//! once the datapath has it.

use std::{
    net::{IpAddr, SocketAddr, TcpStream as StdStream},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::TcpStream,
    runtime::Handle,
    sync::watch,
    time::{Instant, timeout_at},
};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};
use tracing::warn;

use super::{
    connect::{Begun, Dialer, Failure},
    counts::{Counts, Outcome, Refusal},
    leave::left,
    park::{Lot, Stay},
    queue::By,
    reply,
    throttle::Throttle,
};
use crate::{
    config,
    datapath::{Call, Caller, Connection, Datapath, Missed, Place, SynGate, Traffic},
    socket,
    target::{Lease, Slots},
};

/// What is known of a client that was let in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Visitor {
    pub(super) ip: IpAddr,
    /// Counts the arrivals of the route.
    pub(super) number: u64,
    pub(super) arrived: Instant,
    /// Its SYN was parked from then on.
    pub(super) has_waited: bool,
    /// It need not ask whether it may go on, for once.
    pub(super) let_through: bool,
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
    tasks: TaskTracker,
    runtime: Handle,
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
        tasks: TaskTracker,
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
            tasks,
            runtime: Handle::current(),
        }
    }

    pub(super) fn datapath(&self) -> &dyn Datapath {
        &*self.datapath
    }

    /// Where nothing stands in its way, the datapath dials for a client; all others have a task of their own.
    pub(super) fn welcome(self: &Arc<Self>, client: StdStream, place: Place, visitor: Visitor) {
        if !visitor.has_waited
            && let Some(slot) = self.dialer.choose(visitor)
            && self.lot.pass()
        {
            let errand = Errand { service: Arc::clone(self), visitor, node: slot.addr, _task: self.tasks.token() };
            return self.datapath.dial(Call {
                client,
                node: slot.addr,
                lease: slot.lease(),
                traffic: Arc::clone(&self.traffic),
                idle_timeout: self.idle_timeout,
                place,
                caller: Box::new(errand),
            });
        }
        self.spawn(client, place, visitor, None);
    }

    fn spawn(self: &Arc<Self>, client: StdStream, place: Place, visitor: Visitor, begun: Option<Begun>) {
        let service = Arc::clone(self);
        let serve = async move {
            match socket::watched(client) {
                Ok(stream) => service.serve(stream, place, visitor, begun).await,
                // The runtime is shutting down, or has no room for another socket.
                Err(_) => service.counts.refused(Refusal::Draining),
            }
        };
        self.tasks.spawn_on(serve, &self.runtime);
    }

    pub(super) async fn serve(&self, client: TcpStream, place: Place, visitor: Visitor, begun: Option<Begun>) {
        let mut stay = None;
        let reached = tokio::select! {
            biased;
            reached = self.reach(visitor, begun, &mut stay) => Some(reached),
            () = left(&client) => None,
        };
        match reached {
            Some(Ok(reached)) => {
                end(stay, Outcome::Served);
                self.hand_over(client, place, reached);
            }
            Some(Err(refusal)) => {
                end(stay, if refusal == Refusal::Draining { Outcome::Drained } else { Outcome::TimedOut });
                self.counts.refused(refusal);
                reply::say_farewell(client, refusal).await;
            }
            None => {
                end(stay, Outcome::Left);
                self.counts.abandoned();
                socket::close_in_order(&client);
            }
        }
    }

    /// Connects the client to a node, now or after a wait.
    async fn reach<'a>(
        &'a self,
        client: Visitor,
        mut begun: Option<Begun>,
        stay: &mut Option<Stay<'a>>,
    ) -> Result<Reached, Refusal> {
        let mut why = None;
        let mut let_through = client.let_through;
        while std::mem::take(&mut let_through) || self.lot.pass() {
            match self.dial(client, begun.take()).await {
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
        let waited = timeout_at(client.arrived + self.park_timeout, self.wait(client, stay, &mut why)).await;
        waited.unwrap_or_else(|_| Err(why.unwrap_or(Refusal::ParkTimeout)))
    }

    /// Waits for turns and tries at each. Ends only by success or the listener's end.
    async fn wait(&self, client: Visitor, stay: &mut Stay<'_>, why: &mut Option<Refusal>) -> Result<Reached, Refusal> {
        loop {
            stay.turn().await?;
            match self.dial(client, None).await {
                Ok(reached) => return Ok(reached),
                Err(failure) => *why = why_not(&failure),
            }
        }
    }

    /// Dials once and lets the lot know how it went.
    async fn dial(&self, client: Visitor, begun: Option<Begun>) -> Result<Reached, Failure> {
        // Most of a task's memory, and many wait for long without it.
        let dialled = Box::pin(self.dialer.dial(client, begun)).await;
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

    fn hand_over(&self, client: TcpStream, place: Place, (node, lease): Reached) {
        // Fails only if the runtime is shutting down; then both ends are closed here.
        let (Ok(client_end), Ok(node_end)) = (client.into_std(), node.into_std()) else {
            return self.counts.refused(Refusal::Draining);
        };
        let generation = lease.generation;
        self.datapath.adopt(Connection {
            client: client_end,
            node: node_end,
            lease,
            traffic: Arc::clone(&self.traffic),
            idle_timeout: self.idle_timeout,
            place,
        });
        self.counts.handed_over(generation);
    }
}

/// A client whose node the datapath dials.
#[derive(Debug)]
struct Errand {
    // Before the token: who waits for that drops the datapath, whose worker may be who drops this.
    service: Arc<Service>,
    visitor: Visitor,
    node: SocketAddr,
    /// The listener's end waits for it.
    _task: TaskTrackerToken,
}

impl Caller for Errand {
    fn stands(&self, lease: &Lease) -> bool {
        self.service.dialer.stands(self.node, lease)
    }

    fn reached(&self, generation: u64) {
        self.service.lot.succeeded();
        self.service.counts.handed_over(generation);
    }

    fn missed(&self, client: StdStream, place: Place, lease: Lease, why: Missed) {
        let (let_through, begun) = match why {
            Missed::Unbegun => (true, None),
            // To another node, or later: it has to ask anew whether it may.
            Missed::Moved => (false, None),
            Missed::Begun(socket) => (true, Some(Begun { node: self.node, lease, socket })),
        };
        self.service.spawn(client, place, Visitor { let_through, ..self.visitor }, begun);
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
