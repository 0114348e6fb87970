//! Takes connections from one listening socket. Promises: one bad connection does not stop the
//! next; a lack of files or memory slows the loop down, is logged once a minute, and never spins.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nix::errno::Errno;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::Semaphore,
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use super::{
    admit::Admission,
    client::{Service, Visitor},
    counts::{AcceptError, Refusal},
    ledger::Ticket,
    reply,
    syns::Desk,
    throttle::Throttle,
};
use crate::config;

const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How many clients beyond `max_connections` are told so with patience; the others at once.
const PATIENCE: usize = 256;

/// The door of a route, shared by all its listening sockets.
#[derive(Debug)]
pub(super) struct Door {
    name: config::Name,
    admission: Admission,
    service: Arc<Service>,
    /// Arrivals of the route so far, by whichever way.
    numbers: Arc<AtomicU64>,
    /// Of a route whose SYNs are parked.
    desk: Option<Arc<Desk>>,
    patience: Arc<Semaphore>,
    tasks: TaskTracker,
    troubles: Throttle,
}

impl Door {
    pub(super) fn new(
        route: &config::Route,
        service: Arc<Service>,
        numbers: Arc<AtomicU64>,
        desk: Option<Arc<Desk>>,
        tasks: TaskTracker,
    ) -> Self {
        Self {
            name: Arc::clone(&route.name),
            admission: Admission::new(route),
            service,
            numbers,
            desk,
            patience: Arc::new(Semaphore::new(PATIENCE)),
            tasks,
            troubles: Throttle::default(),
        }
    }

    /// Accepts until `stop`, then closes the socket.
    pub(super) async fn keep(self: Arc<Self>, listener: AsyncFd<TcpListener>, stop: CancellationToken) {
        let mut pause = SHORTEST_PAUSE;
        let mut stopped = pin!(stop.cancelled());
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut stopped => return,
                accepted = listener.async_io(Interest::READABLE, TcpListener::accept) => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    pause = SHORTEST_PAUSE;
                    self.welcome(stream, peer);
                }
                Err(error) => {
                    let class = classify(&error);
                    self.service.counts.accept_error(class);
                    if class == AcceptError::Connection {
                        continue;
                    }
                    self.tell(&error, class);
                    tokio::select! {
                        () = &mut stopped => return,
                        () = sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
                    }
                }
            }
        }
    }

    fn welcome(&self, stream: TcpStream, peer: SocketAddr) {
        let ip = peer.ip().to_canonical();
        let counts = &self.service.counts;
        counts.accepted();
        let place = match self.admission.admit(ip, self.service.datapath()) {
            Ok(place) => place,
            Err(refusal) => {
                counts.refused(refusal);
                return self.turn_away(stream, refusal);
            }
        };
        let waited = self.ticket(&stream, peer);
        let fresh =
            || Ticket { number: self.numbers.fetch_add(1, Ordering::Relaxed), arrived: Instant::now(), returns: 0 };
        let Ticket { number, arrived, .. } = waited.unwrap_or_else(fresh);
        let visitor = Visitor { ip, number, arrived, has_waited: waited.is_some(), let_through: false };
        self.service.welcome(stream, place, visitor);
    }

    /// That of its SYN, if it waited before.
    fn ticket(&self, stream: &TcpStream, peer: SocketAddr) -> Option<Ticket> {
        self.desk.as_ref()?.claim(peer, stream.local_addr().ok()?)
    }

    fn turn_away(&self, stream: TcpStream, refusal: Refusal) {
        if refusal == Refusal::NotAllowed {
            return drop(stream);
        }
        match Arc::clone(&self.patience).try_acquire_owned() {
            Ok(patience) => {
                self.tasks.spawn(async move {
                    reply::refuse(stream, refusal).await;
                    drop(patience);
                });
            }
            Err(_) => reply::refuse_at_once(&stream, refusal),
        }
    }

    fn tell(&self, error: &io::Error, class: AcceptError) {
        let Some(unsaid) = self.troubles.say() else { return };
        let remedy = match class {
            AcceptError::Files => {
                "raise the limit on open files (LimitNOFILE, ulimit -n, fs.file-max) or lower max_connections"
            }
            AcceptError::Memory => "give the machine or the cgroup more memory, or raise net.ipv4.tcp_mem",
            AcceptError::Connection | AcceptError::Other => "see the error",
        };
        warn!(route = %self.name, %error, unsaid, remedy, "cannot accept connections; slowing down");
    }
}

/// The classes of accept(2). What the network did to one connection shows there too (see its
/// manual); it says nothing about the next.
fn classify(error: &io::Error) -> AcceptError {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(
            Errno::ECONNABORTED
            | Errno::EPERM
            | Errno::EPROTO
            | Errno::EINTR
            | Errno::ENETDOWN
            | Errno::ENOPROTOOPT
            | Errno::EHOSTDOWN
            | Errno::ENONET
            | Errno::EHOSTUNREACH
            | Errno::ENETUNREACH,
        ) => AcceptError::Connection,
        Some(Errno::EMFILE | Errno::ENFILE) => AcceptError::Files,
        Some(Errno::ENOBUFS | Errno::ENOMEM) => AcceptError::Memory,
        _ => AcceptError::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_a_connection_are_not_lack_of_resources() {
        let class = |errno: Errno| classify(&errno.into());
        assert_eq!(class(Errno::ECONNABORTED), AcceptError::Connection);
        assert_eq!(class(Errno::EMFILE), AcceptError::Files);
        assert_eq!(class(Errno::ENFILE), AcceptError::Files);
        assert_eq!(class(Errno::ENOBUFS), AcceptError::Memory);
        assert_eq!(class(Errno::EINVAL), AcceptError::Other);
    }
}
