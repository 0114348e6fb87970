//! The addresses of a route: takes clients, parks them while the route leads nowhere, connects each
//! to its node, and hands the pair to the datapath. Promises: every wait is bounded; nobody is let
//! through to a node the switch has left; after the hand-over nothing of a connection remains here.
//!
//! The way of a client: `accept` -> `admit` -> `client` -> the datapath, which dials its node, or, where something stands
//! in its way, -> (`park`) -> `connect` -> the datapath, or `reply` with the reason. Where the datapath takes packets aside:
//! `syns` -> `park` -> the datapath.
//! `queue`, `pace`, `ledger` and `balance` decide, and do no I/O.

mod accept;
mod admit;
mod balance;
mod bind;
mod client;
mod connect;
mod counts;
mod holder;
mod leave;
mod ledger;
mod pace;
mod park;
mod queue;
mod reply;
mod syns;
mod throttle;

#[cfg(test)]
mod tests;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::watch,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use self::bind::remedy;
use self::{accept::Door, client::Service, syns::Desk};
pub use self::{
    bind::BindError,
    counts::{AcceptError, Counts, Outcome, Refusal, Snapshot},
};
use crate::{
    config,
    datapath::{Datapath, Syns, Traffic},
    target::Slots,
};

/// The bound addresses of one route. Clients queue in the kernel until [`Self::run`].
#[derive(Debug)]
pub struct Listener {
    route: config::Route,
    sockets: Vec<(SocketAddr, std::net::TcpListener)>,
}

impl Listener {
    /// Binds every address of the route, or none.
    pub fn bind(route: &config::Route) -> Result<Self, BindError> {
        let sockets = route.listen.iter().map(|&address| bind::bind(address)).collect::<Result<_, _>>()?;
        Ok(Self { route: route.clone(), sockets })
    }

    /// Where clients may connect: port 0 has become a real one.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().map(|&(address, _)| address).collect()
    }

    /// Serves clients until `stop`; then closes the addresses, answers those who wait, and returns
    /// when the last of them is gone. An error means that the runtime took no listening socket.
    pub async fn run(
        self,
        slots: watch::Receiver<Slots>,
        datapath: Arc<dyn Datapath>,
        counts: Arc<Counts>,
        traffic: Arc<Traffic>,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let watch = |(_, socket)| {
            // SAFETY: the listening socket's file is its own, and goes with it.
            unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }.map_err(io::Error::from)
        };
        let sockets = self.sockets.into_iter().map(watch).collect::<io::Result<Vec<_>>>()?;
        let syns = datapath.syns();
        let gate = syns.as_ref().map(|syns| Arc::clone(&syns.gate));
        let (tasks, numbers) = (TaskTracker::new(), Arc::<AtomicU64>::default());
        let service = Arc::new(Service::new(&self.route, slots, datapath, counts, traffic, gate, tasks.clone()));
        let desk = syns.map(|Syns { gate, arrivals }| {
            let desk = Desk::new(&self.route.name, Arc::clone(&service), gate, Arc::clone(&numbers), tasks.clone());
            let desk = Arc::new(desk);
            tasks.spawn(Arc::clone(&desk).keep(arrivals, stop.clone()));
            desk
        });
        let door = Arc::new(Door::new(&self.route, Arc::clone(&service), numbers, desk, tasks.clone()));
        for socket in sockets {
            tasks.spawn(Arc::clone(&door).keep(socket, stop.clone()));
        }
        service.lot.usher(&stop).await;
        service.datapath().close();
        tasks.close();
        tasks.wait().await;
        Ok(())
    }
}
