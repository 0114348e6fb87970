//! From a client's address to a connected node. Promises: what it returns leads to a node that is
//! still current at that instant; a node that the switch leaves is left at once, even in the middle
//! of a connect; a replica that fails is passed over for the next one.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::{TcpSocket, TcpStream},
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{accept::is_short_of_files, balance::pick, socket};
use crate::{
    config::Balance,
    datapath::Datapath,
    target::{Lease, Passage, Slot, Slots},
};

/// Longer than a handshake takes within a site.
const HEDGE: Duration = Duration::from_millis(100);
/// Between two looks for a free place in the table of open files.
const FOR_A_FILE: Duration = Duration::from_millis(5);
/// How long a replica that failed comes last, until the probes have noticed it too.
const SHUN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) enum Failure {
    /// No slot, or none whose gate is open.
    NoNode,
    /// The slots changed meanwhile; ask again.
    Moved,
    Failed(SocketAddr, io::Error),
    TimedOut(SocketAddr),
}

#[derive(Debug)]
pub(super) struct Dialer {
    slots: watch::Receiver<Slots>,
    datapath: Arc<dyn Datapath>,
    balance: Balance,
    timeout: Duration,
    ticket: AtomicUsize,
    shunned: Shunned,
}

impl Dialer {
    pub(super) fn new(
        slots: watch::Receiver<Slots>,
        datapath: Arc<dyn Datapath>,
        balance: Balance,
        timeout: Duration,
    ) -> Self {
        Self { slots, datapath, balance, timeout, ticket: AtomicUsize::new(0), shunned: Shunned::default() }
    }

    /// Connects to the slot that is `client`'s, or to the next best one.
    pub(super) async fn dial(&self, client: IpAddr) -> Result<(TcpStream, Lease), Failure> {
        let mut watch = self.slots.clone();
        let slots = Slots::clone(&watch.borrow_and_update());
        let ticket = self.ticket.fetch_add(1, Ordering::Relaxed);
        let mut tried = Vec::new();
        let mut last = Failure::NoNode;
        while let Some(slot) = self.candidate(&slots, client, ticket, &tried) {
            match self.attempt(&mut watch, slot).await {
                Err(failure @ (Failure::Failed(..) | Failure::TimedOut(_))) => {
                    self.shunned.add(slot.addr);
                    tried.push(slot.addr);
                    last = failure;
                }
                done => return done,
            }
        }
        Err(last)
    }

    fn candidate<'a>(
        &self,
        slots: &'a [Slot],
        client: IpAddr,
        ticket: usize,
        tried: &[SocketAddr],
    ) -> Option<&'a Slot> {
        let usable = |slot: &Slot| slot.gate.passes(slot.generation) && !tried.contains(&slot.addr);
        let find = |usable: &dyn Fn(&Slot) -> bool| {
            self.drawn_to(slots, client, usable).or_else(|| pick(self.balance, slots, client, ticket, usable))
        };
        if slots.len() > 1 && self.shunned.any() {
            let now = Instant::now();
            let trusted = |slot: &Slot| usable(slot) && !self.shunned.has(slot.addr, now);
            return find(&trusted).or_else(|| find(&usable));
        }
        find(&usable)
    }

    /// A client that the datapath leads somewhere by its address is led there from here too.
    fn drawn_to<'a>(&self, slots: &'a [Slot], client: IpAddr, usable: &dyn Fn(&Slot) -> bool) -> Option<&'a Slot> {
        if self.balance != Balance::SourceHash {
            return None;
        }
        let of = |key| slots.iter().find(|slot| slot.key == key);
        of(self.datapath.drawn_to(client, &|key| of(key).is_some_and(usable))?)
    }

    async fn attempt(&self, watch: &mut watch::Receiver<Slots>, slot: &Slot) -> Result<(TcpStream, Lease), Failure> {
        let lease = slot.lease();
        let connected = tokio::select! {
            biased;
            connected = timeout(self.timeout, connect(slot.addr)) => connected,
            () = moved(watch, slot) => return Err(Failure::Moved),
        };
        if lease.passage() != Passage::Free || !current(&watch.borrow(), slot) {
            return Err(Failure::Moved);
        }
        match connected {
            Ok(Ok(stream)) => Ok((stream, lease)),
            Ok(Err(error)) => Err(Failure::Failed(slot.addr, error)),
            Err(_) => Err(Failure::TimedOut(slot.addr)),
        }
    }
}

/// Dials a second time where the first is not answered soon: a SYN that is lost is sent again after a second only, and at a
/// switch everybody waits behind the one who tries first.
async fn connect(node: SocketAddr) -> io::Result<TcpStream> {
    let mut first = pin!(connect_once(node));
    if let Ok(connected) = timeout(HEDGE, first.as_mut()).await {
        return connected;
    }
    tokio::select! {
        connected = first => connected,
        // Whatever keeps the second from its way says nothing of the first, which goes on.
        Ok(connected) = connect_once(node) => Ok(connected),
    }
}

async fn connect_once(node: SocketAddr) -> io::Result<TcpStream> {
    let socket = loop {
        let made = if node.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        match made {
            // That is no fault of the node's, and those whom a switch has reset are closed in a moment.
            Err(error) if is_short_of_files(&error) => sleep(FOR_A_FILE).await,
            made => break made?,
        }
    };
    socket::tune(&socket)?;
    let stream = socket.connect(node).await?;
    // A connect to a dead local node can draw the node's own port and meet itself.
    if stream.local_addr()? == node {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(stream)
}

/// Returns when `slot` is no longer among the slots.
async fn moved(watch: &mut watch::Receiver<Slots>, slot: &Slot) {
    while current(&watch.borrow_and_update(), slot) {
        if watch.changed().await.is_err() {
            // The switch is gone: nothing moves any more.
            std::future::pending::<()>().await;
        }
    }
}

fn current(slots: &[Slot], slot: &Slot) -> bool {
    slots.iter().any(|now| now.addr == slot.addr && now.generation == slot.generation && now.key == slot.key)
}

/// Nodes that failed a moment ago. Holds at most as many as there are slots.
#[derive(Debug, Default)]
struct Shunned {
    any: AtomicBool,
    nodes: Mutex<Vec<(SocketAddr, Instant)>>,
}

impl Shunned {
    fn add(&self, node: SocketAddr) {
        let now = Instant::now();
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.retain(|&(other, until)| other != node && now < until);
        nodes.push((node, now + SHUN));
        self.any.store(true, Ordering::Relaxed);
    }

    /// Spares all others the lock.
    fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    fn has(&self, node: SocketAddr, now: Instant) -> bool {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.retain(|&(_, until)| now < until);
        self.any.store(!nodes.is_empty(), Ordering::Relaxed);
        nodes.iter().any(|&(other, _)| other == node)
    }
}
